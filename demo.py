"""The main job on pictures that need no download: `make demo`.

Photographs that scikit-image carries in its wheel become saliency masks by three methods; the
masks are verified and shown. Every step is a public command, printed before it runs.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

PHOTOGRAPHS = {
    "astronaut": skimage.data.astronaut,
    "camera": skimage.data.camera,
    "cat": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "coins": skimage.data.coins,
    "moon": skimage.data.moon,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "retina": skimage.data.retina,
    "rocket": skimage.data.rocket,
}
METHODS = ("rbd", "mc", "gs")


def main(out: Path) -> None:
    """Run the demonstration into a folder; what an earlier run has done there is kept."""
    started = time.monotonic()
    photographs = out / "photographs"
    write_photographs(photographs)
    masks = [out / "masks" / method for method in METHODS]
    run("saliency-compute", photographs, out / "masks", "--method", ",".join(METHODS))
    for folder in masks:
        run("mask-shards", "verify", folder, "--images", photographs)
    page, sheet = out / "saliency.html", out / "saliency.png"
    for file in (page, sheet):
        file.unlink(missing_ok=True)
        run("mask-shards", "gallery", *masks, "--images", photographs, "-o", file)
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at:")
    print(f"  {page}   every photograph with its three masks, in a browser")
    print(f"  {sheet}    the same as one picture")


def write_photographs(folder: Path) -> None:
    """Save scikit-image's photographs as PNG files, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, load in PHOTOGRAPHS.items():
        path = folder / f"{name}.png"
        if not path.exists():
            Image.fromarray(np.asarray(load())).save(path)


def run(*command: object) -> None:
    """Run one of the project's commands, as installed beside this Python; stop if it fails."""
    words = [str(word) for word in command]
    print("\n$ " + shlex.join(words), flush=True)
    program = Path(sys.executable).parent / words[0]
    done = subprocess.run([str(program), *words[1:]])
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output"))

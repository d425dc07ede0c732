"""A saliency method is one module and one line of the registry."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from data.masks.read import MaskShards

REPOSITORY = Path(__file__).resolve().parents[2]

_CENTRE = """
import numpy as np

def compute(context, settings):
    h, w = context.image.shape[:2]
    y, x = np.mgrid[:h, :w]
    centre = np.exp(-((y / h - 0.5) ** 2 + (x / w - 0.5) ** 2) * 8)
    return centre * 0.5 + context.saliency("gs") * 0.5
"""

_REDNESS = """
import cv2
import numpy as np
import torch

class Redness:
    device = torch.device("cpu")
    batch_size = 3
    decode_side = 32
    parameters = {"shade": "red"}

    def prepare(self, image):
        return cv2.resize(image, (8, 8)).astype(np.float32).transpose(2, 0, 1) / 255

    def compute(self, batch, keys):
        return batch[:, 0] - batch[:, 1] / 2

    def finish(self, result, prepared, size):
        return cv2.resize(result, size[::-1]).clip(0, 1)

def build(settings, keys):
    return Redness()
"""

_PROGRAM = """
from saliency.methods import METHODS
from saliency.methods.protocol import Method

METHODS["centre"] = Method("centre", "a centre prior, joined with GS")
METHODS["redness"] = Method("redness", "how red", "saliency.methods.protocol:NetworkSettings")

if __name__ == "__main__":
    from dilo import saliency_compute

    saliency_compute()
"""


def command(folder: Path, program: str, *arguments: object) -> subprocess.CompletedProcess:
    (folder / "centre.py").write_text(_CENTRE)
    (folder / "redness.py").write_text(_REDNESS)
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def test_a_newcomer_is_a_module_and_a_line(photographs, tmp_path):
    options = ["--max-failures", 1, "--jobs", 2]
    out = tmp_path / "out"
    done = command(tmp_path, _PROGRAM, photographs, out, "--method", "centre,gs,rbd", *options)
    assert done.returncode == 0, done.stderr
    sets = {name: MaskShards(out / name) for name in ("centre", "gs", "rbd")}
    assert all(shards.method == name for name, shards in sets.items())
    centre, gs = (sets[name].read("a/disc-0.png").astype(int) for name in ("centre", "gs"))
    h, w = gs.shape
    y, x = np.mgrid[:h, :w]
    expected = np.exp(-((y / h - 0.5) ** 2 + (x / w - 0.5) ** 2) * 8) * 127.5 + gs / 2
    assert np.abs(centre - expected).max() <= 1.5
    assert "a centre prior, joined with GS" in command(tmp_path, _PROGRAM, "--help").stdout


def test_so_is_a_newcomer_by_a_network(photographs, tmp_path):
    arguments = [photographs, tmp_path / "out", "--method", "redness", "--max-failures", 1]
    done = command(tmp_path, _PROGRAM, *arguments, "--jobs", 2, "--shard-size", 5)
    assert done.returncode == 0, done.stderr
    shards = MaskShards(tmp_path / "out")
    assert (shards.method, shards.parameters["shade"]) == ("redness", "red")
    for key in ("a/disc-0.png", "a/disc-5.png"):
        image = cv2.imread(str(photographs / key))[..., ::-1].astype(float)
        expected = np.clip(image[..., 0] - image[..., 1] / 2, 0, 255).mean()
        assert abs(shards.read(key).mean() - expected) < 8


def test_without_its_line_it_is_refused(photographs, tmp_path):
    program = "from dilo import saliency_compute; saliency_compute()"
    out = tmp_path / "out"
    done = command(tmp_path, program, photographs, out, "--method", "centre")
    assert done.returncode == 2 and "--method is 'centre'; choose from rbd" in done.stderr
    assert not out.exists()

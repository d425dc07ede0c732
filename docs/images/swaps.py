"""Draw swaps.jpg from scikit-image's photographs: python -m docs.images.swaps"""

import subprocess
import sys
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image

from data.gallery import Gallery, Row
from pretrain.pictures import views_gallery
from pretrain.views.augment import DeviceAugment
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, moco_v2

SIDE = 112
ROWS = {  # caption: background, whether the negative is shown, crop
    "box-swap": ("box-swap", False, "scale"),
    "mask-swap": ("mask-swap", False, "scale"),
    "constant (BG_RM)": ("constant", False, "scale"),
    "background_negative": ("mask-swap", True, "scale"),
    "crop = object": ("grayscale", False, "object"),
}
COLUMNS = ["photograph", "crop or cut-out", "mask", "pasted", "saliency, box", "view"]


def main() -> None:
    """Draw a photograph for each kind of view."""
    with tempfile.TemporaryDirectory() as folder:
        images, masks = Path(folder) / "images", Path(folder) / "masks"
        images.mkdir()
        for name in ("astronaut", "chelsea", "coffee", "rocket", "coins", "retina"):
            picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
            picture.thumbnail((400, 400))
            picture.save(images / f"{name}.png")
        command = [sys.executable, "-m", "saliency", images, masks, "--method", "rbd"]
        subprocess.run([*map(str, command), "--jobs", "1"], check=True)
        rows = [row for caption in ROWS for row in drawn(caption, images, masks)]
    Gallery("Views with other images", [], COLUMNS, rows).draw(side=SIDE).convert("RGB").save(
        Path(__file__).with_name("swaps.jpg"), quality=88
    )


def drawn(caption: str, images: Path, masks: Path) -> list[Row]:
    """Return the row of a kind of view."""
    background, negative, crop = ROWS[caption]
    changes = {"views": 1, "blur": 0.0, "hue": 0.0, "crop": crop}
    recipe = moco_v2(SIDE).model_copy(update=changes)
    loader = build_loader(
        images, masks, recipe=recipe, seed=1, batch_size=6, saliency=True, negative=negative,
        paste=PasteSettings(paste_probability=1, background=background),
    )  # fmt: skip
    gallery = views_gallery(next(iter(loader)), DeviceAugment(recipe), images, loader.keys)
    rows = [row for row in gallery.rows if row.caption == "coffee.png"]
    return [Row(caption, [row.cells[0], *row.cells[-5:]]) for row in rows]


if __name__ == "__main__":
    main()

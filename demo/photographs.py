"""Photographs that scikit-image carries in its wheel, as PNG files."""

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


def write_photographs(folder: Path) -> None:
    """Save the photographs as PNG files, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, load in PHOTOGRAPHS.items():
        path = folder / f"{name}.png"
        if not path.exists():
            Image.fromarray(np.asarray(load())).save(path)

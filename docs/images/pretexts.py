"""Draw pretexts.jpg from scikit-image's photographs: python -m docs.images.pretexts"""

from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
from torch.nn import functional

from data.gallery import Cell, Gallery, Row
from data.images.crop import centre_crop
from pretrain.methods.colourisation import STRIDE, colour_bins, soft_code
from pretrain.methods.rotation import rotations
from pretrain.parts.colour import lab

SIDE = 128


def main() -> None:
    """Draw what rotation and colourisation see and what they are to answer, a row a photograph."""
    rows = []
    for name in ("astronaut", "coffee", "rocket"):
        crop = centre_crop(getattr(skimage.data, name)(), SIDE)
        image = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None]
        turned = rotations(image).permute(0, 2, 3, 1).numpy()
        cells = [Cell(picture, f"{90 * quarter}") for quarter, picture in enumerate(turned)]
        lightness, *ab = lab(image / 255).unbind(1)
        ab = functional.avg_pool2d(torch.stack(ab, 1), STRIDE).permute(0, 2, 3, 1)
        bins = torch.from_numpy(colour_bins())
        index, weight = soft_code(ab, bins)
        coded = (bins[index] * weight[..., None]).sum(-2)[0].numpy()
        gray = (lightness[0] * 2.55).round().to(torch.uint8).numpy()
        cells += [
            Cell(gray, "input: L"),
            Cell(_coloured(lightness[0].numpy(), coded), "answer: ab"),
        ]
        rows.append(Row(name, cells))
    columns = ["rotation", "", "", "", "colourisation", ""]
    Gallery("Pretexts", [], columns, rows).draw(side=SIDE).convert("RGB").save(
        Path(__file__).with_name("pretexts.jpg"), quality=88
    )


def _coloured(lightness: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """An image's own lightness (S, S) with the target's colours (S / 4, S / 4, 2), as RGB."""
    colours = cv2.resize(ab, lightness.shape[::-1], interpolation=cv2.INTER_LINEAR)
    values = np.dstack([lightness, colours]).astype(np.float32)
    rgb = cv2.cvtColor(values, cv2.COLOR_LAB2RGB)
    return (rgb.clip(0, 1) * 255).round().astype(np.uint8)


if __name__ == "__main__":
    main()

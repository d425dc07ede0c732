"""Draw copy-paste.jpg from scikit-image's photographs: python -m docs.images.copy_paste"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision import tv_tensors

import saliency
from pretrain.views.copy_paste import CopyPaste

SIDE = 150


class _Brick:
    """One texture as a source of backgrounds."""

    def __len__(self) -> int:
        return 1

    def read(self, _: int) -> np.ndarray:
        """Return bricks, uint8 (512, 512, 3)."""
        return np.repeat(skimage.data.brick()[..., None], 3, 2)


def main() -> None:
    """Draw a row for each photograph: image, mask, and the pasted variants."""
    titles = ("image", "mask (RBD)", "grayscale", "grayscale, gaussian", "texture")
    names = ("astronaut", "coffee", "rocket")
    sheet = Image.new("RGB", (len(titles) * (SIDE + 4), 20 + len(names) * (SIDE + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for column, title in enumerate(titles):
        draw.text((column * (SIDE + 4), 2), title, "black", font)
    for row, name in enumerate(names):
        photograph = Image.fromarray(getattr(skimage.data, name)())
        side = min(photograph.size)
        left = (photograph.width - side) // 2
        photograph = photograph.crop((left, 0, left + side, side)).resize((300, 300))
        pixels = np.array(photograph)
        mask = np.rint(saliency.rbd(pixels) * 255).astype(np.uint8)
        image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        torch.manual_seed(row)
        variants = [
            CopyPaste(probability=1)(image, tv_tensors.Mask(torch.from_numpy(mask))),
            CopyPaste(probability=1, blend="gaussian")(
                image, tv_tensors.Mask(torch.from_numpy(mask))
            ),
            CopyPaste(_Brick(), probability=1)(image, tv_tensors.Mask(torch.from_numpy(mask))),
        ]
        cells = [pixels, np.repeat(mask[..., None], 3, 2)]
        cells += [variant.permute(1, 2, 0).numpy() for variant in variants]
        for column, cell in enumerate(cells):
            place = (column * (SIDE + 4), 20 + row * (SIDE + 4))
            sheet.paste(Image.fromarray(cell).resize((SIDE, SIDE), Image.LANCZOS), place)
    sheet.save(Path(__file__).with_name("copy-paste.jpg"), quality=90)


if __name__ == "__main__":
    main()

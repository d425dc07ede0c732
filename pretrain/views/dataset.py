"""What a worker does: decode an image, cut its views, their masks and backgrounds by one box.

Copy-paste commutes with cropping, so only the cut-outs are composited, at the output size and on
the device (`augment`). The mask's blur happens here, before the crop, on the mask at its
own resolution, because it must see what lies beyond the crop's border.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from data.backgrounds import BackgroundSource
from data.errors import UserError
from data.images.crop import crop_resize, reduction_for, snap_box
from data.images.decode import UnreadableImage, open_image
from data.images.listing import key_path
from data.keys import Keys, printable
from data.loading import Request, as_tensor, new_tensor
from data.masks.read import MaskShards
from pretrain.views.copy_paste import blur_mask, cut_background, cut_mask
from pretrain.views.draws import COLUMN, PARAMETERS, Draw, draw_view, uniforms
from pretrain.views.mask_rows import MISSING, MaskRows
from pretrain.views.recipes import PasteSettings, ViewRecipe

Batch = dict[str, torch.Tensor | list[str] | int]

REPLACEMENTS = 100  # so many unreadable images in a row mean that the folder is gone
_REPLACEMENT_STREAM = 2  # of the seed; 0 is the views', 1 the order's


class _Read(NamedTuple):
    """An image that a row of the batch shows: its pixels, or its file as a plain JPEG.

    reduction : the pixels' sides are the image's divided by it.
    """

    index: int
    size: tuple[int, int]
    draws: list[Draw]
    pixels: np.ndarray | None = None
    reduction: int = 1
    jpeg: np.ndarray | None = None


@dataclass
class ViewDataset:
    """Loads whole batches of views; `dataset[Request(epoch, indices)]`.

    A batch depends on the seed and the request alone, whichever process loads it.

    images : the image folder.
    keys : its images.
    recipe, paste : how views are made; paste None: nothing is pasted.
    masks, rows : the mask shards and each image's row in them.
    source : of backgrounds; None for gray ones.
    labels : int64 (N,), or None.
    keep_jpegs : hand over plain JPEGs as they are, for `pretrain.views.device_decode`.
    saliency : load each view's mask, pasted or not.
    """

    images: str | os.PathLike
    keys: Keys
    recipe: ViewRecipe
    seed: int
    paste: PasteSettings | None = None
    masks: MaskShards | None = None
    rows: MaskRows | None = None
    source: BackgroundSource | None = None
    labels: np.ndarray | None = None
    keep_jpegs: bool = False
    saliency: bool = False

    def __getitem__(self, request: Request) -> Batch:
        """Return a batch (`pretrain.views.loader.Loader`)."""
        epoch, indices = request
        count, views = len(indices), self.recipe.views
        batch: Batch = self._new_pixels(count)
        pixels = {name: tensor.numpy() for name, tensor in batch.items()}
        shown = np.empty(count, np.int64)
        parameters = np.empty((count, views, len(PARAMETERS)), np.float32)
        crops = np.empty((count, views, 4), np.float32)
        replaced: list[tuple[int, str]] = []
        skipped: list[str] = []  # backgrounds
        kept: dict[int, np.ndarray] = {}  # JPEGs by their row in the batch
        for row, index in enumerate(indices):
            read = self._read(epoch, int(index), replaced)
            shown[row] = read.index
            if read.jpeg is not None:
                kept[row] = read.jpeg
            mask = _MaskOnce(self, read.index, read.size)
            for view, draw in enumerate(read.draws):
                if read.pixels is not None:  # `image` has no rows for kept JPEGs
                    box = tuple(side // read.reduction for side in draw.box)
                    cut = crop_resize(read.pixels, box, self.recipe.image_size)
                    pixels["image"][row - len(kept), view] = cut
                parameters[row, view], crops[row, view] = draw.parameters, draw.box
                parameters[row, view, COLUMN["paste"]] = draw.paste and mask.usable
                skipped += self._cut(pixels, (row, view), draw, mask)
        batch["image"] = batch["image"][: count - len(kept)]
        arrays = {
            "index": shown,
            "parameters": parameters,
            "crops": crops,
            "replaced": np.array([index for index, _ in replaced], np.int64),
            "missing": self.missing(shown),
        }
        if self.keep_jpegs:
            arrays["jpeg"] = np.concatenate([np.empty(0, np.uint8), *kept.values()])
            arrays["jpeg_bytes"] = np.array([len(file) for file in kept.values()], np.int64)
            arrays["jpeg_row"] = np.array(list(kept), np.int64)
            arrays["requested"] = np.asarray(indices, np.int64)
            batch["epoch"] = epoch
        if self.labels is not None:
            arrays["label"] = self.labels[shown]
        batch |= {name: as_tensor(array) for name, array in arrays.items()}
        batch["replaced_reasons"] = [
            f"{printable(self.keys[index])}: {reason}" for index, reason in replaced
        ]
        batch["backgrounds_skipped"] = [f"background {name}" for name in skipped]
        return batch

    def _new_pixels(self, count: int) -> dict[str, torch.Tensor]:
        """Return what is large of a batch, still empty, where the training process reads it."""
        size = self.recipe.image_size
        shape = (count, self.recipe.views, size, size)
        shapes = {"image": (*shape, 3)}
        if self.paste is not None:
            shapes["mask"] = shape
            if self.source is not None:
                shapes["background"] = (*shape, 3)
        if self.saliency:
            shapes["saliency"] = shape
        return {name: new_tensor(shape, torch.uint8) for name, shape in shapes.items()}

    def _cut(
        self, pixels: dict[str, np.ndarray], row: tuple[int, int], draw: Draw, mask: _MaskOnce
    ) -> list[str]:
        """Write a view's mask, background and saliency; return the backgrounds skipped."""
        skipped: list[str] = []
        pasted = draw.paste and mask.usable
        if "mask" in pixels:
            pixels["mask"][row] = mask.crop(draw, draw.blur_mask) if pasted else 255
        if "background" in pixels:
            behind: np.ndarray | int = 0
            if pasted:
                behind, skipped = cut_background(
                    self.source, draw.background, draw.offset, draw.box, mask.image_size,
                    (self.recipe.image_size,) * 2,
                )  # fmt: skip
            pixels["background"][row] = behind
        if "saliency" in pixels:
            pixels["saliency"][row] = mask.crop(draw) if mask.usable else 0
        return skipped

    def _draw(self, epoch: int, index: int, image_size: tuple[int, int]) -> list[Draw]:
        """Return how each view is made of an image of this size."""
        return [
            draw_view(self.recipe, self.paste, uniforms(self.seed, epoch, index, view), image_size)
            for view in range(self.recipe.views)
        ]

    def _read(self, epoch: int, index: int, replaced: list[tuple[int, str]]) -> _Read:
        """Read an image, or for an unreadable one another, by (epoch, index).

        A JPEG much larger than its views is reduced while it is decoded; its boxes are then moved
        by less than a pixel of the view, so that masks and backgrounds still follow the same ones.
        """
        others: np.random.Generator | None = None
        for _ in range(REPLACEMENTS):
            try:
                image = open_image(key_path(self.images, self.keys[index]))
                draws = self._draw(epoch, index, image.size)
                factor = reduction_for([draw.box for draw in draws], self.recipe.image_size)
                jpeg = image.jpeg() if self.keep_jpegs and factor == 1 else None
                if jpeg is not None:
                    return _Read(index, image.size, draws, jpeg=jpeg)
                pixels, factor = image.decode(factor)
                if factor > 1:
                    boxes = [snap_box(draw.box, factor, image.size) for draw in draws]
                    draws = [replace(d, box=box) for d, box in zip(draws, boxes, strict=True)]
                return _Read(index, image.size, draws, pixels, factor)
            except UnreadableImage as error:
                replaced.append((index, str(error)))
            if others is None:
                others = np.random.Generator(
                    np.random.Philox(
                        key=[self.seed, _REPLACEMENT_STREAM], counter=[0, 0, index, epoch]
                    )
                )
            index = int(others.integers(len(self.keys)))
        key, reason = self.keys[replaced[-1][0]], replaced[-1][1]
        raise UserError(
            f"{REPLACEMENTS} images in a row in {os.fspath(self.images)!r} cannot be read, the "
            f"last of them {key!r} ({reason}); make the folder readable again."
        )

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Return those of the images that have no mask."""
        if self.rows is None:
            return np.empty(0, np.int64)
        return indices[self.rows.rows[indices] == MISSING]


class _MaskOnce:
    """An image's mask, read and blurred only when a view asks for it, and then once."""

    def __init__(self, dataset: ViewDataset, index: int, image_size: tuple[int, int]) -> None:
        self._dataset = dataset
        self.image_size = image_size
        self._row = -1 if dataset.rows is None else int(dataset.rows.rows[index])
        self._masks: dict[bool, np.ndarray] = {}

    @property
    def usable(self) -> bool:
        """Whether there is a mask with something in it."""
        return self._row >= 0

    def crop(self, draw: Draw, blurred: bool = False) -> np.ndarray:
        """Return the mask of a view, uint8 (S, S)."""
        if False not in self._masks:
            self._dataset.masks.check_size(self._row, self.image_size)
            self._masks[False] = self._dataset.masks.read(self._row)
        if blurred not in self._masks:
            sigma = self._dataset.paste.sigma
            self._masks[True] = blur_mask(self._masks[False], sigma, self.image_size)
        side = self._dataset.recipe.image_size
        return cut_mask(self._masks[blurred], draw.box, self.image_size, (side, side))

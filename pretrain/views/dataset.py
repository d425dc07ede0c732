"""What a worker does: decode an image, cut its views, their masks and backgrounds by one box.

Copy-paste commutes with cropping, so only the cut-outs are composited, at the output size and on
the device (`augment`). The mask's blur happens here, before the crop, on the mask at its
own resolution, because it must see what lies beyond the crop's border.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from data.backgrounds import BACKGROUNDS, BackgroundSource, gray_level
from data.backgrounds.partner import salient_box
from data.errors import UserError
from data.images.crop import Box, crop_resize, reduction_for, snap_box
from data.images.decode import UnreadableImage, open_image
from data.images.listing import key_path
from data.keys import Keys, printable
from data.loading import Request, as_tensor, new_tensor
from data.masks.read import MaskShards
from pretrain.views.copy_paste import blur_mask, cut_background, cut_mask
from pretrain.views.draws import (
    COLUMN,
    PARAMETERS,
    Draw,
    draw_view,
    later_uniforms,
    needs_later,
    uniforms,
)
from pretrain.views.mask_rows import MaskRows
from pretrain.views.recipes import PasteSettings, ViewRecipe
from pretrain.views.swaps import Numbers, Placement, Swaps, own_background, random_frame

Batch = dict[str, torch.Tensor | list[str] | int]

REPLACEMENTS = 100  # so many unreadable images in a row mean that the folder is gone
_BOX = slice(COLUMN["box_top"], COLUMN["box_width"] + 1)
_REPLACEMENT_STREAM = 2  # of the seed; 0 is the views', 1 the order's


class _Read(NamedTuple):
    """An image that a row of the batch shows: its pixels, or its file as a plain JPEG.

    reduction : the pixels' sides are the image's divided by it.
    unmoved : views that were to move the object, and there is none that could be.
    remark : what is damaged inside it.
    """

    index: int
    size: tuple[int, int]
    mask: _MaskOnce
    draws: list[Draw]
    unmoved: int
    pixels: np.ndarray | None = None
    reduction: int = 1
    jpeg: np.ndarray | None = None
    remark: str = ""

    def cut(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """Return a box of the image, uint8 (*size, 3)."""
        start, sides = (tuple(end // self.reduction for end in part) for part in (box[:2], box[2:]))
        return crop_resize(self.pixels, (*start, *(max(1, side) for side in sides)), size)


class _Written(NamedTuple):
    """What became of a view.

    box : what of the image it shows.
    unmoved : its partner has no object that could be swapped.
    """

    box: Box
    pasted: bool
    skipped: list[str]
    unmoved: bool


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
    swaps : partners; needed for backgrounds that are another image, and for `negative`.
    negative : after the views add one more, another image's object on the first view's background.
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
    swaps: Swaps | None = None
    negative: bool = False

    def __getitem__(self, request: Request) -> Batch:
        """Return a batch (`pretrain.views.loader.Loader`)."""
        epoch, indices = request
        count, views = len(indices), self.recipe.views
        batch: Batch = self._new_pixels(count)
        pixels = {name: tensor.numpy() for name, tensor in batch.items()}
        shown = np.empty(count, np.int64)
        parameters = np.empty((count, views + self.negative, len(PARAMETERS)), np.float32)
        crops = np.empty((count, views + self.negative, 4), np.float32)
        replaced: list[tuple[int, str]] = []
        damaged: list[tuple[int, str]] = []
        skipped: list[str] = []  # backgrounds
        unmoved = np.zeros(count, np.int64)
        kept: dict[int, np.ndarray] = {}  # JPEGs by their row in the batch
        for row, index in enumerate(indices):
            read = self._read(epoch, int(index), replaced)
            shown[row], unmoved[row] = read.index, read.unmoved
            if read.remark:
                damaged.append((read.index, read.remark))
            if read.jpeg is not None:
                kept[row] = read.jpeg
            rows = {name: array[row] for name, array in pixels.items() if name != "image"}
            if read.pixels is not None:  # `image` has no rows for kept JPEGs
                rows["image"] = pixels["image"][row - len(kept)]
            for view, draw in enumerate(read.draws):
                done = self._write(rows, epoch, view, read, draw)
                skipped += done.skipped
                unmoved[row] += done.unmoved
                parameters[row, view], crops[row, view] = draw.parameters, done.box
                parameters[row, view, COLUMN["paste"]] = done.pasted
                if done.box != draw.box:
                    parameters[row, view, _BOX] = done.box
            if self.negative:
                draw, names = self._write_negative(rows, epoch, read, parameters[row, 0])
                skipped += names
                parameters[row, views], crops[row, views] = draw.parameters, draw.box
            del read  # a large image is free before the next one is opened
        batch["image"] = batch["image"][: count - len(kept)]
        arrays = {
            "index": shown,
            "parameters": parameters,
            "crops": crops,
            "unmoved": unmoved,
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
        for name, told in (("replaced", replaced), ("damaged", damaged)):
            batch[name] = [f"{printable(self.keys[index])}: {reason}" for index, reason in told]
        batch["backgrounds_skipped"] = [f"background {name}" for name in skipped]
        return batch

    def _new_pixels(self, count: int) -> dict[str, torch.Tensor]:
        """Return what is large of a batch, still empty, where the training process reads it."""
        size = self.recipe.image_size
        shape = (count, self.recipe.views + self.negative, size, size)
        shapes = {"image": (*shape, 3)}
        if self.paste is not None or self.negative:
            shapes["mask"] = shape
        if self.source is not None or self._partner or self.negative:
            shapes["background"] = (*shape, 3)
        if self.saliency:
            shapes["saliency"] = shape
        return {name: new_tensor(shape, torch.uint8) for name, shape in shapes.items()}

    @property
    def _partner(self) -> str | None:
        """How backgrounds are taken of another image, if they are."""
        return None if self.paste is None else BACKGROUNDS[self.paste.background].partner

    def _write(
        self, rows: dict[str, np.ndarray], epoch: int, view: int, read: _Read, draw: Draw
    ) -> _Written:
        """Write a view's pixels: image, mask, background, saliency."""
        side, mask = self.recipe.image_size, read.mask
        numbers = (self.seed, epoch, read.index, view)
        placement, behind, skipped, unmoved = Placement(draw.box, (0, 0, side, side)), 0, [], False
        pasted = draw.paste and (mask.usable or draw.rectangle)
        if pasted and self._partner == "over":
            partner, skipped = self.swaps.over(numbers, draw)
            pasted, unmoved = partner is not None, partner is None
            behind, placement = partner or (behind, placement)
        elif pasted:
            if "background" in rows:
                behind, skipped = self._behind(numbers, draw, read.size)
            if draw.frame is not None:
                placement = Placement(draw.cut, random_frame(draw.cut, side, draw.frame))
        if "image" in rows:
            rows["image"][view] = placement.paste(side, read.cut)
        if "mask" in rows:
            rows["mask"][view] = placement.paste(side, self._alpha(draw, mask)) if pasted else 255
        if "background" in rows:
            rows["background"][view] = behind
        if "saliency" in rows:
            rows["saliency"][view] = placement.paste(side, mask.crop) if mask.usable else 0
        return _Written(placement.cut, pasted, skipped, unmoved)

    def _behind(
        self, numbers: Numbers, draw: Draw, whole: tuple[int, int]
    ) -> tuple[np.ndarray | float, list[str]]:
        """Return a view's background, and those that were skipped; whole: the image's size."""
        side = (self.recipe.image_size,) * 2
        if draw.frame is not None:  # it lies behind the view, not behind the image
            whole, draw = side, replace(draw, box=(0, 0, *side))
        if self._partner is not None:
            return self.swaps.free(numbers, draw, whole)
        if self.source is None:
            return gray_level(draw.background), []
        return cut_background(self.source, draw.background, draw.offset, draw.box, whole, side)

    def _alpha(self, draw: Draw, mask: _MaskOnce) -> Callable[[Box, tuple[int, int]], np.ndarray]:
        if self._partner == "over" or draw.rectangle:  # over: nothing may show of the object below
            return lambda box, size: np.full(size, 255, np.uint8)
        return lambda box, size: mask.crop(box, size, draw.blur_mask)

    def _write_negative(
        self, rows: dict[str, np.ndarray], epoch: int, read: _Read, first: np.ndarray
    ) -> tuple[Draw, list[str]]:
        """Write another image's object on the first view's own background.

        first : parameters of the first view. Where that is not pasted, its own picture is the
            background, its object covered; where that cannot be, a gray level is.
        """
        view, side = self.recipe.views, self.recipe.image_size
        negative, skipped = self.swaps.negative((self.seed, epoch, read.index, view))
        behind = None
        if not first[COLUMN["paste"]]:
            if read.mask.usable:
                saliency = read.mask.crop(read.draws[0].box, (side, side))
                behind = own_background(rows["image"][0], saliency)
        elif self._partner == "over":
            behind = own_background(rows["background"][0], rows["mask"][0])
        else:
            behind = rows["background"][0]
        level = negative.draw.parameters[COLUMN["level"]]
        rows["background"][view] = level if behind is None else behind
        rows["image"][view], rows["mask"][view] = negative.image, negative.mask
        if "saliency" in rows:
            rows["saliency"][view] = negative.mask
        negative.draw.parameters[COLUMN["paste"]] = 1
        return negative.draw, skipped

    def _draw(self, epoch: int, index: int, mask: _MaskOnce) -> tuple[list[Draw], int]:
        """Return how each view is made of an image, and how many are to move what cannot be."""
        recipe, draws, unmoved = self.recipe, [], 0
        framed = self.paste is not None and self.paste.placement == "frame"
        later = needs_later(recipe, self.paste)
        whole = mask.whole if recipe.crop == "object" and mask.usable else None
        for view in range(recipe.views):
            numbers = (self.seed, epoch, index, view)
            paste = self.paste
            if paste is not None and paste.paste_views == "first" and view:
                paste = None
            draw = draw_view(
                recipe,
                paste,
                uniforms(*numbers),
                mask.image_size,
                later_uniforms(*numbers) if later else None,
                whole,
            )
            if draw.paste and mask.usable and self._partner == "over":
                cut = salient_box(mask.whole, mask.image_size)
                unmoved += cut is None
                draw = replace(draw, paste=cut is not None, cut=cut)
            elif draw.paste and framed:
                objects = self.paste.cutout == "mask" and mask.usable
                cut = salient_box(mask.whole, mask.image_size) if objects else None
                draw = replace(draw, cut=cut or draw.box, rectangle=cut is None)
            draws.append(draw)
        return draws, unmoved

    def _read(self, epoch: int, index: int, replaced: list[tuple[int, str]]) -> _Read:
        """Read an image, or for an unreadable one another, by (epoch, index)."""
        others: np.random.Generator | None = None
        for _ in range(REPLACEMENTS):
            try:
                return self._read_image(epoch, index)
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

    def _read_image(self, epoch: int, index: int) -> _Read:
        """Read this image; what an unreadable one has taken is free before the next is opened.

        A JPEG much larger than its views is reduced while it is decoded; its boxes are then moved
        by less than a pixel of the view, so that masks and backgrounds still follow the same ones.
        """
        image = open_image(key_path(self.images, self.keys[index]))
        mask = _MaskOnce(self, index, image.size)
        draws, unmoved = self._draw(epoch, index, mask)
        read = partial(_Read, index, image.size, mask)
        boxes = [draw.box for draw in draws] + [draw.cut for draw in draws if draw.cut]
        factor = reduction_for(boxes, self.recipe.image_size)
        jpeg = image.jpeg() if self.keep_jpegs and factor == 1 else None
        if jpeg is not None:
            return read(draws, unmoved, jpeg=jpeg)
        pixels, factor = image.decode(factor)
        if factor > 1:
            draws = [replace(draw, box=snap_box(draw.box, factor, image.size)) for draw in draws]
        return read(draws, unmoved, pixels, factor, remark=image.remark)


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

    @property
    def whole(self) -> np.ndarray:
        """The mask, uint8 (h, w), at its own resolution."""
        if False not in self._masks:
            self._dataset.masks.check_size(self._row, self.image_size)
            self._masks[False] = self._dataset.masks.read(self._row)
        return self._masks[False]

    def crop(self, box: Box, size: tuple[int, int], blurred: bool = False) -> np.ndarray:
        """Return what the mask has in a box of the image, uint8 of this size."""
        if blurred and True not in self._masks:
            self._masks[True] = blur_mask(
                self.whole, self._dataset.paste.blend_sigma, self.image_size
            )
        return cut_mask(self._masks[True] if blurred else self.whole, box, self.image_size, size)

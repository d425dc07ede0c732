"""Images at a detector's size, with their boxes: resized by Pillow, flipped in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data.errors import UserError
from data.images.decode import UnreadableImage, decode
from data.loading import Request, as_tensor
from evaluate.detection.annotated import Annotated
from evaluate.detection.coco import draw_outline
from evaluate.detection.settings import Settings

Example = tuple[Tensor, dict[str, Tensor]]  # uint8 (3, h, w), and its boxes, labels, masks


def resized_shape(size: tuple[int, int], side: int, longest: int) -> tuple[int, int]:
    """Return height and width whose shorter one is `side`, unless the longer then exceeds."""
    scale = side / min(size)
    scale = min(scale, longest / (max(size) * scale) * scale)
    height, width = (int(each * scale + 0.5) for each in size)
    return height, width


def read_resized(images: Annotated, row: int, side: int, longest: int) -> np.ndarray:
    """Return an image uint8 (h, w, 3); bilinear with antialiasing, as Pillow and detectron2 do it.

    UserError: it cannot be read, or has another size than its annotation.
    """
    path, size = images.paths[row], images.sizes[row]
    try:
        pixels, real = decode(path)
    except UnreadableImage as error:
        raise UserError(f"{path} cannot be read: {error}; replace it, or take it out.") from None
    if real != size:
        raise UserError(
            f"{path} has {real[1]} x {real[0]} pixels, and its annotation says "
            f"{size[1]} x {size[0]}; mend one of them."
        )
    height, width = resized_shape(size, side, longest)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


class TrainingImages(Dataset):
    """`dataset[Request(epoch, indices)]` is a list of an `Example` for each image.

    An image's side and flip follow from (seed, epoch, index). Crowds are left out; VOC's difficult
    objects are learnt from as others. Images without objects are no part of it: see `trainable`.
    """

    def __init__(self, images: Annotated, settings: Settings, seed: int) -> None:
        self.images, self.settings, self.seed = images, settings, seed
        self.masks = settings.detector == "fpn"

    def __getitem__(self, request: Request) -> list[Example]:
        return [self._example(request.epoch, index) for index in request.indices.tolist()]

    def _example(self, epoch: int, index: int) -> Example:
        draws, s = np.random.default_rng((self.seed, epoch, index)), self.settings
        side, flip = int(draws.choice(s.train_sides)), draws.random() < 0.5
        pixels = read_resized(self.images, index, side, s.longest_side)
        size, scaled, objects = (
            self.images.sizes[index],
            pixels.shape[:2],
            self.images.objects[index],
        )
        rows = learnt(self.images, index)
        boxes = objects.boxes[rows] * np.tile([scaled[1] / size[1], scaled[0] / size[0]], 2)
        if flip:
            pixels, boxes = pixels[:, ::-1], boxes[:, [2, 1, 0, 3]]
            boxes[:, [0, 2]] = scaled[1] - boxes[:, [0, 2]]
        target = {
            "boxes": as_tensor(boxes.astype(np.float32)),
            "labels": as_tensor(objects.labels[rows]),
        }
        if self.masks:
            masks = np.stack([draw_outline(objects.outlines[row], size, scaled) for row in rows])
            target["masks"] = as_tensor(np.ascontiguousarray(masks[..., ::-1] if flip else masks))
        return _channels_first(pixels), target


class EvaluationImages(Dataset):
    """`dataset[rows]` is a list of uint8 (3, h, w)."""

    def __init__(self, images: Annotated, settings: Settings) -> None:
        self.images, self.settings = images, settings

    def __getitem__(self, rows: Any) -> list[Tensor]:
        s = self.settings
        return [
            _channels_first(read_resized(self.images, row, s.test_side, s.longest_side))
            for row in rows
        ]


def _channels_first(pixels: np.ndarray) -> Tensor:
    return as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def learnt(images: Annotated, row: int) -> np.ndarray:
    """Return which objects of an image are learnt from: all but crowds."""
    objects = images.objects[row]
    crowds = objects.ignored if objects.outlines else np.zeros(len(objects), bool)
    return np.flatnonzero(~crowds)


def trainable(images: Annotated) -> Annotated:
    """Return the images with an object to learn from."""
    return images.take(row for row in range(len(images)) if len(learnt(images, row)))


def on_device(pixels: Tensor, device: torch.device) -> Tensor:
    """Turn uint8 (3, h, w) into float32 in [0, 1] on the device."""
    return pixels.to(device, non_blocking=True).float() / 255

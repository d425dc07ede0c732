"""Images with their masks as a data set for anybody's torchvision pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from data.images.decode import decode
from data.images.labels import labels_from_folders
from data.images.listing import key_path, list_images
from data.masks.picture import scale_mask
from data.masks.read import MaskShards


class MaskedImages(Dataset):
    """Images of a folder or archive with their saliency masks; item i is (sample, label).

    A sample is (image, mask): `tv_tensors.Image` uint8 (3, H, W), RGB, upright, and
    `tv_tensors.Mask` uint8 (H, W), 0 background to 255 foreground, as `CopyPaste` takes them. An
    image without a mask has one of zeros, which is never pasted. A label is the number of the
    image's first folder, as in torchvision's `ImageFolder`; 0 where folders are no classes.

    root : the images. masks : the folder of their shards.
    transform : of a sample; a v2 transform changes image and mask alike.

    keys : as `data.images.list_images` has them. classes, targets : names, and a number an image.

    UserError: no images there, no shards there, shards of other images, or, from an item, a mask of
    an image of another size.
    UnreadableImage, from an item: it cannot be decoded.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        masks: str | os.PathLike,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.root, self.transform = root, transform
        self.keys, self.masks = list_images(root), MaskShards(masks)
        self._rows = self.masks.rows_of(self.keys, root)
        labels = labels_from_folders(self.keys)
        self.classes = [] if labels is None else labels.class_names
        self.targets = [0] * len(self.keys) if labels is None else labels.labels.tolist()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels, size = decode(key_path(self.root, self.keys[index]))
        mask, row = np.zeros((0, 0), np.uint8), int(self._rows[index])
        if row >= 0:
            self.masks.check_size(row, size)
            mask = self.masks.read(row)
        mask = scale_mask(mask, size) if mask.size else np.zeros(size, np.uint8)
        sample: Any = (
            tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(mask)),
        )
        sample = sample if self.transform is None else self.transform(sample)
        return sample, self.targets[index]


class EachView:
    """A transform that makes several views of a sample, each by its own transform, as a list.

    >>> twice = EachView(lambda sample: sample + 1, lambda sample: sample * 2)
    >>> twice(3)
    [4, 6]
    """

    def __init__(self, *transforms: Callable[[Any], Any]) -> None:
        self.transforms = transforms

    def __call__(self, sample: Any) -> list[Any]:
        return [transform(sample) for transform in self.transforms]

"""The naive approach (DiLo, 6.2): a trained network's last map averaged over the foreground alone.

v = sum_p M(p) F(p) / sum_p M(p), with the mask M averaged to the map's size; where M is 0
everywhere, or there is no mask, the plain mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.errors import UserError
from data.images.crop import centre_crop
from data.images.decode import decode
from data.images.labels import Labelled
from data.loading import Batch, Crop, PlainDataset, as_tensor
from evaluate.masks import Masks, NoMask, open_masks
from evaluate.options import PoolOptions
from evaluate.results import left_out_notes

View = tuple[np.ndarray, tuple[int, int], tuple[float, float, float, float] | None, bool]
"""uint8 (S, S, 3); its image's (height, width); its box there, None: the centre crop; mirrored."""


def masked_mean(maps: Tensor, masks: Tensor) -> Tensor:
    """Average maps (B, D, h, w) by masks (B, S, S) in [0, 1], without any where they are 0: (B, D).

    The masks are average-pooled to (h, w).
    """
    weights = functional.adaptive_avg_pool2d(masks[:, None].to(maps), maps.shape[2:])
    weights = torch.where(weights.sum((2, 3), keepdim=True) > 0, weights, 1.0)
    return (weights * maps).sum((2, 3)) / weights.sum((2, 3))


@dataclass
class MaskPool:
    """The masks that `--pool mask` averages by.

    root : the folder IMAGES
    without : images that were averaged plainly, key -> reason
    """

    masks: Masks
    root: Path
    without: dict[str, str] = field(default_factory=dict)

    def of(self, images: Labelled) -> Masks:
        """The masks of IMAGES or of its part, such as `train`."""
        return replace(self.masks, below="" if images.root == self.root else images.root.name)

    def masks_of(self, batch: Batch, device: torch.device) -> Tensor:
        """The masks of a batch as floats (B, S, S) in [0, 1]; notes which images have none."""
        self.without |= dict(batch["without_mask"])
        return batch["mask"].to(device, non_blocking=True) / 255

    def describe(self, images: int) -> dict:
        """What a result says; UserError where not one of so many images has a mask."""
        if len(self.without) >= images:
            key, reason = next(iter(self.without.items()))
            raise UserError(
                f"--masks {self.masks.folder}: not one of IMAGES has a mask there ('{key}' "
                f"{reason}); name the masks of these images."
            )
        return {"masks": self.masks.folder, "pooled_plainly": self.without}

    def notes(self) -> list[str]:
        """Sentences on the images that were averaged plainly."""
        return left_out_notes("--pool mask", self.without, "averaged plainly")


def open_pool(options: PoolOptions, root: Path) -> MaskPool | None:
    """The masks of `--pool mask`; None for plain pooling."""
    if options.pool == "mask" and options.masks is None:
        raise UserError("--pool mask needs masks to average by; give their folder by --masks.")
    if options.pool != "mask" and options.masks is not None:
        raise UserError(f"--masks {options.masks} is for --pool mask; add that, or leave it out.")
    return MaskPool(open_masks(options.masks, "--masks"), root) if options.masks else None


class LabelledImages(PlainDataset):
    """Crops of labelled images: batches as `PlainDataset` makes them, and with `masks`

    mask          uint8 (B, S, S), 0 where there is none
    without_mask  list of (key, reason)
    """

    def __init__(
        self,
        images: Labelled,
        size: int,
        masks: Masks | None = None,
        crop: Crop = centre_crop,
    ) -> None:
        super().__init__(images.root, images.keys, size, images.labels, crop)
        self.masks = masks

    def __getitem__(self, indices: np.ndarray) -> Batch:
        return self.load_views(indices, self._whole)

    def _whole(self, index: int, path: str) -> View:
        image, size = decode(path)
        return self.crop(image, self.image_size), size, None, False

    def load_views(self, indices: np.ndarray, view: Callable[[int, str], View]) -> Batch:
        """Return the batch of these images, each with its mask cut and mirrored alike."""
        if self.masks is None:
            return self.load(indices, lambda index, path: view(index, path)[0])
        masks: list[np.ndarray] = []
        without: list[tuple[str, str]] = []

        def read(index: int, path: str) -> np.ndarray:
            crop, image_size, box, mirrored = view(index, path)
            try:
                mask = self.masks.cut(self.keys[index], image_size, self.image_size, box)
            except NoMask as reason:
                without.append((self.masks.key_of(self.keys[index]), str(reason)))
                mask = np.zeros((self.image_size, self.image_size), np.uint8)
            masks.append(mask[:, ::-1] if mirrored else mask)
            return crop

        batch = self.load(indices, read)
        shape = (0, self.image_size, self.image_size)
        batch["mask"] = as_tensor(np.stack(masks) if masks else np.zeros(shape, np.uint8))
        batch["without_mask"] = without
        return batch

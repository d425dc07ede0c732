"""Batches for pretraining: deterministic order, exact start at any step, workers that only decode and crop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pretrain.views import PasteSettings, ViewRecipe

Batch = dict[str, torch.Tensor | list[str]]


class Loader:
    """Iterates over one epoch's batches, from `start_step` on. `len` is the steps of a whole epoch.

    A batch is a dict:
        index        int64 (B,)                  which image of `keys` each row shows
        label        int64 (B,)                  only when labels were given
        image        uint8 (B, V, S, S, 3)       V views, cropped, RGB
        mask         uint8 (B, V, S, S)          soft alpha, 255 where nothing is pasted; only with pasting
        background   uint8 (B, V, S, S, 3)       only for "texture" and "imagenet"
        parameters   float32 (B, V, P)           columns: pretrain.views.PARAMETERS
        missing      int64 (M,)                  images of this batch without a usable mask, used unpasted
        replaced     int64 (R,)                  images that could not be read and were replaced
        replaced_reasons   list of R sentences   "key: reason"
    """

    keys: Sequence[str]

    def __len__(self) -> int:
        raise NotImplementedError

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose what the next `iter` yields: steps `start_step`.. of `epoch`. Workers stay alive."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        raise NotImplementedError

    def close(self) -> None:
        """End the workers."""


def build_loader(
    images: str | Path,
    masks: str | Path | None = None,
    *,
    recipe: ViewRecipe,
    paste: PasteSettings | None = None,
    batch_size: int,
    seed: int = 0,
    epoch: int = 0,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    labels: Sequence[int] | None = None,
    allow_missing_masks: bool = False,
    pin_memory: bool = False,
) -> Loader:
    """Return the loader of a folder of images and its mask shards.

    batch_size : images of this process; a step takes batch_size * world_size images of the epoch's
        permutation, and rank r gets the r-th run of batch_size of them. The incomplete last step is dropped.
    """
    raise NotImplementedError

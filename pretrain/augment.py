"""Augmentation of whole batches on the device: composite, gray, jitter, blur, flip, normalise."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.views import ViewRecipe


class DeviceAugment(nn.Module):
    """Turn the loader's uint8 batches (moved to this module's device) into views.

    forward(batch) -> list of V tensors float32 (B, 3, S, S), normalised, channels_last.
    preview(batch) -> dict of float32 (B, V, 3, S, S) in [0, 1]: "image", "mask", "background",
                      "pasted", "view" (augmented, not normalised).
    """

    def __init__(self, recipe: ViewRecipe) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        raise NotImplementedError

    def preview(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        raise NotImplementedError

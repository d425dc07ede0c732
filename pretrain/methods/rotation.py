"""Rotation: by which multiple of 90 degrees an image was turned (Gidaris et al., ICLR 2018).

The recipe is MMSelfSup's: every image is seen in all four rotations.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from pretrain.contract import Method, Sizes, Views
from pretrain.parts.backbones import build_backbone, feature_dim
from pretrain.parts.encoder import check_network, with_init
from pretrain.settings import Settings

ROTATIONS = 4


def rotations(images: torch.Tensor) -> torch.Tensor:
    """Return images (B, C, S, S) turned by 0, 90, 180 and 270 degrees, counter-clockwise.

    (4 B, C, S, S), the four of an image one after the other. Pixels are moved, never interpolated.
    """
    across = images.transpose(2, 3)
    turned = (images, across.flip(2), images.flip(2, 3), across.flip(3))
    return torch.stack(turned, 1).flatten(0, 1)


class Rotation(Method, nn.Module):
    """A linear classifier of the four rotations on the backbone's features."""

    views = 1
    defaults: ClassVar[dict[str, Any]] = {"recipe": "plain", "paste_probability": 0.0}

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.network = build_backbone(arch)
        self.head = nn.Linear(feature_dim(arch), ROTATIONS)

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse views too small for the network."""
        check_network(settings, lambda: build_backbone(settings.arch), ROTATIONS * sizes.group)

    @classmethod
    def build(cls, settings: Settings, sizes: Sizes) -> Rotation:
        return with_init(cls(settings.arch), settings)

    @classmethod
    def chance_loss(cls, settings: Settings, images: int) -> float:
        """ln 4."""
        return math.log(ROTATIONS)

    @property
    def backbone(self) -> nn.Module:
        return self.network

    def forward(self, views: Views, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the cross entropy over all rotations, and the share that is told rightly."""
        (x,) = views.images
        logits = self.head(self.network(rotations(x))).float()
        labels = torch.arange(ROTATIONS, device=x.device).repeat(len(x))
        right = (logits.argmax(1) == labels).float().mean()
        return functional.cross_entropy(logits, labels), {"accuracy": right}

"""Backbone, projection head and L2 normalisation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pretrain.backbones import build_backbone, feature_dim


class Encoder(nn.Module):
    """Images to points on the unit sphere.

    Parameters
    ----------
    arch : a name of `pretrain.backbones.ARCHITECTURES`.
    dim : dimensions of the embedding.
    mlp : a hidden layer of the backbone's width and a ReLU before the last layer (MoCo v2).
    """

    def __init__(self, arch: str, dim: int = 128, mlp: bool = False) -> None:
        super().__init__()
        width = feature_dim(arch)
        self.backbone = build_backbone(arch)
        hidden = [nn.Linear(width, width), nn.ReLU(inplace=True)] if mlp else []
        self.head = nn.Sequential(*hidden, nn.Linear(width, dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim) float32 of unit length."""
        return functional.normalize(self.head(self.backbone(images)).float(), dim=1)

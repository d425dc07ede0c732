"""Backbone, projection head and L2 normalisation."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pretrain.parts.backbones import build_backbone, feature_dim


class Encoder(nn.Module):
    """Images to points on the unit sphere.

    Parameters
    ----------
    arch : a name of `pretrain.parts.backbones.ARCHITECTURES`.
    dim : dimensions of the embedding.
    mlp : a hidden layer of the backbone's width and a ReLU before the last layer (MoCo v2).
    head_norm : a batch norm before that ReLU (SimCLR, Chen et al. 2020; MoCo v3). Against a new
        queue's random vectors an untrained network's outputs move to a single point, and on small
        data they are long in leaving it. The batch norm holds them apart from the first step.
    """

    def __init__(
        self, arch: str, dim: int = 128, mlp: bool = False, head_norm: bool = False
    ) -> None:
        super().__init__()
        width = feature_dim(arch)
        self.backbone = build_backbone(arch)
        hidden: list[nn.Module] = []
        if mlp:
            norm = [nn.BatchNorm1d(width)] if head_norm else []
            hidden = [nn.Linear(width, width), *norm, nn.ReLU(inplace=True)]
        self.head = nn.Sequential(*hidden, nn.Linear(width, dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim) float32 of unit length."""
        return functional.normalize(self.head(self.backbone(images)).float(), dim=1)

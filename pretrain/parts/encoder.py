"""Backbone, projection head and L2 normalisation; the settings and checks of methods with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from data.errors import UserError
from data.options import setting
from pretrain.contract import MethodSettings, Sizes
from pretrain.export import load_backbone
from pretrain.parts.backbones import build_backbone, feature_dim
from pretrain.settings import Settings


class EncoderSettings(MethodSettings):
    """Of every method that contrasts an `Encoder`'s outputs."""

    dim: Annotated[int, Field(ge=1, le=2**16)] = setting(128, "dimensions of the embedding")
    temperature: Annotated[float, Field(gt=0)] = setting(0.07, "tau (MoCo v2: .2)")
    mlp: bool = setting(False, "MLP head (MoCo v2)")
    head_norm: bool = setting(
        False, "batch norm in the MLP head, not published with MoCo v2; for small data sets"
    )

    def model_post_init(self, _: object) -> None:
        """Refuse a batch norm in a head that has no hidden layer."""
        if self.head_norm and not self.mlp:
            raise UserError("head_norm is true, and it is a layer of the MLP head; set mlp = true.")


class Encoder(nn.Module):
    """Images to points on the unit sphere.

    arch : a name of `pretrain.parts.backbones.ARCHITECTURES`.
    s : dim: dimensions of the embedding. mlp: a hidden layer of the backbone's width and a ReLU
        before the last layer (MoCo v2). head_norm: a batch norm before that ReLU (SimCLR, Chen et
        al. 2020; MoCo v3). Against a new queue's random vectors an untrained network's outputs move
        to a single point, and on small data they are long in leaving it. The batch norm holds them
        apart from the first step.
    """

    def __init__(self, arch: str, s: EncoderSettings) -> None:
        super().__init__()
        width = feature_dim(arch)
        self.backbone = build_backbone(arch)
        hidden: list[nn.Module] = []
        if s.mlp:
            norm = [nn.BatchNorm1d(width)] if s.head_norm else []
            hidden = [nn.Linear(width, width), *norm, nn.ReLU(inplace=True)]
        self.head = nn.Sequential(*hidden, nn.Linear(width, s.dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim) float32 of unit length."""
        return functional.normalize(self.head(self.backbone(images)).float(), dim=1)


def with_init(network: nn.Module, settings: Settings) -> nn.Module:
    """Read a network's `backbone` from `init`, where that is given; return the network."""
    if settings.init is not None:
        load_backbone(network.backbone, settings.arch, settings.init)
    return network


def check_network(settings: Settings, build: Callable[[], nn.Module], images: int) -> None:
    """Refuse views too small for a network, and batch norms of one value, by a run on shapes.

    images : in each batch norm's group.
    """
    size = settings.image_size
    try:
        with torch.device("meta"):  # nothing is allocated or computed
            build().train()(torch.empty(images, 3, size, size))
    except ValueError:  # a batch norm's, all others are RuntimeErrors
        raise UserError(
            f"each batch norm of {settings.arch} would see {images} image{'s' * (images > 1)} of "
            f"{size} px: one value a channel has no statistics; give a larger batch_size, or "
            "fewer parts of it (accumulate, bn_groups, processes)."
        ) from None
    except RuntimeError:
        raise UserError(
            f"image_size is {size}, too small for {settings.arch}; give 64 or more."
        ) from None


def check_negatives(settings: Settings, sizes: Sizes, remedy: str = "") -> None:
    """Refuse more negatives than images."""
    negatives = settings.method.negatives
    if negatives > sizes.images:
        raise UserError(
            f"negatives is {negatives}, more than the {sizes.images} images in "
            f"{settings.images!r}; give at most {sizes.images}{remedy}."
        )

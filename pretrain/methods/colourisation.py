"""Colourisation: an image's colours from its lightness (Zhang, Isola, Efros, ECCV 2016).

Bins, soft coding, rebalancing and the mask of gray images are theirs. The network is the ResNet of
Goyal et al. (2019), whose recipe is not published; what is inferred: the head (a 1x1 convolution on
layer4, scaled up four times), targets as the mean of 4x4 pixels, and frequencies of the bins that
are counted while training.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from data.errors import UserError
from pretrain.contract import Method, Sizes, Views
from pretrain.parts.backbones import build_backbone, feature_dim
from pretrain.parts.colour import denormalised, lab
from pretrain.parts.distributed import mean_over_processes
from pretrain.parts.encoder import check_network, with_init
from pretrain.parts.pyramid import stage_maps
from pretrain.settings import Settings

GRID = 10  # of the bins in a and b
STRIDE = 4  # of the targets, pixels
NEAREST, SIGMA = 10, 5.0  # of the soft coding
GAMMA = 0.5  # share of the even distribution in the rebalancing
GRAY = 5.0  # an image is gray where neither |a| nor |b| is above it anywhere
_CORNERS = (  # of the polygon of their bins, (a, b) / GRID, counter-clockwise
    (-9, 9), (-9, 5), (-8, 2), (-6, -2), (-3, -5), (1, -8), (4, -10), (6, -11),
    (9, -11), (10, -9), (10, 0), (9, 7), (7, 8), (4, 9), (0, 10), (-5, 10),
)  # fmt: skip


@cache
def colour_bins() -> np.ndarray:
    """Return the authors' 313 bins, float32 (313, 2), by a and then b: their `pts_in_hull`.

    They are the grid's points in a convex polygon about the gamut of sRGB, and more than the 261
    cells of the grid that hold a colour of sRGB: those, and 52 at the border.
    """
    grid = np.stack(np.mgrid[-12:13, -12:13], -1).reshape(-1, 2)
    corners = np.array(_CORNERS)
    side = (np.roll(corners, -1, 0) - corners)[:, None]  # (16, 1, 2)
    along = grid - corners[:, None]  # (16, 625, 2)
    left = side[..., 0] * along[..., 1] - side[..., 1] * along[..., 0] >= 0
    return (GRID * grid[left.all(0)]).astype(np.float32)


def soft_code(ab: torch.Tensor, bins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Code colours (..., 2) by their 10 nearest bins, with weights of a Gaussian of sigma 5.

    Returns the bins' numbers, int64 (..., 10), nearest first, and weights that add up to 1.
    """
    distances, index = torch.cdist(ab, bins).topk(NEAREST, largest=False)
    return index, torch.softmax(-(distances**2) / (2 * SIGMA**2), -1)


def rebalancing(frequency: torch.Tensor) -> torch.Tensor:
    """Return each bin's weight, rare ones more, of mean 1 under the frequencies (Q,).

    ((1 - gamma) p + gamma / Q)^-1, scaled (equation 4 and its text).
    """
    weight = 1 / ((1 - GAMMA) * frequency + GAMMA / len(frequency))
    return weight / (frequency * weight).sum()


class Colouriser(nn.Module):
    """A network of lightness with a classifier of colours at each position of its layer4."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.backbone = build_backbone(arch)
        self.head = nn.Conv2d(feature_dim(arch), len(colour_bins()), 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> logits (B, 313, S / 16, S / 16)."""
        return self.head(stage_maps(self.backbone, images)["3"])


class Colourisation(Method, nn.Module):
    """The distribution over bins of ab at every position, from L alone."""

    views = 1
    defaults: ClassVar[dict[str, Any]] = {
        "recipe": "plain", "paste_probability": 0.0, "arch": "resnet50-l",
    }  # fmt: skip

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.network = Colouriser(arch)
        bins = torch.from_numpy(colour_bins())
        self.register_buffer("bins", bins, persistent=False)
        # how often each was seen, in steps; the even distribution counts as one step
        self.register_buffer("seen", torch.full((len(bins),), 1 / len(bins)))
        self._kept: list[torch.Tensor] = []  # shares (Q,) since `update`

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse a network that sees the colours, views without any, and views too small."""
        if not settings.arch.endswith("-l"):
            raise UserError(
                f"arch is {settings.arch!r}, and colourisation needs a network that does not see "
                "the colours; give resnet50-l or resnet18-l."
            )
        if settings.gray == 1:
            raise UserError("gray is 1, and colourisation learns colours; give less than 1.")
        check_network(settings, lambda: build_backbone(settings.arch), sizes.group)

    @classmethod
    def build(cls, settings: Settings, sizes: Sizes) -> Colourisation:
        return with_init(cls(settings.arch), settings)

    @classmethod
    def chance_loss(cls, settings: Settings, images: int) -> float:
        """ln 313, where no image is gray."""
        return math.log(len(colour_bins()))

    @property
    def backbone(self) -> nn.Module:
        return self.network.backbone

    def forward(self, views: Views, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the rebalanced cross entropy; gray images count as 0.

        Logged besides: the cross entropy before the rebalancing, and the share of gray images.
        """
        (x,) = views.images
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            colours = lab(denormalised(x.float()))[:, 1:]
            coloured = (colours.abs() > GRAY).flatten(1).any(1)  # (B,)
            ab = functional.avg_pool2d(colours, STRIDE).permute(0, 2, 3, 1)  # (B, h, w, 2)
            index, target = soft_code(ab, self.bins)  # (B, h, w, 10)
            target = target * coloured.view(-1, 1, 1, 1)
            weight = rebalancing(self.seen / self.seen.sum())[index[..., 0]]  # of the nearest bin
            share = torch.zeros_like(self.seen).index_add_(0, index.flatten(), target.flatten())
            self._kept.append(share / weight.numel())
        logits = self.network(x).float()
        with torch.autocast(x.device.type, enabled=False):
            logits = functional.interpolate(logits, ab.shape[1:3], mode="bilinear")
            log_p = logits.log_softmax(1).permute(0, 2, 3, 1).gather(3, index)
            entropy = -(target * log_p).sum(3)  # (B, h, w)
        logged = {"unweighted": entropy.mean(), "gray": 1 - coloured.float().mean()}
        return (weight * entropy).mean(), logged

    @torch.no_grad()
    def update(self) -> None:
        """Count the batch's colours."""
        self.seen += mean_over_processes(torch.stack(self._kept).mean(0))
        self._kept.clear()

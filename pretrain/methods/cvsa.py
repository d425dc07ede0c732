"""CVSA-like pretraining: where a query resembles the other view's object, its own object must be.

Wu et al. (arXiv 2106.15788; BMVC 2022) publish neither code nor settings. What is known from their
abstracts: saliency regions of images are cropped and swapped to make views, and a cross-view
alignment loss guides the network to the foreground. All else is inferred here: the swap is
`background = "box-swap"` or "mask-swap" (`pretrain.views.swaps`), the loss compares a similarity
map with a mask by its cosine as CAST does (Selvaraju et al., CVPR 2021), but of first order, and
pools the other view's object as MaskContrast does (Van Gansbeke et al., ICCV 2021). So this is
*CVSA-like*: no figure of the paper can confirm it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from data.errors import UserError
from data.options import setting
from pretrain.contract import Sizes, Views
from pretrain.methods.moco import MoCo, MoCoSettings
from pretrain.parts.backbones import feature_dim
from pretrain.parts.encoder import Encoder
from pretrain.parts.pyramid import stage_maps
from pretrain.settings import Settings

_STRIDE = 32  # of the last map
_ARCHITECTURES = ("resnet18", "resnet50", "resnet50w2")
_EPSILON = 1e-6


class CVSASettings(MoCoSettings):
    """Its `[method]` table; MoCo v2's values where the paper names none."""

    temperature: Annotated[float, Field(gt=0)] = setting(0.2, "tau")
    mlp: bool = setting(True, "MLP head (MoCo v2)")
    alignment: Annotated[float, Field(ge=0)] = setting(
        1.0, "lambda, the weight of the alignment loss beside MoCo's"
    )


class MapEncoder(Encoder):
    """An encoder that also projects each cell of the backbone's last map onto the unit sphere.

    The projector is a 1x1 convolution of the map's width, batch norm, ReLU and one to `dim`.
    """

    def __init__(self, arch: str, s: CVSASettings) -> None:
        super().__init__(arch, s)
        width = feature_dim(arch)
        self.projector = nn.Sequential(
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, s.dim, 1),
        )

    def forward(
        self, images: torch.Tensor, saliency: torch.Tensor | float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, S, S), saliency (B, 1, h, w) in [0, 1] at the last map's size.

        Returns float32 (B, dim) of the images, (B, dim, h, w) of the cells and (B, dim) of the
        object, the cells' sum weighted by the saliency; all of unit length.
        """
        last = stage_maps(self.backbone, images)["3"]
        whole = self.head(self.backbone.avgpool(last).flatten(1)).float()
        cells = functional.normalize(self.projector(last).float(), dim=1)
        inside = (cells * saliency).sum((2, 3))
        return functional.normalize(whole, dim=1), cells, functional.normalize(inside, dim=1)


class CVSA(MoCo):
    """MoCo v2, and beside it the alignment of the query's map with its own saliency.

    encoder : images and saliency -> (B, dim), (B, dim, h, w), (B, dim); see `MapEncoder`.
    """

    Settings = CVSASettings
    network = MapEncoder
    wants = frozenset({"saliency"})
    defaults: ClassVar[dict[str, Any]] = {
        "recipe": "moco-v2",
        "schedule": "cosine",
        "background": "box-swap",
        "paste_views": "first",
    }

    def __init__(self, encoder: nn.Module, settings: CVSASettings, seed: int = 0) -> None:
        super().__init__(encoder, settings, seed)
        self.weight = settings.alignment

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse networks without a map of 1/32, views too small, queues that do not fit."""
        if settings.arch not in _ARCHITECTURES:
            raise UserError(
                f"arch is {settings.arch!r}, which has no map of features to be aligned; choose "
                f"one of {', '.join(_ARCHITECTURES)}."
            )
        super().check(settings, sizes)

    def forward(self, views: Views, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the batch's mean loss; logs the alignment loss, its share of the batch, pointing.

        `aligned` is the share of images whose object both views show; the others add nothing.
        `pointing` is the share of those whose map is highest where the saliency is above one half.
        """
        usable = torch.stack([mask.amax((1, 2, 3)) > 0.5 for mask in views.saliency]).all(0)
        side = -(-views.images[0].shape[-1] // _STRIDE)
        s_q, s_k = (functional.adaptive_avg_pool2d(mask, side) for mask in views.saliency)
        q, cells, _ = self.encoder_q(views.images[0], s_q)
        k, _, f = self._encode_keys(step, views.images[1], s_k)
        contrast, logged = self._contrast(q, k, views, step)
        with torch.autocast(q.device.type, enabled=False):
            similarity = similarity_map(cells, f)
            losses = torch.where(usable, alignment_losses(similarity, s_q[:, 0]), 0)
        highest = similarity.detach().flatten(1).argmax(1, keepdim=True)
        inside = s_q.flatten(1).gather(1, highest)[:, 0] > 0.5
        count = usable.sum().clamp_min(1)
        logged |= {
            "alignment": losses.detach().sum() / count,
            "aligned": usable.float().mean(),
            "pointing": (inside & usable).sum() / count,
        }
        return contrast + self.weight * losses.mean(), logged


def similarity_map(cells: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """Return each cell's product with a vector, brought to [0, 1] image by image, (B, h, w).

    cells : (B, dim, h, w), of unit length. f : (B, dim), the other view's object; without gradient.
    """
    product = torch.einsum("bdhw,bd->bhw", cells, f.detach())
    low, high = product.amin((1, 2), keepdim=True), product.amax((1, 2), keepdim=True)
    return (product - low) / (high - low + _EPSILON)


def alignment_losses(similarity: torch.Tensor, saliency: torch.Tensor) -> torch.Tensor:
    """Return 1 - cosine of maps (B, h, w) with saliency (B, h, w), image by image: (B,)."""
    return 1 - functional.cosine_similarity(similarity.flatten(1), saliency.flatten(1), dim=1)

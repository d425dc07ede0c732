"""CoDo-like pretraining: instances on other backgrounds, located and told apart level by level.

Zhao et al. 2022 (CoDo, arXiv 2205.04617) publish neither code nor settings. What is known from its
abstract: instances are pasted on backgrounds of the downstream data, their boxes jittered so that
they take in background, the network is the detector's own, and the contrast is hierarchical and
multi-view. All else is inferred here from its published relatives: the network, the loss a level
and the least overlap of boxes from InstanceLoc (Yang et al., CVPR 2021), the jitter from SoCo (Wei
et al., NeurIPS 2021). So this is *CoDo-like*, and with rectangles for masks and without jitter it
is InstanceLoc but for its anchors.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align

from data.errors import UserError
from data.options import Count, Share, setting
from pretrain.contract import MethodSettings, Sizes, Views
from pretrain.methods.moco import MoCo, check_queue
from pretrain.parts.backbones import build_backbone
from pretrain.parts.boxes import (
    JITTER_NUMBERS,
    corners,
    jitter_boxes,
    overlap,
    tight_boxes,
    uniform_numbers,
)
from pretrain.parts.pyramid import HIDDEN, SIDE, box_head, pyramid, stage_maps, state
from pretrain.settings import Settings


class CoDoSettings(MethodSettings):
    """Its `[method]` table."""

    dim: Annotated[int, Field(ge=1, le=2**16)] = setting(128, "dimensions of the embedding")
    temperature: Annotated[float, Field(gt=0)] = setting(0.2, "tau")
    negatives: Count = setting(65536, "K, the length of each level's queue")
    key_momentum: Share = setting(0.999, "momentum of the key network")
    lowest_level: Literal[2, 3, 4, 5] = setting(2, "contrast from this pyramid level to level 5")
    box_shift: Share = setting(
        0.1, "the query's box moves by up to this share of its sides, in half of the cases"
    )
    box_enlarge: Share = setting(0.3, "each of its sides then moves outward by up to this share")
    head_norm: bool = setting(
        False, "batch norm after the box head's linear layer (moco's head_norm); for small data"
    )
    queries: Literal[1, 2] = setting(1, "2: a third view, at half the size, asks for the keys too")


class PyramidEncoder(nn.Module):
    """A box of an image to points on unit spheres, a point a pyramid level (InstanceLoc).

    The detector's own body, pyramid and box head: ResNet, FPN with 256 channels, four convolutions
    and a linear layer of 1024, with batch norm; then the embedding. The box is cut out of each
    level (RoIAlign, 7 x 7), and the levels share the head.
    """

    def __init__(self, arch: str, s: CoDoSettings) -> None:
        super().__init__()
        self.backbone = build_backbone(arch)
        self.first = s.lowest_level - 2  # of the stages that are contrasted
        self.fpn = pyramid(self.backbone).fpn
        for blocks in (self.fpn.inner_blocks, self.fpn.layer_blocks):
            blocks[: self.first].requires_grad_(False)  # of levels that are not contrasted
        self.box_head = box_head(linear_norm=s.head_norm)
        self.head = nn.Linear(HIDDEN, s.dim)

    def forward(self, images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S), boxes (B, 4) in pixels -> (B, L, dim) float32 of unit length."""
        rows = torch.arange(len(boxes), device=boxes.device)
        return self.points(self.maps(images), images.shape[-1], boxes, rows)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the contrasted pyramid levels of images (B, 3, S, S), the largest first.

        What torchvision's pyramid does, less the levels below, which cost the most.
        """
        stages = list(stage_maps(self.backbone, images).values())
        merged = self.fpn.inner_blocks[3](stages[3])
        levels = [self.fpn.layer_blocks[3](merged)]
        for stage in reversed(range(self.first, 3)):
            lateral = self.fpn.inner_blocks[stage](stages[stage])
            merged = lateral + functional.interpolate(merged, lateral.shape[-2:])
            levels.insert(0, self.fpn.layer_blocks[stage](merged))
        return levels

    def points(
        self, maps: list[torch.Tensor], size: int, boxes: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Return points (N, L, dim) of boxes (N, 4), each in the image, of `size` S, of its row."""
        rois = torch.cat([rows[:, None].to(boxes), corners(boxes)], 1)
        cuts = [roi_align(x, rois, SIDE, x.shape[-1] / size, aligned=True) for x in maps]
        stacked = torch.stack(cuts, 1)  # box by box, so that batch-norm groups hold whole images
        vectors = self.head(self.box_head(stacked.flatten(0, 1))).float()
        return functional.normalize(vectors, dim=1).unflatten(0, stacked.shape[:2])


class CoDo(MoCo):
    """The instance in a query's box against the same in the key's, on every pyramid level.

    A view's box is what is opaque of what was pasted, or the whole view where nothing was.

    encoder : images and boxes -> unit vectors (B, L, dim), one a level.
    seed : of the queues' first keys, the shuffles and the jitter.
    """

    Settings = CoDoSettings
    network = PyramidEncoder
    wants = frozenset({"alpha"})
    defaults: ClassVar[dict[str, Any]] = {
        "recipe": "moco-v2", "paste_probability": 1.0, "placement": "frame",
    }  # fmt: skip

    def __init__(self, encoder: nn.Module, settings: CoDoSettings, seed: int = 0) -> None:
        super().__init__(encoder, settings, seed, queues=(6 - settings.lowest_level,))
        self.lowest = settings.lowest_level
        self.shift, self.enlarge = settings.box_shift, settings.box_enlarge

    @classmethod
    def count_views(cls, settings: CoDoSettings) -> int:
        return 1 + settings.queries

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse networks without a pyramid, views too small for it, queues that do not fit."""
        check_queue(settings, sizes)
        if not settings.arch.startswith("resnet"):
            raise UserError(
                f"arch is {settings.arch!r}, which has no pyramid of feature maps for codo; set a "
                'ResNet: arch = "resnet50".'
            )
        # Layer 4 is a 32nd of the view: one pixel is enough for two images, not for one.
        least = 32 * settings.method.queries * (2 if sizes.group == 1 else 1)
        if settings.image_size < least:
            raise UserError(
                f"image_size is {settings.image_size}, too small for codo's pyramid with batch "
                f"norms over {sizes.group} images; give {least} or more."
            )

    @classmethod
    def chance_loss(cls, settings: Settings, images: int) -> float | None:
        """ln(K + 1) for every level and query."""
        s = settings.method
        return (6 - s.lowest_level) * s.queries * math.log(s.negatives + 1)

    def detector(self) -> dict[str, torch.Tensor]:
        return state(self.encoder_q, self.encoder_q.box_head)

    def forward(self, views: Views, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the batch's mean loss, summed over levels and queries; logs each level's part."""
        images = views.images
        size = images[0].shape[-1]
        boxes = [boxes_of(alpha) for alpha in views.alpha]
        numbers = uniform_numbers(self.seed, step, views.rows, 2 * JITTER_NUMBERS)
        jittered = [
            jitter_boxes(true, u, size, self.shift, self.enlarge)
            for true, u in zip(boxes[::2], numbers.chunk(2, 1), strict=False)
        ]
        queries = [self.encoder_q(images[0], jittered[0])]  # (B, L, dim)
        if len(images) == 3:
            half = functional.interpolate(
                images[2], scale_factor=0.5, mode="bilinear", antialias=True
            )
            queries.append(self.encoder_q(half, jittered[1] / 2))
        (k,) = self._encode_keys(step, images[1], boxes[1])  # (B, L, dim)
        with torch.autocast(k.device.type, enabled=False):
            levels = sum(self._level_losses(q, k) for q in queries)  # (L,)
        self._keys.append(k)
        parts = {f"level{self.lowest + n}": part for n, part in enumerate(levels.detach())}
        return levels.sum(), parts | {"box_overlap": overlap(jittered[0], boxes[0]).mean()}

    def _level_losses(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """InfoNCE of each level (L,), mean over the batch; q and k (B, L, dim)."""
        l_pos = (q * k).sum(2, keepdim=True)  # (B, L, 1)
        l_neg = torch.einsum("bld,ldk->blk", q, self.queue)  # (B, L, K)
        logits = torch.cat([l_pos, l_neg], 2) / self.T  # the positive is column 0
        return (torch.logsumexp(logits, 2) - logits[..., 0]).mean(0)


def boxes_of(alpha: torch.Tensor) -> torch.Tensor:
    """Tight boxes (B, 4) of alpha (B, 1, S, S) above one half; the whole view where nothing is."""
    boxes = tight_boxes(alpha[:, 0] > 0.5)
    whole = boxes.new_tensor([0, 0, *alpha.shape[-2:]])
    return torch.where(boxes[:, 2:3] > 0, boxes, whole)

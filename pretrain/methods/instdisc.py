"""Instance discrimination with a memory bank (Wu et al. 2018, arXiv 1805.01978)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import model_validator
from torch import nn

from data.options import Count, Share, setting
from pretrain.contract import Method, Sizes, Views
from pretrain.parts import losses
from pretrain.parts.distributed import mean_over_processes
from pretrain.parts.encoder import (
    Encoder,
    EncoderSettings,
    check_negatives,
    check_network,
    with_init,
)
from pretrain.parts.memory_bank import MemoryBank
from pretrain.parts.negatives import OwnDraws, SharedDraws, WholeMemory, stream_key
from pretrain.settings import Settings


class InstDiscSettings(EncoderSettings):
    """Its `[method]` table."""

    negatives: Count | Literal["all"] = setting(
        4096, "K, or 'all': the exact softmax over the whole bank"
    )
    shared_negatives: bool = setting(
        False, "one set of K negatives for the whole batch, not one for each sample"
    )
    loss: Literal["softmax", "nce"] = setting("softmax", "softmax NCE or original NCE")
    bank_momentum: Share = setting(0.5, "share of the old vector in the bank's update")

    @model_validator(mode="after")
    def _fit_together(self) -> InstDiscSettings:
        if self.loss == "nce" and self.negatives == "all":
            raise ValueError("negatives is 'all', which the loss nce cannot use; give a number")
        return self


class InstDisc(Method, nn.Module):
    """Every image is a class of its own; the memory bank holds each class's vector.

    encoder : images -> unit vectors (B, d).
    images : N, images in the data set.
    settings : shared negatives have each sample's distribution too, and so has its loss.
    seed : of the bank's first vectors and of the negatives.
    """

    Settings = InstDiscSettings
    views = 1

    def __init__(
        self, encoder: nn.Module, images: int, settings: InstDiscSettings, seed: int = 0
    ) -> None:
        super().__init__()
        s, self.seed = settings, seed
        self.encoder = encoder
        self.bank = MemoryBank(images, s.dim, s.bank_momentum, seed)
        self.tau, self.K, self.shared, self.loss = (
            s.temperature, s.negatives, s.shared_negatives, s.loss,
        )  # fmt: skip
        self.register_buffer("log_z", torch.tensor(torch.nan))  # of "nce", from the first batch
        self._z_frozen = False
        self._z_parts: list[torch.Tensor] = []  # of the first batch
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # (index, f) since `update`

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse more negatives than images, and views too small for the encoder."""
        if settings.method.negatives != "all":
            check_negatives(settings, sizes, remedy=", or all")
        check_network(settings, lambda: Encoder(settings.arch, settings.method), sizes.group)

    @classmethod
    def build(cls, settings: Settings, sizes: Sizes) -> InstDisc:
        encoder = with_init(Encoder(settings.arch, settings.method), settings)
        return cls(encoder, sizes.images, settings.method, settings.seed)

    @classmethod
    def chance_loss(cls, settings: Settings, images: int) -> float | None:
        """ln(K + 1); ln N for the whole bank."""
        if settings.method.loss == "nce":
            return None
        negatives = settings.method.negatives
        return math.log(images if negatives == "all" else negatives + 1)

    @property
    def backbone(self) -> nn.Module:
        return self.encoder.backbone

    def forward(self, views: Views, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the batch's mean loss; `step` and `views.rows` decide the negatives."""
        (x,) = views.images
        f = self.encoder(x)  # (B, d)
        v = self.bank.vectors[views.index]  # (B, d)
        negatives = self._negatives(step, views.rows)
        if self.loss == "softmax":
            loss = losses.softmax_nce(f, v, negatives, self.tau, negatives.positive_included)
        else:
            self._estimate_z(f, v, negatives)
            ratio = self.K / len(self.bank)
            loss = losses.nce(f, v, negatives, self.tau, self.log_z, ratio)
        self._kept.append((views.index, f.detach()))
        return loss.mean(), {}

    def update(self) -> None:
        """Move the vectors of the batch's images."""
        index, f = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        self.bank.update(index, f)
        self._z_frozen = True

    def _negatives(self, step: int, rows: torch.Tensor):
        """Return this step's negatives, an iterable of chunks."""
        vectors = self.bank.vectors
        if self.K == "all":
            return WholeMemory(vectors, len(rows))
        key = stream_key(self.seed, step)
        if self.shared:
            return SharedDraws(vectors, self.K, key, len(rows))
        return OwnDraws(vectors, self.K, key, rows)

    @torch.no_grad()
    def _estimate_z(self, f: torch.Tensor, v: torch.Tensor, negatives) -> None:
        """Set Z from the first batch, of which gradient accumulation shows a part at a time.

        Each part has the mean over those so far; after the batch it is frozen.
        """
        if self._z_frozen:  # known on the host: asking the tensor would wait for the device
            return
        if not self._z_parts and not torch.isnan(self.log_z):  # of a run that is resumed
            self._z_frozen = True
            return
        log_z = losses.log_normaliser(f, v, negatives, self.tau, len(self.bank))
        self._z_parts.append(mean_over_processes(log_z.exp()))
        self.log_z.copy_(torch.stack(self._z_parts).mean().log())

"""Instance discrimination with a memory bank (Wu et al. 2018, arXiv 1805.01978)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import model_validator
from torch import nn

from data.options import setting
from pretrain.contract import Method, Sizes, Views
from pretrain.parts import losses
from pretrain.parts.distributed import mean_over_processes
from pretrain.parts.encoder import (
    Count,
    EncoderSettings,
    Share,
    build_encoder,
    check_encoder,
    check_negatives,
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
    dim : d.
    temperature : tau, .07 as published.
    negatives : K draws from the whole bank with replacement, or "all": the exact softmax over the
        bank.
    shared : one set of K negatives for the whole batch instead of one for each sample (as
        published). Each sample's negatives have the same distribution either way, and so has its
        loss.
    loss : "softmax", the (K+1)-way cross-entropy, or "nce", the original noise-contrastive
        estimation (not with "all").
    bank_momentum : share of the old vector in the bank's update.
    seed : of the bank's first vectors and of the negatives.
    """

    Settings = InstDiscSettings
    views = 1

    def __init__(
        self,
        encoder: nn.Module,
        images: int,
        dim: int = 128,
        temperature: float = 0.07,
        negatives: int | Literal["all"] = 4096,
        shared: bool = False,
        loss: Literal["softmax", "nce"] = "softmax",
        bank_momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bank = MemoryBank(images, dim, bank_momentum, seed)
        self.tau, self.K, self.shared = temperature, negatives, shared
        self.loss, self.seed = loss, seed
        self.register_buffer("log_z", torch.tensor(torch.nan))  # of "nce", from the first batch
        self._z_frozen = False
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # (index, f) since `update`

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse more negatives than images, and views too small for the encoder."""
        if settings.method.negatives != "all":
            check_negatives(settings, sizes, remedy=", or all")
        check_encoder(settings, sizes)

    @classmethod
    def build(cls, settings: Settings, sizes: Sizes) -> InstDisc:
        s = settings.method
        return cls(
            build_encoder(settings), sizes.images, s.dim, s.temperature, s.negatives,
            s.shared_negatives, s.loss, s.bank_momentum, settings.seed,
        )  # fmt: skip

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
        """Set Z from the first batch; it is frozen from then on."""
        if self._z_frozen:  # known on the host: asking the tensor would wait for the device
            return
        if torch.isnan(self.log_z):
            log_z = losses.log_normaliser(f, v, negatives, self.tau, len(self.bank))
            self.log_z.copy_(mean_over_processes(log_z.exp()).log())
        self._z_frozen = True

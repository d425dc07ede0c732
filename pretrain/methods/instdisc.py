"""Instance discrimination with a memory bank (Wu et al. 2018, arXiv 1805.01978)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from pretrain.parts import losses
from pretrain.parts.distributed import mean_over_processes
from pretrain.parts.encoder import Encoder
from pretrain.parts.memory_bank import MemoryBank
from pretrain.parts.negatives import OwnDraws, SharedDraws, WholeMemory, stream_key


class InstDisc(nn.Module):
    """Every image is a class of its own; the memory bank holds each class's vector.

    Parameters
    ----------
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

    views = 1

    def __init__(
        self,
        encoder: Encoder,
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
        if loss == "nce" and negatives == "all":
            raise ValueError("the original NCE needs a number of negatives, not 'all'")
        self.encoder = encoder
        self.bank = MemoryBank(images, dim, bank_momentum, seed)
        self.tau, self.K, self.shared = temperature, negatives, shared
        self.loss, self.seed = loss, seed
        self.register_buffer("log_z", torch.tensor(torch.nan))  # of "nce", from the first batch
        self._z_frozen = False

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training."""
        return self.encoder.backbone

    def forward(
        self, views: list[torch.Tensor], index: torch.Tensor, step: int, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch's mean loss and what `update` needs.

        Parameters
        ----------
        views : one tensor (B, 3, H, W).
        index : int64 (B,), which images.
        step : number of the training step; with `rows` it decides the negatives.
        rows : int64 (B,), places of these samples in the global batch.
        """
        (x,) = views
        f = self.encoder(x)  # (B, d)
        v = self.bank.vectors[index]  # (B, d)
        negatives = self._negatives(step, rows)
        if self.loss == "softmax":
            loss = losses.softmax_nce(f, v, negatives, self.tau, negatives.positive_included)
        else:
            self._estimate_z(f, v, negatives)
            ratio = self.K / len(self.bank)
            loss = losses.nce(f, v, negatives, self.tau, self.log_z, ratio)
        return loss.mean(), f.detach()

    def update(self, index: torch.Tensor, f: torch.Tensor) -> None:
        """After the optimiser's step: move the vectors of the images just seen."""
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

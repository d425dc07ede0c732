"""Momentum contrast (He et al. 2020, arXiv 1911.05722; v2: Chen et al. 2020, arXiv 2003.04297)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional

from data.device import sent
from pretrain.parts.distributed import all_gather, own_share
from pretrain.parts.encoder import Encoder
from pretrain.parts.negatives import stream_key


class MoCo(nn.Module):
    """A query of one view against the key of the other, with a queue of earlier keys as negatives.

    v1 has a linear head and tau .07; v2 an MLP head (the encoder's) and tau .2.

    Parameters
    ----------
    encoder : images -> unit vectors (B, dim); the query encoder. The key encoder starts as its
        copy.
    dim : dimensions of q and k.
    K : keys in the queue, a multiple of the global batch.
    m : momentum of the key encoder.
    T : temperature, tau.
    seed : of the queue's first keys and of the shuffles.
    """

    views = 2

    def __init__(
        self,
        encoder: Encoder,
        dim: int = 128,
        K: int = 65536,
        m: float = 0.999,
        T: float = 0.07,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.K, self.m, self.T, self.seed = K, m, T, seed
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        queue = functional.normalize(torch.randn(dim, K, generator=generator), dim=0)
        self.register_buffer("queue", queue)  # (dim, K)
        self.queue_ptr = 0  # on the host: reading it must not wait for the device

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training."""
        return self.encoder_q.backbone

    def forward(
        self, views: list[torch.Tensor], index: torch.Tensor, step: int, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch's mean loss and what `update` needs.

        views : x_q and x_k, (B, 3, H, W) each. `step` decides the shuffle; `index` and `rows` are
        for methods that need them.
        """
        x_q, x_k = views
        q = self.encoder_q(x_q)  # (B, dim)
        with torch.no_grad():
            x_k, order = self._shuffle(x_k, step)
            k = self._unshuffle(self.encoder_k(x_k), order)  # (B, dim)
        with torch.autocast(q.device.type, enabled=False):
            l_pos = (q * k).sum(1, keepdim=True)  # (B, 1)
            l_neg = q @ self.queue  # (B, K)
            logits = torch.cat([l_pos, l_neg], 1) / self.T  # (B, 1 + K); the positive is column 0
        labels = torch.zeros(len(q), dtype=torch.long, device=q.device)
        return functional.cross_entropy(logits, labels), k

    @torch.no_grad()
    def update(self, index: torch.Tensor, k: torch.Tensor) -> None:
        """After the optimiser's step: move the key encoder, put the keys into the queue.

        The authors move the key encoder before the forward pass, which is the same but for the
        first step, where both encoders are equal.
        """
        k_q = [list(encoder.parameters()) for encoder in (self.encoder_k, self.encoder_q)]
        torch._foreach_lerp_(*k_q, 1 - self.m)  # m p_k + (1 - m) p_q, in few kernels
        keys = all_gather(k)  # (global batch, dim)
        self.queue[:, self.queue_ptr : self.queue_ptr + len(keys)] = keys.T
        self.queue_ptr = (self.queue_ptr + len(keys)) % self.K

    def get_extra_state(self) -> dict[str, int]:
        """What the state_dict holds besides tensors."""
        return {"queue_ptr": self.queue_ptr}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.queue_ptr = state["queue_ptr"]

    @torch.no_grad()
    def _shuffle(self, x: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Deal the global batch anew over processes and groups; return x and the order."""
        everything = all_gather(x)
        generator = torch.Generator().manual_seed(stream_key(self.seed, step))
        order = sent(torch.randperm(len(everything), generator=generator), x.device)
        return everything[own_share(order)], order

    @torch.no_grad()
    def _unshuffle(self, k: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """Bring the keys back into the order of the queries."""
        return all_gather(k)[own_share(order.argsort())]

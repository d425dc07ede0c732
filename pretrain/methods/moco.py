"""Momentum contrast (He et al. 2020, arXiv 1911.05722; v2: Chen et al. 2020, arXiv 2003.04297)."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import nn
from torch.nn import functional

from data.device import sent
from data.errors import UserError
from data.options import Count, Share, setting
from pretrain.contract import Method, MethodSettings, Sizes, Views
from pretrain.parts.distributed import all_gather, own_share
from pretrain.parts.encoder import (
    Encoder,
    EncoderSettings,
    check_negatives,
    check_network,
    with_init,
)
from pretrain.parts.negatives import stream_key
from pretrain.settings import Settings


class MoCoSettings(EncoderSettings):
    """Its `[method]` table."""

    negatives: Count = setting(65536, "K, the queue's length: a multiple of the batch")
    key_momentum: Share = setting(0.999, "momentum of the key encoder")
    background_negative: bool = setting(
        False, "a negative more: another object on the query's own background; needs masks"
    )

    @field_validator("negatives", mode="before")
    @classmethod
    def _a_queue(cls, value: Any) -> Any:
        if value == "all":
            raise ValueError("it is for another method; give moco a queue length")
        return value


class MoCo(Method, nn.Module):
    """A query of one view against the key of the other, with a queue of earlier keys as negatives.

    v1 has a linear head and tau .07; v2 an MLP head (the encoder's) and tau .2.

    With `background_negative` another image's object on the query's own background is one more
    negative of that query alone, and never enters the queue (BG_Swaps, Ryali et al. 2021, arXiv
    2103.12719): the background then tells positive from negative no longer.

    encoder : images -> unit vectors (B, dim), of queries; that of the keys starts as its copy.
    seed : of the queue's first keys and of the shuffles.
    queues : axes before (dim, K), where an image has several vectors and each a queue of its own.
    network : what an encoder is built by, of the backbone's name and the method's settings.
    """

    Settings = MoCoSettings
    network: ClassVar[type[nn.Module]] = Encoder
    views = 2
    groups = 8  # the authors' GPUs

    def __init__(
        self,
        encoder: nn.Module,
        settings: MoCoSettings,
        seed: int = 0,
        queues: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.K, self.m, self.T = settings.negatives, settings.key_momentum, settings.temperature
        self.seed = seed
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        queue = torch.randn(*queues, settings.dim, self.K, generator=generator)
        self.register_buffer("queue", functional.normalize(queue, dim=-2))  # (..., dim, K)
        self.queue_ptr = 0  # on the host: reading it must not wait for the device
        self._keys: list[torch.Tensor] = []  # since `update`

    @classmethod
    def check(cls, settings: Settings, sizes: Sizes) -> None:
        """Refuse a queue that is no multiple of the batch, and views too small for the encoder."""
        check_queue(settings, sizes)
        check_network(settings, lambda: cls.network(settings.arch, settings.method), sizes.group)

    @classmethod
    def build(cls, settings: Settings, sizes: Sizes) -> MoCo:
        encoder = with_init(cls.network(settings.arch, settings.method), settings)
        return cls(encoder, settings.method, settings.seed)

    @classmethod
    def chance_loss(cls, settings: Settings, images: int) -> float | None:
        """ln(K + 1), or with the background's negative ln(K + 2)."""
        s = settings.method
        return math.log(s.negatives + 1 + s.background_negative)

    @classmethod
    def wanted(cls, settings: MethodSettings) -> frozenset[str]:
        more = isinstance(settings, MoCoSettings) and settings.background_negative
        return cls.wants | {"negative"} if more else cls.wants

    @classmethod
    def notes(cls, settings: Settings, sizes: Sizes) -> list[str]:
        groups = sizes.groups * sizes.processes
        return [f"Keys are shuffled over {groups} batch-norm groups of {sizes.group} images."]

    @property
    def backbone(self) -> nn.Module:
        return self.encoder_q.backbone

    def forward(self, views: Views, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the batch's mean loss; `step` decides the shuffle."""
        x_q, x_k = views.images
        q = self.encoder_q(x_q)  # (B, dim)
        (k,) = self._encode_keys(step, x_k)
        return self._contrast(q, k, views, step)

    @torch.no_grad()
    def _encode_keys(self, step: int, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the key encoder makes of inputs, shuffled for its batch norms and back."""
        shuffled = [self._shuffle(x, step) for x in inputs]
        outputs = self.encoder_k(*(x for x, _ in shuffled))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(self._unshuffle(output, shuffled[0][1]) for output in outputs)

    def _contrast(
        self, q: torch.Tensor, k: torch.Tensor, views: Views, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of queries and keys (B, dim), which `update` will put into the queue."""
        same_background, logged = [], {}
        if views.negative is not None:
            same_background = [self._encode_keys(step, views.negative)[0]]
        with torch.autocast(q.device.type, enabled=False):
            l_pos = (q * k).sum(1, keepdim=True)  # (B, 1)
            l_own = [(q * other).sum(1, keepdim=True) for other in same_background]
            l_neg = q @ self.queue  # (B, K)
            logits = torch.cat([l_pos, *l_own, l_neg], 1) / self.T  # the positive is column 0
        if l_own:
            logged["object_over_background"] = (l_pos > l_own[0]).float().mean()
        labels = torch.zeros(len(q), dtype=torch.long, device=q.device)
        self._keys.append(k)
        return functional.cross_entropy(logits, labels), logged

    @torch.no_grad()
    def update(self) -> None:
        """Move the key encoder, put the batch's keys into the queue.

        The authors move the key encoder before the forward pass, which is the same but for the
        first step, where both encoders are equal.
        """
        k_q = [list(encoder.parameters()) for encoder in (self.encoder_k, self.encoder_q)]
        torch._foreach_lerp_(*k_q, 1 - self.m)  # m p_k + (1 - m) p_q, in few kernels
        keys = all_gather(torch.cat(self._keys))  # (global batch, ..., dim)
        self._keys.clear()
        self.queue[..., self.queue_ptr : self.queue_ptr + len(keys)] = keys.movedim(0, -1)
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


def check_queue(settings: Settings, sizes: Sizes) -> None:
    """Refuse a queue longer than the data set, or no multiple of the batch."""
    check_negatives(settings, sizes)
    name, negatives, batch = settings.method.name, settings.method.negatives, settings.batch_size
    if negatives % batch:
        near = max(batch, negatives // batch * batch)
        raise UserError(
            f"negatives is {negatives}, and {name}'s queue must be a multiple of the batch "
            f"of {batch}; give {near}, say."
        )

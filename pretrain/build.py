"""From settings to what trains: the method and its optimiser; whether sizes fit together."""

from __future__ import annotations

import torch

from data.errors import UserError
from pretrain.export import load_backbone
from pretrain.methods.instdisc import InstDisc
from pretrain.methods.moco import MoCo
from pretrain.parts.batch_norm import group_batch_norm
from pretrain.parts.distributed import World
from pretrain.parts.encoder import Encoder
from pretrain.settings import Settings

MOCO_GROUPS = 8  # the authors' GPUs


def in_bfloat16(settings: Settings, device: torch.device) -> bool:
    """Return whether the network computes in bfloat16 with these settings on this device."""
    automatic = settings.precision == "auto" and device.type == "cuda"
    return settings.precision == "bfloat16" or automatic


def check_sizes(settings: Settings, images: int, processes: int) -> None:
    """Refuse sizes that do not fit the data or each other, in one sentence each."""
    batch, parts = settings.batch_size, processes * settings.accumulate
    if batch > images:
        raise UserError(
            f"batch_size is {batch}, more than the {images} images in {settings.images!r}; "
            "give a smaller batch."
        )
    if batch % parts:
        raise UserError(
            f"batch_size is {batch}, which with processes = {processes} and accumulate = "
            f"{settings.accumulate} has no equal parts; give a multiple of {parts}."
        )
    if settings.negatives != "all" and settings.negatives > images:
        remedy = ", or all" if settings.method == "instdisc" else ""
        raise UserError(
            f"negatives is {settings.negatives}, more than the {images} images in "
            f"{settings.images!r}; give at most {images}{remedy}."
        )
    if settings.method == "moco" and settings.negatives % batch:
        near = max(batch, settings.negatives // batch * batch)
        raise UserError(
            f"negatives is {settings.negatives}, and moco's queue must be a multiple of the batch "
            f"of {batch}; give {near}, say."
        )
    if settings.bn_groups == 0:
        return
    own = batch // parts
    if settings.bn_groups % processes or own % (settings.bn_groups // processes):
        raise UserError(
            f"bn_groups is {settings.bn_groups}, which does not divide the {own} images of each "
            f"part of the batch (processes = {processes}, accumulate = {settings.accumulate}) "
            f"equally; give {processes}, say."
        )


def check_network(settings: Settings, processes: int) -> None:
    """Refuse views too small for the network, and batch norms of one value, by a run on shapes."""
    s = settings
    own = s.batch_size // (processes * s.accumulate) // bn_groups(s, processes)
    size = s.image_size
    try:
        with torch.device("meta"):  # nothing is allocated or computed
            Encoder(s.arch, s.dim, s.mlp, s.head_norm).train()(torch.empty(own, 3, size, size))
    except ValueError:  # a batch norm's, all others are RuntimeErrors
        raise UserError(
            f"each batch norm of {s.arch} would see {own} image{'s' * (own > 1)} of {size} px: one "
            "value a channel has no statistics; give a larger batch_size, or fewer parts of it "
            "(accumulate, bn_groups, processes)."
        ) from None
    except RuntimeError:
        raise UserError(f"image_size is {size}, too small for {s.arch}; give 64 or more.") from None


def bn_groups(settings: Settings, processes: int) -> int:
    """Return a process's batch-norm groups: as set, or for MoCo 8 among all processes."""
    if settings.bn_groups:
        return settings.bn_groups // processes
    if settings.method != "moco":
        return 1
    own = settings.batch_size // (processes * settings.accumulate)
    wanted = max(1, MOCO_GROUPS // processes)
    return max(g for g in range(1, wanted + 1) if own % g == 0 and (g == 1 or own // g >= 2))


def build_method(settings: Settings, images: int, here: World) -> InstDisc | MoCo:
    """Return the method on this process's device; its first weights follow from the seed alone."""
    torch.manual_seed(settings.seed)
    encoder = Encoder(settings.arch, settings.dim, settings.mlp, settings.head_norm)
    if settings.init is not None:
        load_backbone(encoder.backbone, settings.arch, settings.init)
    group_batch_norm(encoder, bn_groups(settings, here.size))
    if settings.method == "instdisc":
        method: InstDisc | MoCo = InstDisc(
            encoder,
            images,
            dim=settings.dim,
            temperature=settings.temperature,
            negatives=settings.negatives,
            shared=settings.shared_negatives,
            loss=settings.loss,
            bank_momentum=settings.bank_momentum,
            seed=settings.seed,
        )
    else:
        method = MoCo(
            encoder,
            dim=settings.dim,
            K=settings.negatives,
            m=settings.key_momentum,
            T=settings.temperature,
            seed=settings.seed,
        )
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    return method.to(here.device, memory_format=layout).train()


def build_optimizer(settings: Settings, method: torch.nn.Module) -> torch.optim.SGD:
    """Return SGD over everything that learns, weight decay included (batch norm and biases too)."""
    return torch.optim.SGD(
        [p for p in method.parameters() if p.requires_grad],
        lr=settings.scaled_lr(),
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )

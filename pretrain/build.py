"""From settings to what trains: fitting sizes, the method, its optimiser; and the run in words."""

from __future__ import annotations

from pathlib import Path

import torch

from data.device import has_bfloat16
from data.errors import UserError
from pretrain.contract import Method, Sizes
from pretrain.methods import load_method
from pretrain.parts.batch_norm import group_batch_norm
from pretrain.parts.distributed import World
from pretrain.settings import Settings
from pretrain.views.loader import Loader
from pretrain.views.mask_rows import FLAT, MISSING, POOR


def in_bfloat16(settings: Settings, device: torch.device) -> bool:
    """Return whether the network computes in bfloat16 with these settings on this device."""
    if settings.precision == "native":
        return has_bfloat16(device)
    automatic = settings.precision == "auto" and device.type == "cuda"
    return settings.precision == "bfloat16" or automatic


def check_sizes(settings: Settings, images: int, processes: int) -> Sizes:
    """Return what a method is built for; UserError: sizes do not fit the data or each other."""
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
    own, wanted = batch // parts, settings.bn_groups
    if wanted and (wanted % processes or own % (wanted // processes)):
        raise UserError(
            f"bn_groups is {wanted}, which does not divide the {own} images of each "
            f"part of the batch (processes = {processes}, accumulate = {settings.accumulate}) "
            f"equally; give {processes}, say."
        )
    method = load_method(settings.method.name)
    most = method.groups // processes  # of those that divide these images into two or more each
    usual = [g for g in range(2, most + 1) if own % g == 0 and own >= 2 * g]
    groups = wanted // processes or max(usual, default=1)
    sizes = Sizes(images, processes, groups, own // groups)
    method.check(settings, sizes)
    return sizes


def build_method(settings: Settings, sizes: Sizes, here: World) -> Method:
    """Return the method on this process's device; its first weights follow from the seed alone."""
    torch.manual_seed(settings.seed)
    method = load_method(settings.method.name).build(settings, sizes)
    group_batch_norm(method, sizes.groups)
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


# ---- in words ------------------------------------------------------------------------------------


def introduction(
    settings: Settings, sizes: Sizes, here: World, loader: Loader, workers: int, step: int
) -> list[str]:
    """Return sentences on what is about to happen, with all that was decided for the user."""
    s = settings
    precision = "bfloat16" if in_bfloat16(s, here.device) else "float32"
    lines = [
        f"{s.method.name}, {s.arch}, {sizes.images} images of {s.image_size} px: {s.epochs} epochs "
        f"of {len(loader)} steps of {s.batch_size} on {here.size} x {here.device.type} "
        f"({precision}), {workers} loading processes."
    ]
    if s.precision == "bfloat16" and not has_bfloat16(here.device):
        lines.append(
            f"This {here.device.type} only emulates bfloat16, which may be many times slower than "
            "float32; precision = native takes bfloat16 where it is computed."
        )
    if s.lr_batch != "fixed":
        lines.append(
            f"Learning rate {s.scaled_lr():g} = {s.lr:g} x {s.batch_size} / {s.lr_batch} "
            "(linear scaling), weight decay on every parameter."
        )
    method = load_method(s.method.name)
    lines += method.notes(s, sizes)
    masks = loader.masks
    if masks is not None:
        flat, poor = masks.count(FLAT), masks.count(POOR)
        unused = f"; {flat} masks are empty" if flat else ""
        if poor:
            low, high = s.paste_coverage
            unused += f"; {poor} images stay unpasted, their masks' means not in {low}..{high}"
        lines.append(f"Pasting with probability {s.paste_probability:g} on {s.background}{unused}.")
        if masks.count(MISSING):
            lines.append(f"Used unpasted: {masks.complaint(s.images, s.masks)}.")
    chance = method.chance_loss(s, sizes.images)
    if chance is not None:
        lines.append(f"A loss of {chance:.2f} is that of a network that knows nothing.")
    if step:
        lines.append(f"Going on after step {step} of {s.epochs * len(loader)}.")
    return lines


def title(settings: Settings) -> str:
    """Return method, backbone, pasting and data set in a line."""
    paste = f"paste {settings.paste_probability:g}" if settings.paste_probability else "no pasting"
    return f"{settings.method.name}, {settings.arch}, {paste}, {Path(settings.images).name}"

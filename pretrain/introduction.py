"""What a run says of itself before it begins, and its picture's title."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from pretrain.build import bn_groups
from pretrain.parts.distributed import World
from pretrain.settings import Settings
from pretrain.views.loader import Loader


def chance_loss(settings: Settings, images: int) -> float | None:
    """Return the loss of a network that knows nothing: ln(K + 1); ln N for the whole bank."""
    if settings.loss == "nce":
        return None
    return math.log(images if settings.negatives == "all" else settings.negatives + 1)


def introduce(
    settings: Settings,
    here: World,
    loader: Loader,
    workers: int,
    bfloat16: bool,
    step: int,
    say: Callable[[str], None],
) -> None:
    """Say what is about to happen, with everything that was decided for the user."""
    s, images = settings, len(loader.keys)
    say(
        f"{s.method}, {s.arch}, {images} images of {s.image_size} px: {s.epochs} epochs of "
        f"{len(loader)} steps of {s.batch_size} on {here.size} x {here.device.type} "
        f"({'bfloat16' if bfloat16 else 'float32'}), {workers} loading processes."
    )
    if s.lr_batch != "fixed":
        say(
            f"Learning rate {s.scaled_lr():g} = {s.lr:g} x {s.batch_size} / {s.lr_batch} "
            "(linear scaling), weight decay on every parameter."
        )
    if s.method == "moco":
        groups = bn_groups(s, here.size) * here.size
        say(
            f"Keys are shuffled over {groups} batch-norm groups of "
            f"{s.batch_size // s.accumulate // groups} images."
        )
    masks = loader.masks
    if masks is not None:
        flat = f"; {masks.flat} masks are empty" if masks.flat else ""
        say(f"Pasting with probability {s.paste_probability:g} on {s.background}{flat}.")
        if masks.missing:
            say(f"Used unpasted: {masks.complaint(s.images, s.masks)}.")
    chance = chance_loss(s, images)
    if chance is not None:
        say(f"A loss of {chance:.2f} is that of a network that knows nothing.")
    if step:
        say(f"Going on after step {step} of {s.epochs * len(loader)}.")


def title(settings: Settings) -> str:
    """Return method, backbone, pasting and data set in a line."""
    paste = f"paste {settings.paste_probability:g}" if settings.paste_probability else "no pasting"
    return f"{settings.method}, {settings.arch}, {paste}, {Path(settings.images).name}"

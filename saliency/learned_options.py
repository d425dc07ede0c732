"""What a network's settings mean on this machine."""

import hashlib
from typing import Any

import torch

from data.device import default_batch_size, pick_device, pick_precision
from data.errors import UserError
from saliency.methods.protocol import NetworkSettings


def arithmetic(
    name: str, settings: NetworkSettings
) -> tuple[torch.device, torch.dtype | None, int]:
    """Return device, autocast's type and batch size.

    Raises UserError: no weights, no such device.
    """
    if settings.weights is None:
        example = "basnet.pth" if name == "basnet" else "resnet50.pth"
        raise UserError(f"--method {name} needs --weights, a checkpoint such as {example}.")
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    return device, precision, settings.batch_size or default_batch_size(device)


def shared_parameters(settings: NetworkSettings, precision: torch.dtype | None) -> dict[str, Any]:
    """Return what shards by any network record: the arithmetic, and the weights' digest."""
    with open(settings.weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = str(precision or "torch.float32").split(".")[-1]
    return {"precision": name, "weights_sha256": digest}

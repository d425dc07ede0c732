"""What a network's settings mean on this machine."""

import hashlib
import os
from typing import Any

import torch

from data.device import default_batch_size, pick_device, pick_precision
from data.errors import UserError
from saliency.methods.protocol import NetworkSettings


def arithmetic(
    name: str, settings: NetworkSettings
) -> tuple[torch.device, torch.dtype | None, int, dict[str, Any]]:
    """Return device, autocast's type, batch size, and what of them and of the weights shapes masks.

    Raises UserError: no weights, no such device.
    """
    if settings.weights is None:
        example = "basnet.pth" if name == "basnet" else "resnet50.pth"
        raise UserError(f"--method {name} needs --weights, a checkpoint such as {example}.")
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    parameters = {
        "precision": str(precision or "torch.float32").split(".")[-1],
        "weights_sha256": _digest(settings.weights),
    }
    return device, precision, settings.batch_size or default_batch_size(device), parameters


def _digest(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

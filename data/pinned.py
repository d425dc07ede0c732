"""Small values on their way to a GPU that is busy."""

import torch


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values from the CPU's memory on the device, same shape and dtype.

    A plain copy to a GPU waits until it has computed all that it was given before; one from pinned
    memory does not.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)

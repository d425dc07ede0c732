"""Load BASNet's weights from a published or own checkpoint, strictly."""

import os

import torch

from data.errors import UserError
from saliency.basnet.network import BASNet
from saliency.state_dict import differences, read_state_dict


def load_basnet(path: str | os.PathLike) -> BASNet:
    """Build the BASNet that a checkpoint holds.

    The published ``basnet.pth`` and ``basnet_scratch.pth`` load as they are, and so does the
    ``best.pth`` of our training; the width is read off the first convolution. Every key must be
    there with its shape and no other, except that PyTorch 0.4 wrote no ``num_batches_tracked``
    (439 keys, not 517).

    Parameters
    ----------
    path
        A state_dict written by `torch.save`, of any version.

    Returns
    -------
    BASNet
        On the CPU, float32, in evaluation mode.

    Raises
    ------
    UserError
        No such file, not a state_dict, or not BASNet's keys and shapes: the sentence names them.
    """
    found = read_state_dict(path)
    first = found.get("inconv.weight")
    channels = first.shape[0] if first is not None and first.ndim == 4 else 0
    with torch.device("meta"):  # the shapes without the memory; a foreign file costs nothing
        network = BASNet(width=(channels or 64) / 64)
    wanted = network.state_dict()
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]
    if not any(key in found for key in counters):
        found |= {key: torch.zeros((), dtype=torch.int64) for key in counters}
    difference = differences(found, wanted)
    if difference:
        raise UserError(
            f"--weights {path} is not a BASNet checkpoint ({difference}); "
            "give basnet.pth as published or the best.pth of python -m saliency.basnet.train."
        )
    found = {key: found[key].to(wanted[key].dtype) for key in wanted}
    network.load_state_dict(found, strict=True, assign=True)
    return network.eval()

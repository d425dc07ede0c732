"""BASNet's weights from files: a checkpoint as it is, strictly, or a ResNet-34 for the encoder."""

import os
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import ResNet34_Weights

from data.errors import UserError
from data.weights import differences, fill, read_network
from saliency.basnet.network import BASNet


def load_basnet(path: str | os.PathLike) -> BASNet:
    """Build the BASNet that a checkpoint holds, on the CPU, float32, in evaluation mode.

    The published ``basnet.pth`` and ``basnet_scratch.pth`` load as they are, and so does the
    ``best.pth`` of our training; the width is read off the first convolution. Every name must be
    there with its shape and no other.

    Raises UserError: no such file, no state_dict, or not BASNet's names and shapes, which it names.
    """
    state, _ = read_network(path, "--weights", ["inconv.weight"])
    first = state.get("inconv.weight")
    channels = first.shape[0] if first is not None and first.ndim == 4 else 0
    with torch.device("meta"):  # the shapes without the memory; a foreign file costs nothing
        network = BASNet(width=(channels or 64) / 64)
    if difference := differences(state, network.state_dict()):
        raise UserError(
            f"--weights {path} is not a BASNet checkpoint ({difference}); "
            "give basnet.pth as published or the best.pth of python -m saliency.basnet.train."
        )
    fill(network, state)
    return network.eval()


def load_encoder(network: BASNet, path: str | os.PathLike | None = None) -> None:
    """Copy `layer1` to `layer4` of a ResNet-34 into `encoder1` to `encoder4`, as published.

    network : of width 1.
    path : a state_dict with torchvision's names; None takes torchvision's ImageNet weights from its
        cache, or downloads them.

    Raises UserError: the download fails, or the file holds no ResNet-34.
    """
    source = (
        _download()
        if path is None
        else read_network(path, "--encoder-weights", ["conv1.weight"])[0]
    )
    own = network.state_dict()
    stages = {name: value for name, value in own.items() if name.startswith("encoder")}
    state = {
        name.replace("layer", "encoder"): value
        for name, value in source.items()
        if name.startswith("layer")
    }
    if difference := differences(state, stages):
        raise UserError(
            f"--encoder-weights {path} does not fit ({difference}); "
            "give torchvision's resnet34 and --width 1, or train with --from-scratch."
        )
    fill(network, own | state)


def _download() -> dict[str, Tensor]:
    url = ResNet34_Weights.IMAGENET1K_V1.url
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"ImageNet weights for the encoder cannot be fetched from {url} ({error}); "
            "give a copy with --encoder-weights FILE, or train with --from-scratch."
        ) from None

"""Start BASNet's encoder from a ResNet-34 trained on ImageNet, as published."""

import os
from urllib.error import URLError

import torch
from torch import Tensor
from torchvision.models import ResNet34_Weights

from data.errors import UserError
from saliency.basnet.network import BASNet
from saliency.state_dict import differences, read_state_dict


def load_encoder(network: BASNet, path: str | os.PathLike | None = None) -> None:
    """Copy `layer1` to `layer4` of a ResNet-34 into `encoder1` to `encoder4`, in place.

    Parameters
    ----------
    network : BASNet
        Of width 1.
    path
        A state_dict with torchvision's names; None takes torchvision's ImageNet weights from its
        cache, or downloads them.

    Raises
    ------
    UserError
        The download fails, or the file holds no ResNet-34.
    """
    source = read_state_dict(path, "--encoder-weights") if path is not None else _download()
    wanted = {
        f"layer{key.removeprefix('encoder')}": value
        for key, value in network.state_dict().items()
        if key.startswith("encoder")
    }
    found = {key: value for key, value in source.items() if key.startswith("layer")}
    difference = differences(found, wanted)
    if difference:
        raise UserError(
            f"--encoder-weights {path} does not fit ({difference}); "
            "give torchvision's resnet34 and --width 1, or train with --from-scratch."
        )
    renamed = {f"encoder{key.removeprefix('layer')}": value for key, value in found.items()}
    network.load_state_dict(renamed, strict=False)


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

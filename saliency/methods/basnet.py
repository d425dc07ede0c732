"""BASNet as a method of `saliency-compute`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.options import setting
from saliency.methods.protocol import NetworkSettings

if TYPE_CHECKING:
    from data.keys import Keys
    from saliency.basnet.method import BasnetMethod


class Settings(NetworkSettings):
    """BASNet's options."""

    compiled: bool = setting(
        False,
        "compile the network by torch.compile first",
        names=("--compile",),
        heading="Methods by a network",
    )


def build(settings: Settings, keys: Keys) -> BasnetMethod:
    """Load the network; see `saliency.methods.protocol.NetworkBuilder`."""
    from saliency.basnet import Predictor, load_basnet
    from saliency.basnet.method import SIZE, BasnetMethod

    device, precision, batch_size = settings.arithmetic("basnet")
    network = load_basnet(settings.weights)
    predictor = Predictor(network, device, precision, batch_size, settings.compiled)
    method = BasnetMethod(predictor, settings.input_size or SIZE)
    parameters = settings.recorded(precision)
    method.parameters = {**parameters, "input_size": settings.input_size or SIZE}
    return method

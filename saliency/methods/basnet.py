"""BASNet as a method of `saliency-compute`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.options import setting
from saliency.methods.protocol import NetworkSettings

if TYPE_CHECKING:
    from data.keys import Keys
    from saliency.basnet import Predictor


class Settings(NetworkSettings):
    """BASNet's options."""

    compiled: bool = setting(
        False,
        "compile the network by torch.compile first",
        names=("--compile",),
        heading="Methods by a network",
    )


def build(settings: Settings, keys: Keys) -> Predictor:
    """Load the network; see `saliency.methods.protocol.NetworkBuilder`."""
    from saliency.basnet import Predictor, load_basnet
    from saliency.basnet.preprocess import SIZE

    device, precision, batch_size = settings.arithmetic("basnet")
    size = settings.input_size or SIZE
    network = load_basnet(settings.weights)
    method = Predictor(network, device, precision, batch_size, settings.compiled, size)
    method.parameters = {**settings.recorded(precision), "input_size": size}
    return method

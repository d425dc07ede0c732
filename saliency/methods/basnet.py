"""BASNet as a method of `saliency-compute`."""

from data.keys import Keys
from saliency.basnet import Predictor, load_basnet
from saliency.basnet.predict import SIZE
from saliency.methods.protocol import NetworkSettings


def build(settings: NetworkSettings, keys: Keys) -> Predictor:
    """Load the network; see `saliency.methods.protocol.NetworkBuilder`."""
    device, precision, batch_size = settings.arithmetic("basnet")
    size = settings.input_size or SIZE
    method = Predictor(load_basnet(settings.weights), device, precision, batch_size, size)
    method.parameters = {**settings.recorded(precision), "input_size": size}
    return method

"""Networks in archives of `torch.export.save` (.pt2), as a method of `saliency-compute`."""

from collections.abc import Sequence

from torch import Tensor

from data.device import computing_in
from data.keys import Keys
from saliency.exported import Program
from saliency.foreign import ForeignNetwork, Opened
from saliency.normalisation import ForeignSettings


def build(settings: ForeignSettings, keys: Keys) -> ForeignNetwork:
    """Load the network; see `saliency.methods.protocol.NetworkBuilder`."""
    device, precision, _ = settings.arithmetic("exported")
    name = f"--weights {str(settings.weights)!r}"
    program = Program(settings.weights, device, name)

    def run(batch: Tensor) -> Sequence[Tensor]:
        with computing_in(precision, device):
            return program(batch)

    opened = Opened(run, program.shape, program.outputs)
    network = ForeignNetwork(opened, settings, device, name)
    network.parameters |= settings.recorded(precision)
    return network

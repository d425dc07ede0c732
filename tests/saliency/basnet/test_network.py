"""BASNet against the published layout, built a second time from plain function calls."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from saliency.basnet import BASNet
from saliency.basnet.network import OUTPUTS

HERE = Path(__file__).parent


def load_oracle():
    spec = importlib.util.spec_from_file_location("basnet_oracle", HERE / "oracle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


oracle = load_oracle()


def published_layout(name=HERE / "keys.txt") -> dict[str, tuple[int, ...]]:
    """{key: shape} of the published checkpoint as PyTorch writes it today."""
    layout = {}
    for line in Path(name).read_text().splitlines():
        key, shape = line.split(maxsplit=1)
        layout[key] = tuple(int(n) for n in re.findall(r"\d+", shape))
    return layout


def narrow_layout(divisor):
    """The published layout with every number of channels but RGB and 1 divided."""
    return {
        key: tuple(n // divisor if n >= 64 else n for n in shape)
        for key, shape in published_layout().items()
    }


def test_keys_shapes_and_parameters_are_the_published_ones():
    with torch.device("meta"):
        network = BASNet()
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert ours == published_layout() and len(ours) == 517
    assert list(ours) == list(published_layout())
    assert sum(p.numel() for p in network.parameters()) == 87_060_360
    assert sum(p.numel() for p in network.refunet.parameters()) == 482_177
    assert len(list(network.parameters())) == 283
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) == 78


def test_width_scales_every_channel():
    ours = {key: tuple(v.shape) for key, v in BASNet(width=1 / 16).state_dict().items()}
    assert ours == narrow_layout(16)


@pytest.mark.parametrize(("divisor", "size"), [(16, (64, 96)), (4, (64, 64))])
def test_outputs_equal_the_published_architecture(divisor, size):
    weights = oracle.random_state_dict(narrow_layout(divisor))
    network = BASNet(width=1 / divisor).eval()
    network.load_state_dict(weights, strict=True)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = network(x), oracle.basnet(weights, x)
    assert len(ours) == len(theirs) == len(OUTPUTS) == 8
    for name, a, b in zip(OUTPUTS, ours, theirs, strict=True):
        assert a.shape == b.shape == (2, 1, *size)
        assert (a - b).abs().max() < 1e-4, name
        assert b.std() > 0.01, f"{name} is constant: the comparison would pass for any network"


def test_outputs_equal_the_published_architecture_at_full_width():
    weights = oracle.random_state_dict(published_layout())
    with torch.device("meta"):
        network = BASNet().eval()
    network.load_state_dict(weights, strict=True, assign=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for a, b in zip(network(x), oracle.basnet(weights, x), strict=True):
            assert (a - b).abs().max() < 1e-4


def test_sides_need_not_be_multiples_of_32():
    network = BASNet(width=1 / 32).eval()
    with torch.no_grad():
        assert all(map_.shape == (1, 1, 75, 50) for map_ in network(torch.randn(1, 3, 75, 50)))


def test_outputs_stay_float32_under_autocast():
    network = BASNet(width=1 / 32).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        full = network(x)[0]
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x)[0]
    assert half.dtype == torch.float32
    assert (full - half).abs().max() < 0.05

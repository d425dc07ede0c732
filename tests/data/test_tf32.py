"""Full float32: what is switched off within the block, what is back after it, and who uses it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from data.device import computing_in, without_tf32
from data.run import Run
from saliency.basnet import BASNet, Predictor
from saliency.basnet.settings import Settings
from saliency.basnet.trainer import Trainer
from saliency.methods.cam import Cam
from saliency.methods.gradient import Gradient

CPU = torch.device("cpu")
OFF = (False, False, "highest")


def switches():
    """Convolutions in TF32, matrix products in TF32, and PyTorch's word for the latter."""
    backends = torch.backends
    precision = torch.get_float32_matmul_precision()
    return backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, precision


@pytest.fixture(autouse=True)
def settings_of_others():
    """Every test begins with PyTorch's own settings, which are the whole process's."""
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("convolutions", [True, False])
@pytest.mark.parametrize("products", ["highest", "high", "medium"])
def test_tf32_is_off_inside_and_as_before_afterwards(convolutions, products):
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision(products)
    before = switches()
    with without_tf32():
        assert switches() == OFF
    assert switches() == before
    with pytest.raises(ZeroDivisionError), without_tf32():
        raise ZeroDivisionError
    assert switches() == before


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="this PyTorch has the old switches only"
)
@pytest.mark.parametrize(
    ("place", "word"),
    [("cudnn.conv", "ieee"), ("cudnn.rnn", "ieee"), ("cuda.matmul", "tf32"), ("", "tf32")],
)
def test_new_settings_that_contradict_the_old_are_as_before_afterwards(place, word):
    """PyTorch itself refuses to read the old switches then."""
    kinds = ("cudnn.conv", "cudnn.rnn", "cuda.matmul")

    def find(name):
        found = torch.backends
        for part in filter(None, name.split(".")):
            found = getattr(found, part)
        return found

    def words():
        return [find(kind).fp32_precision for kind in kinds]

    usual = find(place).fp32_precision
    try:
        find(place).fp32_precision = word
        before = words()
        with without_tf32():
            assert words() == ["ieee"] * 3 and switches() == OFF
        assert words() == before
    finally:
        find(place).fp32_precision = usual


def test_older_pytorch_has_the_old_switches_only(monkeypatch):
    monkeypatch.setattr("data.device._switches", list)
    torch.set_float32_matmul_precision("high")
    with without_tf32():
        assert switches() == OFF
    assert switches() == (True, True, "high")


def test_half_precision_leaves_tf32_alone_and_float32_ends_autocast():
    torch.set_float32_matmul_precision("high")
    with computing_in(torch.bfloat16, CPU):
        assert switches() == (True, True, "high")
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        with computing_in(None, CPU):
            assert switches() == OFF
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert switches() == (True, True, "high")


class Watched(nn.Module):
    """A classifier that notes the switches, forward and backward."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 2)
        self.seen = []

    def forward(self, x):
        self.seen.append(switches())
        features = self.features(x)
        if features.requires_grad:
            features.register_hook(lambda gradient: self.seen.append(switches()))
        return self.fc(features.mean(dim=(2, 3)))


@pytest.mark.parametrize("kind", [Cam, Gradient])
def test_classifiers_compute_in_full_float32(kind):
    network = Watched()
    method = kind(network, CPU, None, batch_size=2, size=32)
    network.seen.clear()
    method.compute(torch.rand(2, 3, 32, 32), ["a/1", "b/2"])
    assert network.seen == [OFF] * (1 if kind is Cam else 2)
    assert switches() == (True, False, "highest")


def test_predictor_computes_in_full_float32():
    network = BASNet(width=1 / 32)
    seen = []
    network.inconv.register_forward_hook(lambda *_: seen.append(switches()))
    Predictor(network)(np.zeros((1, 3, 32, 32), np.float32))
    assert seen == [OFF] and switches() == (True, False, "highest")


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_training_computes_in_full_float32_what_is_in_float32(tmp_path, precision):
    network = BASNet(width=1 / 32)
    seen = []

    def note(*_):
        seen.append((switches(), torch.is_autocast_enabled("cpu")))

    network.inconv.register_forward_hook(note)
    network.inconv.weight.register_hook(note)
    settings = Settings(batch_size=2, crop=32, width=1 / 32, from_scratch=True)
    pairs = [SimpleNamespace(name=str(i)) for i in range(2)]
    trainer = Trainer(network, pairs, [], Run(tmp_path), settings, CPU, precision)
    trainer._train_step(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32), lr=1e-3)
    before = (True, False, "highest")
    assert seen == [(OFF, False) if precision is None else (before, True), (OFF, False)]
    assert switches() == before

"""float32 is not TF32."""

import pytest
import torch

from data.device import without_tf32
from evaluate.models import Backbone


@pytest.mark.parametrize("command", ["knn", "linear", "neighbors"])
def test_networks_run_without_tf32(probe, tmp_path, split_folder, monkeypatch, command):
    seen = set()
    forward = Backbone.forward

    def look(self, images, *masks):
        seen.add(torch.backends.cudnn.allow_tf32)
        return forward(self, images, *masks)

    monkeypatch.setattr(Backbone, "forward", look)
    before = torch.backends.cudnn.allow_tf32
    options = ("--image-size", 16, "--workers", 0, "--device", "cpu", "--out", tmp_path / "out")
    more = ("--epochs", 1, "--lr", 0.1) if command == "linear" else ()
    probe(command, "random:resnet18", split_folder, *options, *more)
    assert seen == {False}
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("allowed", [False, True])
def test_the_setting_comes_back_after_an_error(monkeypatch, allowed):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
    with pytest.raises(KeyError), without_tf32():
        assert not torch.backends.cudnn.allow_tf32
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 is allowed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_convolutions_on_cuda_are_those_of_float32():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(256, 64, 3)
    images = torch.randn(4, 256, 20, 20)
    with torch.no_grad():
        exact = layer.double()(images.double())
        with without_tf32():
            found = layer.float().cuda()(images.cuda()).cpu().double()
    assert (found - exact).abs().max() < 1e-4  # of values of about 1; TF32's error is about 1e-3

"""Checkpoints: the published layout loads as it is, and everything else is told in one sentence."""

import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from data.errors import UserError
from saliency.basnet import BASNet, load_basnet


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint with the published keys, shapes and types; small, one number per tensor."""
    lines = Path(__file__).with_name("keys.txt").read_text().splitlines()
    weights = {}
    for number, line in enumerate(lines):
        key, shape = line.split(maxsplit=1)
        shape = tuple(int(n) for n in re.findall(r"\d+", shape))
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(number)
        else:
            weights[key] = torch.tensor(float(number)).expand(shape)
    path = tmp_path_factory.mktemp("weights") / "basnet.pth"
    torch.save(weights, path)
    return path, weights


def small_weights():
    return BASNet(width=1 / 32).state_dict()


def complaint(path) -> str:
    with pytest.raises(UserError) as told:
        load_basnet(path)
    sentence = told.value.message
    assert "\n" not in sentence and sentence.endswith(".") and str(path) in sentence
    return sentence


def test_published_checkpoint_loads_unchanged(published):
    path, weights = published
    network = load_basnet(path)
    loaded = network.state_dict()
    assert list(loaded) == list(weights) and len(loaded) == 517
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    assert not network.training and all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("new_format", [True, False])
def test_pytorch_0_4_checkpoint_without_counters_loads(tmp_path, published, new_format):
    weights = {k: v for k, v in published[1].items() if not k.endswith("num_batches_tracked")}
    assert len(weights) == 439
    path = tmp_path / "old.pth"
    torch.save(weights, path, _use_new_zipfile_serialization=new_format)
    loaded = load_basnet(path).state_dict()
    assert len(loaded) == 517 and loaded["inbn.num_batches_tracked"] == 0
    assert torch.equal(loaded["outconv1.bias"], weights["outconv1.bias"])


def test_width_is_read_from_the_checkpoint(tmp_path):
    weights = small_weights()
    torch.save(weights, tmp_path / "small.pth")
    network = load_basnet(tmp_path / "small.pth")
    assert network.inconv.out_channels == 2
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32))[0].shape == (1, 1, 32, 32)


def test_half_precision_weights_load_as_float32(tmp_path):
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in small_weights().items()},
               tmp_path / "half.pth")  # fmt: skip
    assert load_basnet(tmp_path / "half.pth").inconv.weight.dtype == torch.float32


def test_missing_file(tmp_path):
    assert "there is no such file" in complaint(tmp_path / "none.pth")


def test_differing_keys_are_named(tmp_path):
    weights = small_weights()
    weights["fc.weight"] = weights.pop("outconvb.weight")
    weights["inbn.bias"] = torch.zeros(5)
    torch.save(weights, tmp_path / "other.pth")
    sentence = complaint(tmp_path / "other.pth")
    assert "1 missing: outconvb.weight" in sentence
    assert "1 unexpected: fc.weight" in sentence
    assert "1 misshapen: inbn.bias (5,) for (2,)" in sentence


def test_half_of_the_counters_is_not_the_old_format(tmp_path):
    weights = small_weights()
    del weights["inbn.num_batches_tracked"]
    torch.save(weights, tmp_path / "lacking.pth")
    assert "1 missing: inbn.num_batches_tracked" in complaint(tmp_path / "lacking.pth")


def test_another_network_is_refused_with_some_of_its_keys(tmp_path):
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "linear.pth")
    sentence = complaint(tmp_path / "linear.pth")
    assert "439 missing: inconv.weight" in sentence and "2 unexpected: weight, bias" in sentence
    torch.save({"inconv.weight": torch.zeros(0, 3, 3, 3)}, tmp_path / "no-channels.pth")
    assert "inconv.weight (0, 3, 3, 3) for" in complaint(tmp_path / "no-channels.pth")


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ({"state_dict": {"a": 1}, "epoch": 3}, "a dictionary of state_dict, epoch"),
        ([torch.zeros(1)], "a list"),
        (torch.zeros(1), "a Tensor"),
        ({}, "an empty dictionary"),
    ],
)
def test_file_of_tensors_that_is_no_state_dict(tmp_path, content, holds):
    torch.save(content, tmp_path / "odd.pth")
    assert f"holds {holds}, not a state_dict" in complaint(tmp_path / "odd.pth")


class Attack:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch unpickled",)


@pytest.mark.parametrize("save", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_nothing_is_unpickled(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"inconv.weight": Attack()}, tmp_path / "attack.pth")
    sentence = complaint(tmp_path / "attack.pth")
    assert "holds Python objects" in sentence
    assert not (tmp_path / "unpickled").exists()


def test_whole_pickled_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(3, 2), tmp_path / "network.pth")
    assert "holds Python objects" in complaint(tmp_path / "network.pth")


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "image.pth").write_bytes(content)
    assert "is not a file that torch.save wrote" in complaint(tmp_path / "image.pth")


def test_truncated_checkpoint_is_refused(tmp_path):
    torch.save(small_weights(), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "part.pth").write_bytes(content[: len(content) // 2])
    assert "cut short" in complaint(tmp_path / "part.pth")


def test_folder_in_place_of_a_file(tmp_path):
    assert "there is no such file" in complaint(tmp_path)

"""Every way in which trainers wrap a network gives the same network."""

import argparse
import collections
import itertools

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from data.errors import UserError
from data.weights import network_in, read_network, read_weights
from evaluate.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(3)
    network = torchvision.models.resnet18()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture(scope="module")
def bare(resnet):
    state = resnet.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def head(prefix):
    return {f"{prefix}0.weight": torch.randn(8, 512), f"{prefix}0.bias": torch.randn(8)}


def other(state):
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


WRAPPINGS = {
    "plain": lambda b: b,
    "with a classifier": lambda b: b | {"fc.weight": torch.randn(5, 512), "fc.bias": torch.ones(5)},
    "DataParallel": lambda b: {"state_dict": under("module.", b)},
    "torch.compile": lambda b: under("_orig_mod.", b),
    "compiled DataParallel": lambda b: under("module._orig_mod.", b),
    "Lightning": lambda b: {
        "state_dict": under("model.", b) | head("projector."),
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
    },
    "MMLab": lambda b: {
        "meta": {"mmcv_version": "1.7"},
        "state_dict": under("backbone.", b) | head("neck.mlp.") | {"queue": torch.randn(9, 4)},
    },
    "VISSL": lambda b: {
        "classy_state_dict": {
            "base_model": {
                "model": {"trunk": under("_feature_blocks.", b), "heads": head("0.clf.")}
            }
        }
    },
    "MoCo": lambda b: {
        "state_dict": under("module.encoder_q.", b)
        | under("module.encoder_k.", other(b))
        | {"module.queue": torch.randn(4, 9)}
    },
    "BYOL": lambda b: {"online_encoder": b, "target_encoder": other(b), "predictor": head("net.")},
    "timm": lambda b: {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": b,
        "state_dict_ema": other(b),
        "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.99)),
        "metric": np.float64(81.2),
    },
    "DINO": lambda b: {
        "student": under("module.backbone.", b) | head("module.head.mlp."),
        "teacher": under("backbone.", other(b)) | head("head.mlp."),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(arch="resnet18"),
    },
    "SwAV": lambda b: (
        under("module.", b)
        | head("module.projection_head.")
        | {"module.prototypes.weight": torch.randn(30, 128)}
    ),
    "Lightly": lambda b: {
        "state_dict": under("backbone.", numbered(b)) | head("projection_head.layers.")
    },
    "a numbered backbone": lambda b: numbered(b),
    "three deep": lambda b: {"a": {"b": {"c": {"state_dict": under("net.encoder.", b)}}}},
    "arrays": lambda b: {"model": {name: value.numpy() for name, value in b.items()}},
    "best score of NumPy": lambda b: {"state_dict": b, "best": np.float32(0.7), "n": np.int64(3)},
    "curve of NumPy": lambda b: {"state_dict": b, "curve": np.arange(4.0), "epoch": 3},
    "ordered": lambda b: {"model_state_dict": collections.OrderedDict(b)},
    "saved twice": lambda b: {"model": b, "network": dict(b)},
}


def numbered(state):
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    split = ((name.partition("."), value) for name, value in state.items())
    return {f"{numbers[first]}.{rest}": value for (first, _, rest), value in split}


@pytest.mark.parametrize("name", WRAPPINGS)
@pytest.mark.parametrize("arch", [None, "resnet18"])
def test_features_are_those_of_the_bare_network(tmp_path, resnet, bare, name, arch):
    torch.save(WRAPPINGS[name](bare), tmp_path / "weights.any-ending")
    loaded = load_checkpoint(tmp_path / "weights.any-ending", arch)
    state = loaded.model.state_dict()
    assert loaded.source.arch == "resnet18"
    assert all(torch.equal(state[key], value) for key, value in bare.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["new", "before 1.6"])
@pytest.mark.parametrize("ending", ["pth", "ckpt", "pth.tar", "bin", "weights", ""])
def test_a_file_is_known_by_its_content(tmp_path, bare, ending, zipped):
    path = tmp_path / f"file.{ending}"
    torch.save(bare, path, _use_new_zipfile_serialization=zipped)
    assert read_network(path, "--weights", ["conv1.weight"])[0].keys() == bare.keys()
    safetensors.torch.save_file(bare, path)
    assert read_network(path, "--weights", ["conv1.weight"])[0].keys() == bare.keys()


def test_a_chosen_network(tmp_path, bare):
    torch.save(WRAPPINGS["DINO"](bare), tmp_path / "dino.pth")
    student = load_checkpoint(tmp_path / "dino.pth")
    assert "'teacher/backbone', to be chosen by FILE#teacher" in student.source.describe()
    teacher = load_checkpoint(f"{tmp_path / 'dino.pth'}#teacher").model.state_dict()
    assert torch.equal(teacher["conv1.weight"], bare["conv1.weight"] + 1)
    with pytest.raises(UserError, match=r"name 'pupil', but 'student/module.backbone'"):
        load_checkpoint(f"{tmp_path / 'dino.pth'}#pupil")


def test_networks_of_equal_rank_are_listed(tmp_path, bare):
    torch.save({"left": bare, "right": other(bare)}, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"2 networks, 'left', 'right'; choose .* FILE#left"):
        load_checkpoint(tmp_path / "two.pth")
    right = read_network(f"{tmp_path / 'two.pth'}#right", "--weights", ["conv1.weight"])[0]
    assert torch.equal(right["conv1.weight"], bare["conv1.weight"] + 1)


def test_a_deeper_network_is_not_taken_for_a_shallower_one(tmp_path):
    state = torchvision.models.resnet34().state_dict()
    torch.save(state, tmp_path / "resnet34.pth")
    assert load_checkpoint(tmp_path / "resnet34.pth").source.arch == "resnet34"
    with pytest.raises(UserError, match=r"does not fit resnet18: .*unexpected"):
        load_checkpoint(tmp_path / "resnet34.pth", "resnet18")


class Sly:
    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        (np.load, ("file",)),
        (np.fromfile, ("/etc/passwd",)),
        (np.core.multiarray._reconstruct if hasattr(np, "core") else np.load, (Sly, (0,), b"b")),
        (argparse.FileType("w"), ("pwned",)),
        (itertools.repeat, (1,)),
        (exec, ("open('pwned', 'w')",)),
    ],
)
def test_plain_data_alone_is_admitted(tmp_path, monkeypatch, bare, call):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": bare, "args": Sly(call)}, "weights.pth")
    with pytest.raises(UserError, match=r"Python objects|cannot be read"):
        read_weights("weights.pth", "--weights")
    assert not (tmp_path / "pwned").exists()


def test_nothing_known_is_compared_as_it_is():
    tensors = {"model/a.weight": torch.ones(1), "model/b.weight": torch.ones(1)}
    assert network_in(tensors, ["conv1.weight"]) == (
        {"a.weight": tensors["model/a.weight"], "b.weight": tensors["model/b.weight"]},
        "model/",
    )

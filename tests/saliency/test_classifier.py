"""Classifiers from checkpoints, and classes from folders."""

import os

import numpy as np
import pytest
import torch
import torchvision

from data.errors import UserError
from data.keys import Keys
from saliency.classifier import check_size, folder_classes, load_classifier, preprocess, to_picture


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=4).eval()


def saved(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("arch", [None, "resnet18"])
def test_any_number_of_classes_loads_and_computes_the_same(tmp_path, resnet18, arch):
    network, name = load_classifier(saved(tmp_path, resnet18.state_dict()), arch)
    assert name == "resnet18" and not network.training
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(network(x), resnet18(x))


@pytest.mark.parametrize("arch", ["resnet34", "shufflenet_v2_x0_5"])
def test_architecture_is_recognised(tmp_path, arch):
    weights = torchvision.models.get_model(arch, num_classes=3).state_dict()
    assert load_classifier(saved(tmp_path, weights))[1] == arch


@pytest.mark.parametrize("wrapping", ["state_dict", "model"])
def test_wrappings_of_training_scripts_load(tmp_path, resnet18, wrapping):
    weights = {f"module.{key}": value for key, value in resnet18.state_dict().items()}
    content = {wrapping: weights, "epoch": 3, "arch": "resnet18"}
    network, _ = load_classifier(saved(tmp_path, content))
    assert torch.equal(network.fc.weight, resnet18.fc.weight)


def test_pytorch_0_4_checkpoints_load(tmp_path, resnet18):
    weights = {k: v for k, v in resnet18.state_dict().items() if "num_batches" not in k}
    network, _ = load_classifier(saved(tmp_path, weights), "resnet18")
    assert not any(value.is_meta for value in network.state_dict().values())


def test_network_that_cannot_be_built_without_memory(tmp_path):
    weights = torchvision.models.get_model("regnet_y_400mf", num_classes=3).state_dict()
    assert load_classifier(saved(tmp_path, weights), "regnet_y_400mf")[1] == "regnet_y_400mf"


def complaint(path, arch=None):
    with pytest.raises(UserError) as told:
        load_classifier(path, arch)
    assert "\n" not in told.value.message and told.value.message.endswith(".")
    return told.value.message


def test_bad_checkpoints_are_told(tmp_path, resnet18, monkeypatch):
    weights = resnet18.state_dict()
    assert "there is no such file" in complaint(tmp_path / "none.pth")
    assert "--arch resnet7 is not a classifier" in complaint(saved(tmp_path, weights), "resnet7")
    assert "1 missing" not in complaint(saved(tmp_path, weights), "resnet50")
    del weights["layer1.0.conv1.weight"]
    path = saved(tmp_path, weights)
    monkeypatch.setattr(torchvision.models, "list_models", lambda module: ["mnasnet0_5"])
    assert "fits none of torchvision's classifiers" in complaint(path)
    monkeypatch.undo()
    assert "(1 missing: layer1.0.conv1.weight)" in complaint(path, "resnet18")
    assert "a dictionary of epoch, not a state_dict" in complaint(saved(tmp_path, {"epoch": 1}))
    assert "linear head" in complaint(saved(tmp_path, weights), "squeezenet1_0")


def test_backbone_without_its_head_is_told(tmp_path, resnet18):
    weights = {k: v for k, v in resnet18.state_dict().items() if not k.startswith("fc.")}
    sentence = complaint(saved(tmp_path, weights), "resnet18")
    assert "2 missing: fc.weight, fc.bias" in sentence


@pytest.mark.parametrize(("arch", "size"), [("vit_b_32", 64), ("densenet121", 16)])
def test_side_that_does_not_fit_is_told(arch, size):
    network = torchvision.models.get_model(arch, num_classes=2).eval()
    with pytest.raises(UserError, match=rf"--input-size {size} does not fit this .*\); give"):
        check_size(network, size)
    check_size(network, 224)


class Attack:
    def __reduce__(self):
        return os.system, ("touch unpickled",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "holds Python objects" in complaint(saved(tmp_path, {"state_dict": Attack()}))
    assert not (tmp_path / "unpickled").exists()


def test_preprocessing_is_imagenets():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = torchvision.transforms.functional.normalize(
        torch.from_numpy(image.transpose(2, 0, 1)) / 255.0,
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    prepared = preprocess(image, 64)
    np.testing.assert_allclose(prepared, expected, atol=1e-5)
    np.testing.assert_array_equal(to_picture(prepared), image)
    assert preprocess(image[:20], 48).shape == (3, 48, 48)


def test_classes_follow_the_sorted_folders():
    keys = Keys(["cat/1.jpg", "ant/deep/2.jpg", "cat/3.jpg", "bee/4.jpg"])
    assert folder_classes(keys, 3) == {"ant": 0, "bee": 1, "cat": 2}


def test_labels_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="2 class folders and the network knows 3 classes"):
        folder_classes(Keys(["a/1.jpg", "b/2.jpg"]), 3)
    with pytest.raises(UserError, match="0 class folders"):
        folder_classes(Keys(["a/1.jpg", "2.jpg"]), 2)

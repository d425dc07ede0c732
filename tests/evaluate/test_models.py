"""Frozen backbones: layers, eval mode, unreadable images."""

import numpy as np
import pytest
import torch
import torchvision

from data.errors import UserError
from data.images.labels import Labelled
from data.keys import Keys
from evaluate.checkpoints import load_checkpoint
from evaluate.models import Backbone


def test_penultimate_is_what_the_classifier_reads(resnet18_file):
    model = torchvision.models.resnet18()
    model.load_state_dict(torch.load(resnet18_file, weights_only=True))
    model.eval()
    backbone = Backbone(load_checkpoint(resnet18_file))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.fc(backbone(images)), model(images))


def test_named_layer_is_averaged_over_positions(resnet18_file):
    backbone = Backbone(load_checkpoint(resnet18_file), "layer3")
    images = torch.randn(2, 3, 64, 64)
    model = backbone.model
    stem = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    plain = model.layer3(model.layer2(model.layer1(stem))).mean(dim=(2, 3))
    torch.testing.assert_close(backbone(images), plain)


def test_unknown_layer_names_the_choices(resnet18_file):
    with pytest.raises(UserError, match="layer4"):
        Backbone(load_checkpoint(resnet18_file), "layer9")


def test_stays_in_eval_mode_without_gradients(resnet18_file):
    backbone = Backbone(load_checkpoint(resnet18_file))
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_features_are_in_order_and_the_unreadable_named(
    tmp_path, colour_backbone, write_pictures, features_of
):
    rng = np.random.default_rng(0)
    pictures = {f"{i}.png": rng.integers(0, 255, (20, 30, 3), dtype=np.uint8) for i in range(5)}
    write_pictures(tmp_path, pictures)
    (tmp_path / "2.png").write_bytes(b"not a picture")
    images = Labelled(tmp_path, Keys(pictures), np.zeros(5, np.int64), ["a"])
    one = features_of(colour_backbone, images, 16, batch_size=2)
    other = features_of(colour_backbone, images, 16, batch_size=5, workers=1)
    assert list(one.images.keys) == ["0.png", "1.png", "3.png", "4.png"]
    assert one.unreadable.keys() == {"2.png"}
    torch.testing.assert_close(one.features, other.features)


def test_nothing_readable_is_one_sentence(tmp_path, colour_backbone, features_of):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"'a.png'"):
        images = Labelled(tmp_path, Keys(["a.png"]), np.zeros(1, np.int64), ["a"])
        features_of(colour_backbone, images, 16)


@pytest.mark.parametrize("name", ["random:vgg16", "random:alexnet", "random:vit_b_16"])
def test_a_size_that_a_network_does_not_take(name):
    backbone = Backbone(load_checkpoint(name))
    with pytest.raises(UserError, match=r"--image-size 16: .* does not take images of this size"):
        backbone.dim(16)


def test_a_layer_without_a_tensor():
    layer = "encoder.layers.encoder_layer_0.self_attention"
    backbone = Backbone(load_checkpoint("random:vit_b_16"), layer)
    with pytest.raises(
        UserError, match=r"--layer .*self_attention: .* gives a tuple, and no tensor"
    ):
        backbone.dim(224)

"""Weights out, and in again."""

import pytest
import torch
from torchvision import models
from torchvision.models.detection import FasterRCNN

from data.errors import UserError
from pretrain.export import export_backbone, load_backbone
from pretrain.methods.codo import CoDo, CoDoSettings, PyramidEncoder
from pretrain.parts.backbones import build_backbone
from pretrain.parts.pyramid import box_head, pyramid
from pretrain.settings import build_settings


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(1)
    backbone = build_backbone("resnet18")
    path = tmp_path / "backbone.pt"
    export_backbone(backbone, build_settings({"arch": "resnet18"}), path)
    return backbone, path


def test_strict_but_for_the_classifier(exported):
    backbone, path = exported
    saved = torch.load(path, weights_only=True)["state_dict"]
    theirs = models.resnet18(weights=None)
    own = {name: t for name, t in theirs.state_dict().items() if name.startswith("fc.")}
    theirs.load_state_dict(saved | own, strict=True)
    assert torch.equal(theirs.layer4[1].conv2.weight, backbone.layer4[1].conv2.weight)


def test_starts_from_own_and_torchvisions_weights(exported, tmp_path):
    backbone, path = exported
    fresh = build_backbone("resnet18")
    load_backbone(fresh, "resnet18", path)
    assert torch.equal(fresh.conv1.weight, backbone.conv1.weight)
    theirs = models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    load_backbone(fresh, "resnet18", tmp_path / "theirs.pth")
    assert torch.equal(fresh.conv1.weight, theirs.conv1.weight)
    wrapped = {f"module.{name}": 2 * value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "wrapped.pth")
    load_backbone(fresh, "resnet18", tmp_path / "wrapped.pth")
    assert torch.equal(fresh.conv1.weight, 2 * theirs.conv1.weight)


def test_what_was_trained_of_a_detector(tmp_path):
    """A run's pyramid and box head load into torchvision's detector, by name."""
    torch.manual_seed(1)
    encoder = PyramidEncoder("resnet18", CoDoSettings(dim=8))
    method = CoDo(encoder, CoDoSettings(name="codo", dim=8, negatives=4))
    path = tmp_path / "backbone.pt"
    settings = build_settings({"arch": "resnet18", "method": "codo"})
    export_backbone(method.backbone, settings, path, method.detector())
    saved = torch.load(path, weights_only=True)
    body = {f"backbone.body.{name}": tensor for name, tensor in saved["state_dict"].items()}
    network = build_backbone("resnet18")
    theirs = FasterRCNN(pyramid(network), 21, box_head=box_head())
    missing = theirs.load_state_dict(body | saved["detector"], strict=False)
    assert not missing.unexpected_keys
    own = {name.rpartition(".")[0] for name in missing.missing_keys}
    assert own == {
        "rpn.head.conv.0.0", "rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads.box_head.5",
        "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred",
    }  # fmt: skip
    assert torch.equal(
        theirs.backbone.fpn.layer_blocks[0][0].weight, encoder.fpn.layer_blocks[0][0].weight
    )


def test_weights_that_do_not_fit(exported, tmp_path):
    _, path = exported
    with pytest.raises(UserError, match=r"backbone.pt' does not fit resnet50: .* another arch"):
        load_backbone(build_backbone("resnet50"), "resnet50", path)
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="does not fit resnet18"):
        load_backbone(build_backbone("resnet18"), "resnet18", tmp_path / "part.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(UserError, match="holds a Tensor, not a state_dict"):
        load_backbone(build_backbone("resnet18"), "resnet18", tmp_path / "tensor.pth")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cut short"):
        load_backbone(build_backbone("resnet18"), "resnet18", path)

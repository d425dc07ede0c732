"""Weights for other software's detectors, by name and by value."""

import pickle

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from pretrain.export import export_backbone
from pretrain.parts.backbones import build_backbone
from pretrain.parts.pyramid import box_head, pyramid, state
from pretrain.settings import build_settings


def written_out():
    """Names of detectron2's ResNet-50 with a pyramid and four convolutions in the box head."""
    norm = ("weight", "bias", "running_mean", "running_var")
    convolutions = ["stem.conv1"]
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        for block in range(blocks):
            parts = ("conv1", "conv2", "conv3") + (("shortcut",) if block == 0 else ())
            convolutions += [f"res{stage}.{block}.{part}" for part in parts]
    convolutions += [
        f"fpn_{kind}{level}" for kind in ("lateral", "output") for level in range(2, 6)
    ]
    convolutions += [f"box_head.conv{number}" for number in range(1, 5)]
    names = [f"{c}.weight" for c in convolutions]
    return {*names, *(f"{c}.norm.{part}" for c in convolutions for part in norm)}


@pytest.fixture
def codo(tmp_path):
    """A run's backbone.pt with a pyramid."""
    torch.manual_seed(0)
    backbone, head = build_backbone("resnet50"), box_head()
    fpn = pyramid(backbone)
    path = tmp_path / "backbone.pt"
    export_backbone(backbone, build_settings({"arch": "resnet50"}), path, state(fpn, head))
    return path, backbone, fpn, head


def test_detectron2(codo, tmp_path, probe):
    path, backbone, fpn, head = codo
    out = tmp_path / "weights.pkl"
    probe("export", path, out, "--for", "detectron2")
    content = pickle.loads(out.read_bytes())  # our own file
    assert content["matching_heuristics"] and content["__author__"] == "DiLo"
    model = content["model"]
    assert model.keys() == written_out()
    for name, tensor in (
        ("stem.conv1.norm.running_var", backbone.bn1.running_var),
        ("res3.0.shortcut.weight", backbone.layer2[0].downsample[0].weight),
        ("res3.0.shortcut.norm.bias", backbone.layer2[0].downsample[1].bias),
        ("res5.2.conv3.weight", backbone.layer4[2].conv3.weight),
        ("res5.2.conv3.norm.weight", backbone.layer4[2].bn3.weight),
        ("fpn_lateral2.weight", fpn.fpn.inner_blocks[0][0].weight),
        ("fpn_output5.norm.running_mean", fpn.fpn.layer_blocks[3][1].running_mean),
        ("box_head.conv4.weight", head[3][0].weight),
    ):
        assert (model[name] == tensor.detach().numpy()).all(), name


def test_torchvision(codo, tmp_path, probe):
    path, _, fpn, _ = codo
    out = tmp_path / "weights.pt"
    probe("export", path, out, "--for", "torchvision")
    weights = torch.load(out, weights_only=True)
    theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [name for name in missing if name.startswith("backbone.")]
    layer = theirs.backbone.fpn.inner_blocks[1][0].weight
    assert torch.equal(layer, fpn.fpn.inner_blocks[1][0].weight)


def test_a_body_alone(tmp_path, probe):
    probe("export", "random:resnet18", tmp_path / "a.pkl", "--for", "detectron2")
    names = pickle.loads((tmp_path / "a.pkl").read_bytes())["model"]
    assert "res2.1.conv2.norm.weight" in names and not any("fpn" in name for name in names)


@pytest.mark.parametrize(
    ("checkpoint", "name", "sentence"),
    [
        ("random:resnet18", "a.pt", "must end in .pkl"),
        ("random:alexnet", "a.pkl", "built on ResNets"),
    ],
)
def test_what_cannot_be_is_told(tmp_path, probe, checkpoint, name, sentence):
    done = probe("export", checkpoint, tmp_path / name, "--for", "detectron2", code=2)
    assert sentence in done.stderr and not (tmp_path / name).exists()

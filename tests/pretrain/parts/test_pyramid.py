"""The pyramid and the box head have torchvision's names, and compute what the papers say."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from pretrain.parts.backbones import build_backbone
from pretrain.parts.pyramid import box_head, pyramid, state


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return pyramid(build_backbone("resnet18")).eval()


def test_levels(small):
    levels = small(torch.rand(2, 3, 64, 128))
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        *((256, 16, 32), (256, 8, 16), (256, 4, 8), (256, 2, 4), (256, 1, 2)),
    ]


def test_top_down_pathway_by_hand(small):
    """P5 = 3x3(1x1(C5)); P4 = 3x3(1x1(C4) + P5' enlarged), with batch norm after each."""
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        c4, c5 = (small.body(images)[name] for name in ("2", "3"))
        fpn = small.fpn

        def block(x, modules):
            convolution, norm = modules[0], modules[1]
            x = F.conv2d(x, convolution.weight, padding=convolution.padding)
            centred = x - norm.running_mean[:, None, None]
            x = centred / (norm.running_var[:, None, None] + norm.eps).sqrt()
            return x * norm.weight[:, None, None] + norm.bias[:, None, None]

        top = block(c5, fpn.inner_blocks[3])
        below = block(c4, fpn.inner_blocks[2]) + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
        levels = small(images)
        torch.testing.assert_close(levels["3"], block(top, fpn.layer_blocks[3]))
        torch.testing.assert_close(levels["2"], block(below, fpn.layer_blocks[2]))


@pytest.mark.parametrize("linear_norm", [False, True])
def test_state_is_part_of_torchvisions_detector(linear_norm):
    with torch.device("meta"):
        backbone, head = pyramid(build_backbone("resnet50")), box_head(linear_norm)
        theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    handed = state(backbone, head)
    body = {f"backbone.body.{name}": v for name, v in backbone.body.state_dict().items()}
    for name, value in {**handed, **body}.items():
        assert theirs[name].shape == value.shape, name
    wanted = {n for n in theirs if n.startswith(("backbone.", "roi_heads.box_head."))}
    assert wanted - {*handed, *body} == {f"roi_heads.box_head.5.{n}" for n in ("weight", "bias")}

"""Feature pyramid and box head of detectors, from torchvision's own classes.

A pretraining that uses them and the detector that is fine-tuned have the same names of parameters,
so weights are handed over without a converter. `state` makes them those of torchvision's
`FasterRCNN` and `MaskRCNN`:

    backbone.body.*     the ResNet without its classifier
    backbone.fpn.*      inner_blocks.i.{0,1}, layer_blocks.i.{0,1}: convolution, batch norm
    roi_heads.box_head.*  i.{0,1} for i = 0..3: convolution, batch norm
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.resnet import ResNet

WIDTH = 256  # channels of each level and of the head's convolutions
SIDE = 7  # of the head's input: RoIAlign's output
HIDDEN = 1024  # features that the head gives
_FC = ("5.", "6.")  # the head's linear layer and its norm; its convolutions are 0 to 3

FPN, BOX_HEAD = "backbone.fpn.", "roi_heads.box_head."


def pyramid(network: ResNet) -> BackboneWithFPN:
    """Return a ResNet with a feature pyramid (Lin et al. 2017), each convolution with batch norm.

    network : its four stages become `body`; they are not copied.

    The result takes images (B, 3, H, W) and returns {"0", "1", "2", "3", "pool"}: levels P2 to P6,
    (B, 256, H / 4, W / 4) to (B, 256, H / 64, W / 64). P6 is P5's every second value, and has no
    weights.
    """
    width = network.inplanes // 8  # channels of the first stage; `inplanes` are the last one's
    return BackboneWithFPN(
        network,
        {f"layer{stage + 1}": str(stage) for stage in range(4)},
        [width * 2**stage for stage in range(4)],
        WIDTH,
        norm_layer=nn.BatchNorm2d,
    )


def stage_maps(network: ResNet, images: Tensor) -> dict[str, Tensor]:
    """Return what a ResNet's four stages make of images (B, 3, H, W).

    {"0", "1", "2", "3"}: (B, C, H / 4, W / 4) to (B, 8 C, H / 32, W / 32), a pyramid's input.
    """
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    maps = {}
    for stage in range(4):
        x = maps[str(stage)] = getattr(network, f"layer{stage + 1}")(x)
    return maps


def box_head(linear_norm: bool = False) -> FastRCNNConvFCHead:
    """Return the head "4conv1fc": (R, 256, 7, 7) -> (R, 1024).

    Four convolutions 3x3 with batch norm and ReLU, a linear layer with ReLU.

    linear_norm : with batch norm after the linear layer too, which detectors lack.
    """
    head = FastRCNNConvFCHead((WIDTH, SIDE, SIDE), [WIDTH] * 4, [HIDDEN], nn.BatchNorm2d)
    if linear_norm:
        head[6] = nn.Sequential(nn.BatchNorm1d(HIDDEN), head[6])
    return head


def state(backbone: BackboneWithFPN, head: FastRCNNConvFCHead) -> dict[str, Tensor]:
    """Return what a pretraining hands over besides the body: pyramid, and the head's convolutions.

    The head's linear layer stays behind, as in InstanceLoc's transfer. Names: torchvision's.
    """
    convolutions = {n: v for n, v in head.state_dict().items() if not n.startswith(_FC)}
    named = {FPN: backbone.fpn.state_dict(), BOX_HEAD: convolutions}
    return {prefix + name: v for prefix, part in named.items() for name, v in part.items()}

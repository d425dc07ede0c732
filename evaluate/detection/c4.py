"""Faster R-CNN R50-C4 as MoCo transfers to it: stage 5 in the head, an extra batch norm."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.resnet import ResNet

from evaluate.detection.parts import AlignedPool, assemble, predictor
from evaluate.detection.settings import Settings

STRIDE = 16
BEFORE_NMS = (12000, 6000)  # proposals in training and in testing


def build_c4(network: ResNet, classes: int, settings: Settings) -> GeneralizedRCNN:
    """Return the detector; the network's stages become its parts, and nothing of it is frozen.

    backbone : conv1 ... layer3, of stride 16
    roi_heads.box_head : layer4 on regions of 14 x 14, BatchNorm2d, mean over space
    """
    width = network.inplanes  # of the last stage
    stages = [(name, module) for name, module in network.named_children() if name != "fc"]
    backbone = nn.Sequential(OrderedDict(stages[: [name for name, _ in stages].index("layer4")]))
    backbone.out_channels = width // 2
    parts = {"layer4": network.layer4, "norm": nn.BatchNorm2d(width)}
    head = nn.Sequential(OrderedDict(parts, mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    box = (AlignedPool((STRIDE,), settings.pooled), head, predictor(width, classes))
    return assemble(backbone, width // 2, (STRIDE,), settings, BEFORE_NMS, box)

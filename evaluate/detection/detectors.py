"""The detectors, on a network's stages; nothing of them is frozen.

Faster R-CNN R50-C4 as MoCo transfers to it (stage 5 in the head, an extra batch norm), and Mask
R-CNN R50-FPN as InstanceLoc and SoCo do (batch norm in all its parts).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import ResNet

from data.errors import UserError
from evaluate.checkpoints import Checkpoint
from evaluate.detection.parts import AlignedPool, assemble, predictor
from evaluate.detection.settings import Settings
from pretrain.parts.pyramid import BOX_HEAD, FPN, HIDDEN, SIDE, WIDTH, box_head, pyramid

C4_STRIDE = 16
C4_BEFORE_NMS = (12000, 6000)  # proposals in training and in testing
FPN_STRIDES = (4, 8, 16, 32, 64)  # P2 to P6; regions are cut from the first four
FPN_BEFORE_NMS = (2000, 1000)  # of a level
MASK_POOLED = 14


def build_detector(
    loaded: Checkpoint, classes: int, settings: Settings, seed: int
) -> GeneralizedRCNN:
    """Build a detector on a network; new layers' weights follow from the seed.

    Where the pretraining hands over pyramid and box head (`pretrain.parts.pyramid`), FPN takes
    them.

    UserError: it is no ResNet, or what it hands over does not fit.
    """
    name = f"CHECKPOINT {loaded.source.checkpoint}"
    if not isinstance(loaded.model, ResNet):
        raise UserError(f"{name} is {loaded.source.arch}; detectors are built on ResNets.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.detector == "c4":
            return build_c4(loaded.model, classes, settings)
        model = build_fpn(loaded.model, classes, settings)
    own = model.state_dict()
    for key, value in loaded.detector.items():
        if not key.startswith((FPN, BOX_HEAD)) or own.get(key, value[None]).shape != value.shape:
            raise UserError(f"{name}: its detector's {key} does not fit Mask R-CNN's; export anew.")
    model.load_state_dict(loaded.detector, strict=False)
    return model


def build_c4(network: ResNet, classes: int, settings: Settings) -> GeneralizedRCNN:
    """Return Faster R-CNN; the network's stages become its parts.

    backbone : conv1 ... layer3, of stride 16
    roi_heads.box_head : layer4 on regions of 14 x 14, BatchNorm2d, mean over space
    """
    width = network.inplanes  # of the last stage
    stages = [(name, module) for name, module in network.named_children() if name != "fc"]
    backbone = nn.Sequential(OrderedDict(stages[: [name for name, _ in stages].index("layer4")]))
    backbone.out_channels = width // 2
    parts = {"layer4": network.layer4, "norm": nn.BatchNorm2d(width)}
    head = nn.Sequential(OrderedDict(parts, mean=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    box = (AlignedPool((C4_STRIDE,), settings.pooled), head, predictor(width, classes))
    return assemble(backbone, width // 2, (C4_STRIDE,), settings, C4_BEFORE_NMS, box)


def build_fpn(network: ResNet, classes: int, settings: Settings) -> GeneralizedRCNN:
    """Return Mask R-CNN with batch norm in pyramid and heads."""
    head = box_head()
    for module in head.modules():
        if isinstance(module, nn.Linear):  # detectron2's c2_xavier_fill
            nn.init.kaiming_uniform_(module.weight, a=1)
            nn.init.zeros_(module.bias)
    box = (AlignedPool(FPN_STRIDES[:4], SIDE), head, predictor(HIDDEN, classes))
    masks = MaskRCNNPredictor(WIDTH, WIDTH, classes + 1)
    nn.init.normal_(masks.mask_fcn_logits.weight, std=0.001)
    mask_head = MaskRCNNHeads(WIDTH, (WIDTH,) * 4, 1, norm_layer=nn.BatchNorm2d)
    mask = (AlignedPool(FPN_STRIDES[:4], MASK_POOLED), mask_head, masks)
    return assemble(pyramid(network), WIDTH, FPN_STRIDES, settings, FPN_BEFORE_NMS, box, mask)

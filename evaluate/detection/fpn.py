"""Mask R-CNN R50-FPN as self-supervised pretraining is transferred to it (InstanceLoc, SoCo)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import ResNet

from data.errors import UserError
from evaluate.detection.parts import AlignedPool, assemble, predictor
from evaluate.detection.settings import Settings
from pretrain.parts.pyramid import BOX_HEAD, FPN, HIDDEN, SIDE, WIDTH, box_head, pyramid

STRIDES = (4, 8, 16, 32, 64)  # P2 to P6; regions are cut from the first four
BEFORE_NMS = (2000, 1000)  # proposals of a level in training and in testing
MASK_POOLED = 14


def build_fpn(
    network: ResNet, classes: int, settings: Settings, handed: Mapping[str, Tensor], name: str
) -> GeneralizedRCNN:
    """Return the detector, batch norm in all its parts, nothing of it frozen.

    handed : what a pretraining hands over of pyramid and box head (`pretrain.parts.pyramid`), under
        torchvision's names; or nothing
    name : of the checkpoint, for the UserError where that does not fit
    """
    head = box_head()
    for module in head.modules():
        if isinstance(module, nn.Linear):  # detectron2's c2_xavier_fill
            nn.init.kaiming_uniform_(module.weight, a=1)
            nn.init.zeros_(module.bias)
    box = (AlignedPool(STRIDES[:4], SIDE), head, predictor(HIDDEN, classes))
    masks = MaskRCNNPredictor(WIDTH, WIDTH, classes + 1)
    nn.init.normal_(masks.mask_fcn_logits.weight, std=0.001)
    mask_head = MaskRCNNHeads(WIDTH, (WIDTH,) * 4, 1, norm_layer=nn.BatchNorm2d)
    mask = (AlignedPool(STRIDES[:4], MASK_POOLED), mask_head, masks)
    model = assemble(pyramid(network), WIDTH, STRIDES, settings, BEFORE_NMS, box, mask)
    own = model.state_dict()
    for key, value in handed.items():
        if not key.startswith((FPN, BOX_HEAD)) or own.get(key, value[None]).shape != value.shape:
            raise UserError(f"{name}: its detector's {key} does not fit Mask R-CNN's; export anew.")
    model.load_state_dict(dict(handed), strict=False)
    return model

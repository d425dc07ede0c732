"""The detectors, on a network's stages; nothing of them is frozen.

Faster R-CNN R50-C4 as MoCo transfers to it (stage 5 in the head, an extra batch norm), and Mask
R-CNN R50-FPN as InstanceLoc and SoCo do (batch norm in all its parts). Of torchvision's parts,
where they differ from detectron2 mended as it has them:

| point          | torchvision                         | detectron2, and here                   |
|----------------|-------------------------------------|----------------------------------------|
| box losses     | smooth L1, beta 1/9                 | L1                                     |
| RPN's divisor  | anchors that were sampled           | 256 for each image                     |
| RoIAlign       | not aligned, 2 samples a bin        | aligned, as many as a bin has pixels   |
| anchors        | corners rounded                     | not                                    |
| strides        | padded side // side of the map      | 2 to the level (P6: 64)                |
| last layers    | as any linear layer                 | N(0, .01) classes, N(0, .001) boxes    |
| mask targets   | shares in [0, 1]                    | 0 or 1                                 |
| resizing       | on the device, without antialiasing | before, by Pillow (`dataset.py`)       |
| pasted masks   | box rounded to whole pixels         | pixels' centres (`predict.py`)         |

Weights are freshly drawn from torch's global generator where no backbone gives them.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import ResNet
from torchvision.ops import roi_align

from data.errors import UserError
from data.images import IMAGENET_MEAN, IMAGENET_STD
from evaluate.checkpoints import Checkpoint
from evaluate.detection.settings import Settings
from pretrain.parts.pyramid import BOX_HEAD, FPN, HIDDEN, SIDE, WIDTH, box_head, pyramid

RATIOS = (0.5, 1.0, 2.0)  # of an anchor, height / width
ANCHORS_SAMPLED = 256  # an image, half of them positive
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # equation 1 of the pyramid's paper
MASK_SIDE = 28


class Anchors(AnchorGenerator):
    """Anchors that are not rounded, at the strides that the levels are made for."""

    def __init__(self, sizes: tuple[tuple[int, ...], ...], strides: tuple[int, ...]) -> None:
        super().__init__(sizes, (RATIOS,) * len(sizes))
        self.strides = strides

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device="cpu") -> Tensor:
        """Boxes (A, 4) around 0: of area scale ** 2, in torchvision's order."""
        roots = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        scales = torch.tensor(scales, dtype=dtype, device=device)[None]
        widths, heights = (scales / roots).flatten(), (scales * roots).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def grid_anchors(self, grid_sizes, strides) -> list[Tensor]:
        """Boxes (H W A, 4) of each level; `strides`, measured on the padded image, is left out."""
        return super().grid_anchors(grid_sizes, [(stride, stride) for stride in self.strides])


class AlignedPool(nn.Module):
    """RoIAlign with the shift of half a pixel and adaptive sampling, on the level of a box's size.

    The levels are those of the features "0", "1" ... ; each has its stride.
    """

    def __init__(self, strides: tuple[int, ...], side: int) -> None:
        super().__init__()
        self.strides, self.side = strides, side

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list) -> Tensor:
        """Boxes (N, 4) of each image -> (all boxes, C, side, side)."""
        numbered = [F.pad(own, (1, 0), value=number) for number, own in enumerate(boxes)]
        rois = torch.cat(numbered)
        levels = self.levels(rois[:, 1:])
        first = features["0"]
        pooled = first.new_zeros((len(rois), first.shape[1], self.side, self.side))
        for number, stride in enumerate(self.strides):
            rows = torch.where(levels == number)[0]
            of_level = features[str(number)]
            aligned = roi_align(
                of_level, rois[rows].to(of_level.dtype), self.side, 1 / stride, 0, aligned=True
            )
            pooled = pooled.index_copy(0, rows, aligned.to(pooled.dtype))
        return pooled

    def levels(self, boxes: Tensor) -> Tensor:
        """The level of each box (N, 4), from 0: floor(4 + log2(sqrt(area) / 224)), limited."""
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        lowest = self.strides[0].bit_length() - 1
        levels = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE + 1e-8)) - lowest
        return levels.clamp(0, len(self.strides) - 1)


class ProposalNetwork(RegionProposalNetwork):
    """RPN with L1, and both losses divided by 256 for each image."""

    def compute_loss(self, objectness, deltas, labels, targets) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and of boxes, scalars."""
        positive, negative = (torch.cat(part).bool() for part in self.fg_bg_sampler(labels))
        divisor, chosen = ANCHORS_SAMPLED * len(labels), positive | negative
        wanted = torch.cat(labels)[chosen]
        logits = objectness.flatten()[chosen].float()
        classes = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        boxes = (deltas[positive].float() - torch.cat(targets)[positive]).abs().sum()
        return classes / divisor, boxes / divisor


class RegionHeads(RoIHeads):
    """Heads with L1, divided by all sampled regions; mask targets of 0 and 1."""

    def forward(self, features, proposals, image_shapes, targets=None):
        """As torchvision's; in training the losses only."""
        if not self.training:
            return super().forward(features, proposals, image_shapes)
        chosen = self.select_training_samples(proposals, targets)
        proposals, matches, labels, deltas = chosen
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, predicted = self.box_predictor(self.box_head(pooled))
        losses = box_losses(logits, predicted, torch.cat(labels), torch.cat(deltas))
        if self.has_mask():
            rows = [own > 0 for own in labels]
            boxes = [own[keep] for own, keep in zip(proposals, rows, strict=True)]
            pooled = self.mask_roi_pool(features, boxes, image_shapes)
            masks = self.mask_predictor(self.mask_head(pooled))
            classes = torch.cat([own[keep] for own, keep in zip(labels, rows, strict=True)])
            true = [
                mask_targets(t["masks"], match[keep], own)
                for t, match, keep, own in zip(targets, matches, rows, boxes, strict=True)
            ]
            losses["loss_mask"] = mask_loss(masks, classes, torch.cat(true))
        return [], losses


def box_losses(logits: Tensor, boxes: Tensor, labels: Tensor, deltas: Tensor) -> dict[str, Tensor]:
    """Cross entropy, and L1 of the true class's boxes of positive regions.

    logits (R, C), boxes (R, 4 C), labels int64 (R,) with 0 for the background, deltas (R, 4)
    """
    positive = torch.where(labels > 0)[0]
    of_class = boxes.view(len(labels), -1, 4)[positive, labels[positive]].float()
    total = (of_class - deltas[positive]).abs().sum() / len(labels)
    return {"loss_classifier": F.cross_entropy(logits.float(), labels), "loss_box_reg": total}


def mask_targets(masks: Tensor, matches: Tensor, boxes: Tensor) -> Tensor:
    """Cut masks uint8 (N, h, w) by boxes (R, 4) of the objects `matches` (R,): (R, 28, 28), 0 or 1.

    A pixel is 1 where half of it or more is.
    """
    rois = torch.cat([matches[:, None].to(boxes), boxes], dim=1)
    cut = roi_align(masks[:, None].to(boxes), rois, MASK_SIDE, 1.0, 0, aligned=True)
    return (cut[:, 0] >= 0.5).to(boxes.dtype)


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of the true class's masks: logits (R, C, 28, 28), targets (R, 28, 28).

    Every image of a training has an object, whose box is one of its regions, so R > 0.
    """
    own = logits[torch.arange(len(labels), device=logits.device), labels]
    return F.binary_cross_entropy_with_logits(own.float(), targets)


class Prepared(GeneralizedRCNNTransform):
    """Normalises and pads images that have their size already; answers are of that size."""

    def __init__(self) -> None:
        super().__init__(1, 1, list(IMAGENET_MEAN), list(IMAGENET_STD), size_divisible=32)

    def resize(self, image, target=None):
        """Leave it."""
        return image, target

    def postprocess(self, result, image_shapes, original_image_sizes):
        """Leave it."""
        return result


def assemble(
    backbone: nn.Module,
    widths: int,
    strides: tuple[int, ...],
    settings: Settings,
    before_nms: tuple[int, int],
    box: tuple[nn.Module, nn.Module, nn.Module],
    mask: tuple[nn.Module, nn.Module, nn.Module] | None = None,
) -> GeneralizedRCNN:
    """Put a detector together; what is published of both protocols is written here.

    widths : channels of the backbone's maps; strides : of each level that has anchors
    before_nms : proposals of a level in training and in testing
    box, mask : pool, head and predictor
    """
    many = len(strides) > 1  # a size for each level, or all on one
    sizes = tuple((side,) for side in settings.anchors) if many else (settings.anchors,)
    head = RPNHead(widths, len(sizes[0]) * len(RATIOS))
    after = {"training": settings.proposals_train, "testing": settings.proposals_test}
    before = dict(zip(after, before_nms, strict=True))
    anchors = Anchors(sizes, strides)
    rpn = ProposalNetwork(anchors, head, 0.7, 0.3, ANCHORS_SAMPLED, 0.5, before, after, 0.7)
    heads = RegionHeads(
        *box,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=settings.regions,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    if mask is not None:
        heads.mask_roi_pool, heads.mask_head, heads.mask_predictor = mask
    return GeneralizedRCNN(backbone, rpn, heads, Prepared())


def predictor(features: int, classes: int) -> FastRCNNPredictor:
    """The last layers: (R, features) -> (R, 1 + classes) and (R, 4 + 4 classes)."""
    layers = FastRCNNPredictor(features, classes + 1)
    for layer, deviation in ((layers.cls_score, 0.01), (layers.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
    return layers


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

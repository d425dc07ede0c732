"""R50-C4 and R50-FPN: losses against the equations written plainly, and each remedy by itself."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops.poolers import LevelMapper

from data.errors import UserError
from evaluate.checkpoints import Checkpoint, Source
from evaluate.detection.detectors import (
    AlignedPool,
    Anchors,
    box_losses,
    build_c4,
    build_detector,
    build_fpn,
    mask_targets,
)
from evaluate.detection.settings import build_settings, rule
from pretrain.parts.backbones import build_backbone
from pretrain.parts.pyramid import box_head, pyramid, state

SIZES = ((64, 96), (80, 64))  # of two images, padded to 96 x 96
BOXES = ([[8, 6, 40, 50], [50, 20, 90, 60]], [[5, 10, 60, 70]])
LABELS = ([3, 7], [1])


def targets():
    found = []
    for (height, width), boxes, labels in zip(SIZES, BOXES, LABELS, strict=True):
        masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1 : (y1 + y2) // 2, x1:x2] = 1  # an object's upper half
        boxes = torch.tensor(boxes, dtype=torch.float32)
        found.append({"boxes": boxes, "labels": torch.tensor(labels), "masks": masks})
    return found


def images():
    rng = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=rng) for size in SIZES]


@pytest.fixture
def proposals():
    """Fixed ones: near the true boxes, and elsewhere."""
    rng, each = np.random.default_rng(2), []
    for (height, width), boxes in zip(SIZES, BOXES, strict=True):
        near = np.repeat(np.array(boxes, float), 3, 0)
        near += rng.normal(0, 3, near.shape)
        low = rng.uniform(0, 30, (4, 2))
        other = np.hstack([low, low + rng.uniform(8, 30, (4, 2))])
        limits = (width, height, width, height)
        each.append(torch.tensor(np.vstack([near, other]).clip(0, limits), dtype=torch.float32))
    return each


def prepare(model, proposals):
    """Hand over fixed proposals, and take every anchor and region into the losses."""

    def everything(labels):
        return [own >= 1 for own in labels], [own == 0 for own in labels]

    model.rpn.filter_proposals = lambda *arguments: (proposals, None)
    model.rpn.fg_bg_sampler = everything
    return model.train()


# ---- the equations, plainly ----------------------------------------------------------------------


def plain_iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def plain_deltas(box, true, weights):
    w, h, tw, th = box[2] - box[0], box[3] - box[1], true[2] - true[0], true[3] - true[1]
    x, y = box[0] + w / 2, box[1] + h / 2
    tx, ty = true[0] + tw / 2, true[1] + th / 2
    raw = ((tx - x) / w, (ty - y) / h, math.log(tw / w), math.log(th / h))
    return [r * s for r, s in zip(raw, weights, strict=True)]


def sampling(low, high, bins, limit):
    """Weights (bins, limit) of the means of bilinear samples within bins, half a pixel shifted."""
    low, high = low - 0.5, high - 0.5
    length = (high - low) / bins
    count = math.ceil(length)
    weights = np.zeros((bins, limit))
    for row in range(bins):
        for number in range(count):
            at = low + row * length + (number + 0.5) * length / count
            if at < -1 or at > limit:
                continue
            at = min(max(at, 0), limit - 1)
            left = min(int(at), limit - 1)
            weights[row, left] += (1 - (at - left)) / count
            if left + 1 < limit:
                weights[row, left + 1] += (at - left) / count
    return torch.tensor(weights, dtype=torch.float32)


def plain_align(feature, box, stride, bins):
    """(C, H, W) -> (C, bins, bins)."""
    x1, y1, x2, y2 = (side / stride for side in box)
    rows = sampling(y1, y2, bins, feature.shape[1])
    columns = sampling(x1, x2, bins, feature.shape[2])
    return torch.einsum("yh,chw,xw->cyx", rows, feature, columns)


def regions(proposals):
    """(image, box, label, true box, object) of all proposals and true boxes."""
    rows = []
    for image, own in enumerate(proposals):
        for box in [*own.tolist(), *map(list, BOXES[image])]:
            ious = [plain_iou(box, true) for true in BOXES[image]]
            best = int(np.argmax(ious))
            label = LABELS[image][best] if ious[best] >= 0.5 else 0
            rows.append((image, box, label, BOXES[image][best], best))
    return rows


def plain_box_losses(logits, predicted, rows):
    log = logits - logits.exp().sum(1, keepdim=True).log()
    labels = [label for _, _, label, _, _ in rows]
    classes = -sum(log[n, label] for n, label in enumerate(labels)) / len(rows)
    total = 0.0
    for number, (_, box, label, true, _) in enumerate(rows):
        if label:
            wanted = torch.tensor(plain_deltas(box, true, (10, 10, 5, 5)))
            total += (predicted[number, 4 * label : 4 * label + 4] - wanted).abs().sum()
    return {"loss_classifier": classes, "loss_box_reg": total / len(rows)}


def plain_rpn_losses(model, levels, strides, sizes):
    """Sums over all anchors, divided by 256 for each image."""
    classes = boxes = 0.0
    for image, trues in enumerate(BOXES):
        anchors, logits, deltas = [], [], []
        for feature, stride, of_level in zip(levels, strides, sizes, strict=True):
            hidden = F.relu(model.rpn.head.conv[0][0](feature[image][None]))
            objectness = model.rpn.head.cls_logits(hidden)[0]
            predicted = model.rpn.head.bbox_pred(hidden)[0]
            for y in range(feature.shape[2]):
                for x in range(feature.shape[3]):
                    shapes = [(ratio, side) for ratio in (0.5, 1.0, 2.0) for side in of_level]
                    for number, (ratio, side) in enumerate(shapes):
                        w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        cx, cy = x * stride, y * stride
                        anchors.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
                        logits.append(objectness[number, y, x])
                        deltas.append(predicted[4 * number : 4 * number + 4, y, x])
        ious = np.array([[plain_iou(anchor, true) for true in trues] for anchor in anchors])
        best = ious.max(0)
        for anchor, logit, delta, row in zip(anchors, logits, deltas, ious, strict=True):
            true = trues[int(row.argmax())]
            if row.max() >= 0.7 or (abs(row - best) < 1e-9).any():
                classes += F.softplus(-logit)
                wanted = torch.tensor(plain_deltas(anchor, true, (1, 1, 1, 1)))
                boxes += (delta - wanted).abs().sum()
            elif row.max() < 0.3:
                classes += F.softplus(logit)
    return {"loss_objectness": classes / 512, "loss_rpn_box_reg": boxes / 512}


def batch():
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406),
                                                          (0.229, 0.224, 0.225)))  # fmt: skip
    padded = torch.zeros(2, 3, 96, 96)
    for row, image in zip(padded, images(), strict=True):
        row[:, : image.shape[1], : image.shape[2]] = (image - mean) / std
    return padded


def close(losses, plain):
    assert losses.keys() == plain.keys()
    for name, loss in losses.items():
        assert abs(float(loss) - float(plain[name])) < 1e-5 * max(1, abs(float(loss))), name


@torch.no_grad()
def test_losses_of_r50_c4(proposals):
    torch.manual_seed(0)
    network = build_backbone("resnet50")
    plain = copy.deepcopy(network).train()
    settings = build_settings("voc07", ["regions=64", "anchors=[16,32,64]"])
    model = prepare(build_c4(network, 20, settings), proposals)
    heads = copy.deepcopy(model)
    losses = model(images(), targets())

    x = plain.maxpool(plain.relu(plain.bn1(plain.conv1(batch()))))
    x = plain.layer3(plain.layer2(plain.layer1(x)))
    rows = regions(proposals)
    pooled = torch.stack([plain_align(x[image], box, 16, 14) for image, box, *_ in rows])
    hidden = plain.layer4(pooled)
    spread = hidden.var((0, 2, 3), unbiased=False, keepdim=True)
    hidden = (hidden - hidden.mean((0, 2, 3), keepdim=True)) / (spread + 1e-5).sqrt()
    hidden = hidden.mean((2, 3))
    last = heads.roi_heads.box_predictor
    logits = hidden @ last.cls_score.weight.T
    predicted = hidden @ last.bbox_pred.weight.T
    expected = plain_box_losses(logits, predicted, rows)
    close(losses, expected | plain_rpn_losses(heads, [x], [16], [(16, 32, 64)]))
    assert sum(label > 0 for _, _, label, _, _ in rows) > 4


@torch.no_grad()
def test_losses_of_r50_fpn(proposals):
    torch.manual_seed(0)
    settings = build_settings("coco-1x", ["regions=64", "anchors=[8,16,32,64,128]"])
    model = prepare(build_fpn(build_backbone("resnet50"), 20, settings), proposals)
    heads = copy.deepcopy(model)
    losses = model(images(), targets())

    levels = list(heads.backbone(batch()).values())
    rows = regions(proposals)

    def pooled(rows, bins):
        cut = []
        for image, box, *_ in rows:
            side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            level = min(max(math.floor(4 + math.log2(side / 224)), 2), 5)
            cut.append(plain_align(levels[level - 2][image], box, 2**level, bins))
        return torch.stack(cut)

    hidden = heads.roi_heads.box_head(pooled(rows, 7))
    expected = plain_box_losses(*heads.roi_heads.box_predictor(hidden), rows)
    strides, sizes = (4, 8, 16, 32, 64), ((8,), (16,), (32,), (64,), (128,))
    expected |= plain_rpn_losses(heads, levels, strides, sizes)

    positive = [row for row in rows if row[2]]
    masks = heads.roi_heads.mask_predictor(heads.roi_heads.mask_head(pooled(positive, 14)))
    total = 0.0
    for mask, (image, box, label, _, which) in zip(masks, positive, strict=True):
        true = targets()[image]["masks"][which][None].float()
        wanted = plain_align(true, box, 1, 28)[0] >= 0.5
        total += F.softplus(torch.where(wanted, -mask[label], mask[label])).mean()
    close(losses, expected | {"loss_mask": total / len(positive)})


# ---- the remedies --------------------------------------------------------------------------------


def test_anchors_are_not_rounded_and_strides_are_the_levels():
    anchors = Anchors(((32,),), (16,))
    (cell,) = anchors.cell_anchors
    sides = cell[:, 2:] - cell[:, :2]
    torch.testing.assert_close(sides.prod(1), torch.full((3,), 32.0**2))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]))
    sparse = Anchors(((512,),), (64,))
    (grid,) = sparse.grid_anchors([(13, 21)], [(800 // 13, 1344 // 21)])  # which would be 61
    centres = (grid[-1, :2] + grid[-1, 2:]) / 2
    assert centres.tolist() == [20 * 64, 12 * 64]


def test_regions_are_aligned_and_sampled_as_they_are_large():
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)  # a pixel's centre lies half a pixel on
    pooled = AlignedPool((1,), 2)({"0": ramp}, [torch.tensor([[10.0, 10, 30, 30]])], [])
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([14.5, 24.5]))
    steps = (torch.arange(64) % 5 == 0).float().expand(1, 1, 64, 64)  # two samples would miss it
    pooled = AlignedPool((1,), 1)({"0": steps}, [torch.tensor([[0.0, 0, 40, 40]])], [])
    assert pooled.item() == pytest.approx(0.2, abs=0.02)


def test_levels_are_torchvisions():
    low = torch.rand(500, 2) * 100
    boxes = torch.cat([low, low + torch.rand(500, 2) * 900 + 1], dim=1)
    assert torch.equal(AlignedPool((4, 8, 16, 32), 7).levels(boxes), LevelMapper(2, 5)([boxes]))


def test_box_losses_are_l1():
    boxes = torch.zeros(3, 12)
    boxes[1, 8:] = torch.tensor([0.01, -2, 0, 1])  # of class 2
    losses = box_losses(torch.zeros(3, 3), boxes, torch.tensor([0, 2, 0]), torch.zeros(3, 4))
    assert losses["loss_box_reg"].item() == pytest.approx(3.01 / 3)
    assert losses["loss_classifier"].item() == pytest.approx(math.log(3))


def test_mask_targets_are_0_or_1():
    mask = torch.zeros(1, 56, 56, dtype=torch.uint8)
    mask[:, :, :21] = 1  # ten and a half of 28 columns of two pixels
    cut = mask_targets(mask, torch.tensor([0]), torch.tensor([[0.0, 0, 56, 56]]))
    assert cut[0].sum(1).unique().tolist() == [11] and set(cut.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("protocol", ["voc07", "coco-1x"])
def test_nothing_is_frozen_and_last_layers_begin_small(protocol):
    torch.manual_seed(0)
    settings = build_settings(protocol, [])
    network = build_backbone("resnet18")
    fpn = protocol == "coco-1x"
    model = build_fpn(network, 80, settings) if fpn else build_c4(network, 20, settings)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("Frozen" in type(module).__name__ for module in model.modules())
    last = model.roi_heads.box_predictor
    assert last.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert last.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.1)
    if fpn:
        norms = [isinstance(m, torch.nn.BatchNorm2d) for m in model.roi_heads.modules()]
        assert sum(norms) == 8 and "4.1.weight" not in model.roi_heads.mask_head.state_dict()
        assert isinstance(model.backbone.fpn.inner_blocks[0][1], torch.nn.BatchNorm2d)
    else:
        assert model.roi_heads.box_head.norm.num_features == 512
        assert next(iter(model.backbone.state_dict())) == "conv1.weight"


def test_a_pyramid_is_handed_over():
    torch.manual_seed(0)
    theirs, head = pyramid(build_backbone("resnet18")), box_head()
    handed, settings = state(theirs, head), build_settings("coco-1x", [])

    def build(handed):
        network = Checkpoint(build_backbone("resnet18"), Source("RUN", arch="resnet18"), handed)
        return build_detector(network, 3, settings, seed=0)

    model = build(handed)
    assert torch.equal(
        model.backbone.fpn.inner_blocks[2][0].weight, theirs.fpn.inner_blocks[2][0].weight
    )
    assert torch.equal(model.roi_heads.box_head[3][0].weight, head[3][0].weight)
    assert not torch.equal(model.roi_heads.box_head[5].weight, head[5].weight)
    for wrong in ({"fpn.x": torch.zeros(1)}, {next(iter(handed)): torch.zeros(2)}):
        with pytest.raises(UserError, match="RUN: its detector's"):
            build(wrong)


# ---- settings ------------------------------------------------------------------------------------


def test_protocols_and_the_linear_rule():
    plain = build_settings("voc0712", [])
    assert (plain.lr, plain.steps, plain.milestones) == (0.02, 24000, (18000, 22000))
    assert plain.train_sides[0] == 480 and plain.warmup_steps == 100
    half = build_settings("voc07", ["images_per_step=8"])
    assert (half.lr, half.steps, half.milestones) == (0.01, 18000, (13500, 16500))
    assert half.warmup_steps == 200
    text = rule(half, "voc07", 4)
    assert "0.01 = 0.02 x 8/16 and 18000 = 9000 x 16/8" in text and "norm over 4 images" in text
    short = build_settings("coco-2x", ["images_per_step=4", "steps=180", "lr=0.1"])
    assert (short.lr, short.steps, short.milestones) == (0.1, 180, (120, 160))
    assert "learning rate 0.1, 180 steps" in rule(short, "coco-2x", 4)
    with pytest.raises(UserError, match="give five"):
        build_settings("coco-1x", ["anchors=[8]"])
    with pytest.raises(UserError, match="did you mean 'steps'"):
        build_settings("voc07", ["step=3"])

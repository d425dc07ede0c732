"""Average precision of PASCAL VOC, as detectron2 computes it (its `pascal_voc_evaluation.py`).

What sets it apart from COCO's: coordinates rounded to one decimal and scores to three, boxes
that include their last pixel, an IoU that must exceed the threshold, 11 points of recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluate.detection.annotated import Detections, Objects

THRESHOLDS = np.arange(50, 100, 5) / 100


@dataclass
class ClassScore:
    """One class: its average precisions (10,) by threshold, and its curve at an IoU of .5."""

    ap: np.ndarray
    recall: np.ndarray
    precision: np.ndarray


def score_class(
    detections: Sequence[Detections], truth: Sequence[Objects], label: int, area: bool = False
) -> ClassScore | None:
    """Score the detections of one class in all images; None: the class has no object to be found.

    label : of the class
    area : under the curve, as VOC counts from 2010 on; else over 11 points, as in 2007
    """
    wanted, found = [t.labels == label for t in truth], [d.labels == label for d in detections]
    count = sum(int((own & ~t.ignored).sum()) for own, t in zip(wanted, truth, strict=True))
    if count == 0:
        return None
    scores, overlap, box, ignored, first = [], [], [], [], 0
    for theirs, objects, rows, own in zip(detections, truth, found, wanted, strict=True):
        ious = pixel_iou(_rounded(theirs.boxes[rows], 1), objects.boxes[own])
        best = ious.argmax(1) if own.any() else np.zeros(rows.sum(), int)
        scores.append(_rounded(theirs.scores[rows], 3))
        overlap.append(ious.max(1, initial=-np.inf))
        box.append(first + best)
        ignored.append(objects.ignored[own][best] if own.any() else np.zeros(rows.sum(), bool))
        first += int(own.sum())
    order = np.argsort(-np.concatenate(scores), kind="stable")
    overlap, box, ignored = (np.concatenate(part)[order] for part in (overlap, box, ignored))
    curves = [_curve(overlap > threshold, box, ignored, count) for threshold in THRESHOLDS]
    average = under_curve if area else eleven_points
    return ClassScore(np.array([average(*curve) for curve in curves]), *curves[0])


def _rounded(values: np.ndarray, decimals: int) -> np.ndarray:
    """Round as text does; detectron2 hands its detections over as text."""
    if decimals == 3:
        return np.array([float(f"{value:.3f}") for value in values.tolist()])
    # x1 and y1 are written from 1 on, and so they are rounded; here they count from 0
    rows = [[v + (side < 2) for side, v in enumerate(box)] for box in values.tolist()]
    text = [[float(f"{value:.1f}") for value in box] for box in rows]
    return np.array(text).reshape(-1, 4) - (1, 1, 0, 0)


def pixel_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (N, M) overlaps of boxes (N, 4) and (M, 4) that hold their last row and column.

    The first sides count from 0 and the last from 1, so widths are plain differences: VOC's own
    numbers, all from 1 on, are theirs with 1 added to x1 and y1, and its widths x2 - x1 + 1.
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = (high - low).clip(0).prod(2)
    areas = [(part[:, 2:] - part[:, :2]).prod(1) for part in (boxes, others)]
    return both / (areas[0][:, None] + areas[1][None] - both)


def _curve(
    hit: np.ndarray, box: np.ndarray, ignored: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision after each detection, in the order of falling scores."""
    true = np.zeros(len(hit), bool)
    real = np.flatnonzero(hit & ~ignored)
    true[real[np.unique(box[real], return_index=True)[1]]] = True  # of several, the first
    false = ~true & ~(hit & ignored)
    tp, fp = np.cumsum(true), np.cumsum(false)
    return tp / count, tp / np.maximum(tp + fp, np.finfo(np.float64).eps)


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over r = 0, .1 .. 1 of the largest precision at a recall of r or more (VOC 2007)."""
    points = np.arange(0.0, 1.1, 0.1)
    return float(np.mean([precision[recall >= r].max(initial=0.0) for r in points]))


def under_curve(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the curve, made falling from the right (VOC 2010 and later)."""
    recall = np.concatenate([[0.0], recall])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))

"""Detections as COCO's results, and what they score: VOC's AP, or COCO's by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluate.detection.annotated import Annotated, Detections
from evaluate.detection.coco import load_truth
from evaluate.detection.voc_ap import THRESHOLDS, score_class

AT_75 = int(np.flatnonzero(THRESHOLDS == 0.75)[0])
COCO_STATS = {"ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5}
KINDS = {"bbox": "", "segm": "mask_"}  # COCO's names, and how ours begin


@dataclass
class Scores:
    """What a detector scores on a split, shares in [0, 1].

    averages : "ap", "ap50", "ap75"; of COCO also by size, and "mask_ap" and so on
    classes : by name, "ap" and "ap50" of boxes; a class without an object to be found has none
    curves : by class, recall and precision at an IoU of .5
    """

    averages: dict[str, float]
    classes: dict[str, dict[str, float]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def results_of(images: Annotated, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return detections as COCO's results: what its `loadRes` takes."""
    results = []
    for number, found in zip(images.ids, detections, strict=True):
        outlines = found.outlines or [None] * len(found.scores)
        columns = (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), outlines)
        for (x1, y1, x2, y2), score, label, outline in zip(*columns, strict=True):
            row = {"image_id": number, "category_id": images.numbers[label - 1], "score": score}
            row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            results.append(row | ({"segmentation": outline} if outline else {}))
    return results


def detections_of(images: Annotated, results: Sequence[dict[str, Any]]) -> list[Detections]:
    """Return results as detections of each image; the inverse of `results_of`."""
    labels = {number: label for label, number in enumerate(images.numbers, start=1)}
    rows = defaultdict(list)
    for result in results:
        rows[result["image_id"]].append(result)
    detections = []
    for number in images.ids:
        own = rows[number]
        boxes = np.array([r["bbox"] for r in own], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([r["score"] for r in own], np.float64)
        own_labels = np.array([labels[r["category_id"]] for r in own], np.int64)
        outlines = [r["segmentation"] for r in own if "segmentation" in r]
        detections.append(Detections(boxes, scores, own_labels, outlines))
    return detections


def score_voc(images: Annotated, detections: Sequence[Detections], area: bool = False) -> Scores:
    """Score by VOC's average precision; see `voc_ap`. A class without an object has no part."""
    scored = {
        name: score_class(detections, images.objects, label, area)
        for label, name in enumerate(images.classes, start=1)
    }
    scored = {name: score for name, score in scored.items() if score is not None}
    means = np.mean([score.ap for score in scored.values()], axis=0)  # by threshold
    averages = {"ap": float(means.mean()), "ap50": float(means[0]), "ap75": float(means[AT_75])}
    classes = {
        name: {"ap": float(score.ap.mean()), "ap50": float(score.ap[0])}
        for name, score in scored.items()
    }
    curves = {name: (score.recall, score.precision) for name, score in scored.items()}
    return Scores(averages, classes, curves)


def score_coco(images: Annotated, results: list[dict[str, Any]], masks: bool) -> Scores:
    """Score by pycocotools: 101 points, at most 100 detections an image, crowds ignored.

    masks : score those, too
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    averages: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = load_truth(images.source)
        for kind in reversed(KINDS) if masks else ("bbox",):
            found = truth.loadRes([dict(r) for r in results]) if results else COCO()
            evaluation = COCOeval(truth, found, kind)
            evaluation.params.imgIds = images.ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for name, row in COCO_STATS.items():
                if evaluation.stats[row] >= 0:  # -1: no object of that size
                    averages[KINDS[kind] + name] = float(evaluation.stats[row])
    precision = evaluation.eval["precision"][..., 0, -1]  # of boxes: thresholds, recalls, classes
    points = evaluation.params.recThrs
    by_class = {
        name: precision[..., row]
        for row, name in enumerate(images.classes)
        if (precision[..., row] >= 0).any()
    }
    classes = {
        name: {"ap": float(values.mean()), "ap50": float(values[0].mean())}
        for name, values in by_class.items()
    }
    curves = {name: (points, values[0]) for name, values in by_class.items()}
    return Scores({name: averages[name] for name in sorted(averages)}, classes, curves)

"""Scores: the means over thresholds and classes, COCO's results there and back, pycocotools."""

import contextlib
import io
import json
import shutil

import numpy as np
import pytest

from evaluate.detection.annotated import Detections
from evaluate.detection.coco import draw_outline, encode_mask, read_coco
from evaluate.detection.scores import detections_of, results_of, score_class, score_coco, score_voc
from evaluate.detection.voc import read_voc


def truth_as_detections(images, move=0.0):
    """The true boxes, moved to the right; scores fall from .9."""
    detections = []
    for size, objects in zip(images.sizes, images.objects, strict=True):
        real = np.flatnonzero(~objects.ignored)
        boxes, scores = objects.boxes[real] + (move, 0, move, 0), 0.9 - 0.01 * np.arange(len(real))
        outlines = objects.outlines and [objects.outlines[row] for row in real]
        masks = [encode_mask(draw_outline(outline, size, size)) for outline in outlines]
        detections.append(Detections(boxes, scores, objects.labels[real], masks))
    return detections


def test_voc_means(voc):
    images = read_voc(voc, ("2007",), "test")
    perfect = score_voc(images, truth_as_detections(images))
    assert perfect.averages == {"ap": 1.0, "ap50": 1.0, "ap75": 1.0}
    moved = truth_as_detections(images, 4.0)  # of 16 to 29 pixels: an IoU of .6 to .76
    scores = score_voc(images, moved)
    labels = sorted({label for objects in images.objects for label in objects.labels})
    by_class = [score_class(moved, images.objects, label).ap for label in labels]
    assert list(scores.classes) == [images.classes[label - 1] for label in labels]
    assert scores.averages["ap"] == pytest.approx(np.mean(by_class))
    assert scores.averages["ap75"] == pytest.approx(np.mean([ap[5] for ap in by_class]))
    assert 0 < scores.averages["ap75"] < scores.averages["ap50"] == 1


def test_results_there_and_back(coco):
    pytest.importorskip("pycocotools")
    images = read_coco(coco, "val2017")
    detections = truth_as_detections(images)
    results = json.loads(json.dumps(results_of(images, detections)))
    assert {row["category_id"] for row in results} <= {1, 4, 7}
    for there, back in zip(detections, detections_of(images, results), strict=True):
        np.testing.assert_allclose(there.boxes, back.boxes)
        assert there.scores.tolist() == back.scores.tolist()
        assert there.labels.tolist() == back.labels.tolist() and there.outlines == back.outlines


def test_coco_ap_is_pycocotools_on_the_exported_json(coco, tmp_path):
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = read_coco(coco, "train2017")
    results = results_of(images, truth_as_detections(images, 3.0))
    scores = score_coco(images, results, masks=True)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(coco / "annotations" / "instances_train2017.json"))
        for kind, name in (("bbox", ""), ("segm", "mask_")):
            evaluation = COCOeval(truth, truth.loadRes(str(path)), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for row, average in enumerate(("ap", "ap50", "ap75")):
                assert scores.averages[name + average] == evaluation.stats[row]
    assert 0.1 < scores.averages["ap"] < scores.averages["ap50"]
    assert scores.averages["mask_ap"] > 0
    boxes = [{n: v for n, v in row.items() if n != "segmentation"} for row in results]
    assert "mask_ap" not in score_coco(images, boxes, masks=False).averages
    mean = np.mean([score["ap"] for score in scores.classes.values()])
    assert scores.averages["ap"] == pytest.approx(mean)


def test_coco_ap_of_the_truth_and_of_nothing(coco):
    pytest.importorskip("pycocotools")
    images = read_coco(coco, "train2017")  # its crowd counts neither way
    perfect = score_coco(images, results_of(images, truth_as_detections(images)), True).averages
    assert perfect["ap"] == perfect["mask_ap"] == pytest.approx(1)
    assert score_coco(images, [], True).averages["mask_ap"] == 0


def test_truth_of_others(coco, tmp_path):
    """A byte order mark, no iscrowd, the number 0: pycocotools fails, or takes 0 for none."""
    pytest.importorskip("pycocotools")
    root = shutil.copytree(coco, tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if not a.pop("iscrowd")]
    content["annotations"][0]["id"] = 0
    path.write_text(json.dumps(content), "utf-8-sig")
    images = read_coco(root, "train2017")
    perfect = score_coco(images, results_of(images, truth_as_detections(images)), True)
    assert perfect.averages["ap"] == perfect.averages["mask_ap"] == pytest.approx(1)

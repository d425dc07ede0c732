"""VOC's average precision against figures found by hand, and against a plain loop."""

import numpy as np
import pytest

from evaluate.detection.annotated import Detections, Objects
from evaluate.detection.scores import THRESHOLDS, eleven_points, score_class


def truth(*boxes, label=1, difficult=()):
    rows = np.array(boxes, float).reshape(-1, 4)
    ignored = np.isin(np.arange(len(rows)), difficult)
    return Objects(rows, np.full(len(rows), label), ignored)


def found(*rows, label=1):
    """Detections (x1, y1, x2, y2, score) of an image."""
    rows = np.array(rows, float).reshape(-1, 5)
    return Detections(rows[:, :4], rows[:, 4], np.full(len(rows), label))


A, B = (0, 0, 40, 40), (60, 60, 90, 90)


def ap50(detections, objects):
    return score_class(detections, objects, 1).ap[0]


def test_a_perfect_detector_scores_one():
    score = score_class([found((*A, 0.9), (*B, 0.8))], [truth(A, B)], 1)
    assert score.ap.tolist() == [1.0] * 10
    assert score.recall.tolist() == [0.5, 1] and score.precision.tolist() == [1, 1]


def test_half_of_the_objects():
    """Recall .5 at precision 1: six of eleven points."""
    detections, objects = [found((*A, 0.9))], [truth(A, B)]
    assert ap50(detections, objects) == pytest.approx(6 / 11)


def test_a_false_positive_between():
    """Precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1: (6 + 5 * 2/3) / 11."""
    detections = [found((*A, 0.9), (200, 200, 240, 240, 0.8), (*B, 0.7))]
    assert ap50(detections, [truth(A, B)]) == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_second_detection_of_an_object_is_false():
    score = score_class([found((*A, 0.9), (*A, 0.8))], [truth(A)], 1)
    assert score.precision.tolist() == [1, 0.5]


def test_the_next_best_box_is_not_tried():
    """The second detection prefers A, which is taken, though it overlaps B by more than half."""
    a, b = (0, 0, 40, 40), (0, 8, 40, 48)
    score = score_class([found((*a, 0.9), (0, 3, 40, 43, 0.8))], [truth(a, b)], 1)
    assert score.recall.tolist() == [0.5, 0.5]


def test_difficult_objects_neither_help_nor_harm():
    objects = [truth(A, B, difficult=[1])]
    with_them = score_class([found((*B, 0.9), (*B, 0.85), (*A, 0.8))], objects, 1)
    assert with_them.precision.tolist() == [0, 0, 1] and with_them.recall.tolist() == [0, 0, 1]
    assert with_them.ap[0] == ap50([found((*A, 0.8))], objects) == 1
    assert score_class([found((*B, 0.9))], [truth(B, difficult=[0])], 1) is None


def test_the_last_pixel_counts():
    """Pixels 1..10 and 1..5 in VOC's numbers, which are 0..10 and 0..5 here: half of the area."""
    assert ap50([found((0, 0, 10, 5, 0.9))], [truth((0, 0, 10, 10))]) == 0
    # in VOC's numbers without the last pixel this would be 9 * 5 / (9 * 9) = .556
    assert ap50([found((0, 0, 10, 5.2, 0.9))], [truth((0, 0, 10, 10))]) == 1


@pytest.mark.parametrize("rows", range(50, 100, 5))
def test_an_overlap_of_exactly_the_threshold_is_a_miss(rows):
    score = score_class([found((0, 0, 100, rows, 0.9))], [truth((0, 0, 100, 100))], 1)
    assert score.ap.tolist() == (rows / 100 > THRESHOLDS).astype(float).tolist()


def test_rounding_as_text():
    """49.96 is written 50.0: exactly half; 50.06 is written 50.1. Scores of three decimals tie."""
    assert ap50([found((0, 0, 100, 49.96, 0.9))], [truth((0, 0, 100, 100))]) == 0
    assert ap50([found((0, 0, 100, 50.04, 0.9))], [truth((0, 0, 100, 100))]) == 0
    assert ap50([found((0, 0, 100, 50.06, 0.9))], [truth((0, 0, 100, 100))]) == 1
    tied = score_class([found((*B, 0.50001), (*A, 0.50002))], [truth(A)], 1)
    assert tied.precision.tolist() == [0, 0.5]  # the first in the list stays first


def test_images_and_classes_are_apart():
    assert ap50([found((*A, 0.9)), found()], [truth(), truth(A)]) == 0
    assert ap50([found((*A, 0.9), label=2)], [truth(A)]) == 0
    assert score_class([found()], [truth(A, label=2)], 1) is None
    assert ap50([found()], [truth(A)]) == 0


def plain_loop(detections, objects, threshold):
    """The evaluation as the devkit's pseudo-code has it, in numbers from 1 on."""
    rows = []
    for image, d in enumerate(detections):
        for box, score in zip(d.boxes, d.scores, strict=True):
            text = f"{score:.3f} {box[0] + 1:.1f} {box[1] + 1:.1f} {box[2]:.1f} {box[3]:.1f}"
            rows.append((image, *map(float, text.split())))
    rows.sort(key=lambda row: -row[1])
    taken, tp, fp = set(), [], []
    for image, _, x1, y1, x2, y2 in rows:
        best, which = -1, None
        theirs = np.add(objects[image].boxes, (1, 1, 0, 0))
        for number, (gx1, gy1, gx2, gy2) in enumerate(theirs):
            w = max(0, min(x2, gx2) - max(x1, gx1) + 1)
            h = max(0, min(y2, gy2) - max(y1, gy1) + 1)
            union = (x2 - x1 + 1) * (y2 - y1 + 1) + (gx2 - gx1 + 1) * (gy2 - gy1 + 1) - w * h
            if w * h / union > best:
                best, which = w * h / union, number
        hit = best > threshold
        if hit and objects[image].ignored[which]:
            tp.append(0), fp.append(0)
        else:
            new = hit and (image, which) not in taken
            tp.append(int(new)), fp.append(int(not new))
            taken.add((image, which) if hit else None)
    count = sum((~o.ignored).sum() for o in objects)
    tp, fp = np.cumsum(tp), np.cumsum(fp)
    recall, precision = tp / count, tp / np.maximum(tp + fp, 1e-12)
    points = [max([p for r, p in zip(recall, precision, strict=True) if r >= t], default=0)
              for t in np.arange(0, 1.1, 0.1)]  # fmt: skip
    return np.mean(points)


def test_against_a_plain_loop():
    rng = np.random.default_rng(0)

    def boxes(count):
        low = rng.uniform(0, 60, (count, 2))
        return np.hstack([low, low + rng.uniform(20, 50, (count, 2))])

    objects, detections = [], []
    for _ in range(12):
        own = boxes(4).round()
        objects.append(Objects(own, np.ones(4, int), rng.random(4) < 0.2))
        near = np.vstack([own + rng.normal(0, 3, (4, 4)) for _ in range(3)] + [boxes(4)])
        detections.append(Detections(near, rng.random(16).round(2), np.ones(16, int)))
    scores = score_class(detections, objects, 1).ap
    plain = [plain_loop(detections, objects, t) for t in THRESHOLDS]
    np.testing.assert_allclose(scores, plain, atol=1e-12)
    assert 0.1 < scores[0] < 0.9 and len(set(scores)) > 5


def test_averages_of_a_curve():
    recall, precision = np.array([0.25, 0.5, 0.75]), np.array([1.0, 0.4, 0.6])
    assert eleven_points(recall, precision) == pytest.approx((3 * 1 + 5 * 0.6) / 11)

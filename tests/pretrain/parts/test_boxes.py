"""Boxes against plain loops and torchvision."""

import torch
from torchvision.ops import box_iou

from pretrain.parts.boxes import (
    JITTER_NUMBERS,
    corners,
    jitter_boxes,
    overlap,
    tight_boxes,
    uniform_numbers,
)

BOXES = torch.tensor([[4.0, 6, 20, 30], [0, 0, 8, 8], [30, 50, 34, 14], [10, 10, 1, 1]])
SIZE = 64


def numbers(seed=0, step=0):
    return uniform_numbers(seed, step, torch.arange(len(BOXES)), JITTER_NUMBERS)


def plain_jitter(box, u, shift, enlarge):
    """The same for one box, by its description."""
    top, left, height, width = box.tolist()
    for attempt in u.view(10, 9).tolist():
        half, (a, b, c, d), (above, before, below, behind) = (
            attempt[0] < 0.5,
            attempt[1:5],
            attempt[5:],
        )
        t = top + half * shift * (2 * a - 1) * height
        l = left + half * shift * (2 * b - 1) * width  # noqa: E741
        h = height + half * shift * (2 * c - 1) * height
        w = width + half * shift * (2 * d - 1) * width
        low = [max(0, t - enlarge * above * h), max(0, l - enlarge * before * w)]
        high = [min(SIZE, t + h + enlarge * below * h), min(SIZE, l + w + enlarge * behind * w)]
        tried = torch.tensor([[low[1], low[0], high[1], high[0]]])
        if float(box_iou(tried, corners(box[None]))) >= 0.5:
            return [*low, high[0] - low[0], high[1] - low[1]]
    return box.tolist()


def test_jitter_is_what_its_description_says():
    for shift, enlarge in ((0.1, 0.3), (0.0, 0.0), (0.4, 1.0)):
        got = jitter_boxes(BOXES, numbers(), SIZE, shift, enlarge)
        wanted = [
            plain_jitter(box, u, shift, enlarge) for box, u in zip(BOXES, numbers(), strict=True)
        ]
        torch.testing.assert_close(got, torch.tensor(wanted), atol=1e-4, rtol=1e-5)
        assert (overlap(got, BOXES) >= 0.499).all()
    assert torch.equal(jitter_boxes(BOXES, numbers(), SIZE, 0.0, 0.0), BOXES)
    hopeless = jitter_boxes(BOXES[:1], numbers()[:1], SIZE, 0.1, 0.3, least_overlap=2.0)
    assert torch.equal(hopeless, BOXES[:1])


def test_numbers_follow_from_seed_step_and_row():
    rows = torch.arange(1000)
    drawn = uniform_numbers(3, 7, rows, 5)
    assert torch.equal(drawn[600:602], uniform_numbers(3, 7, rows[600:602], 5))
    assert not torch.equal(drawn, uniform_numbers(3, 8, rows, 5))
    assert drawn.min() >= 0 and drawn.max() < 1 and abs(float(drawn.mean()) - 0.5) < 0.02


def test_overlap_is_torchvisions():
    other = BOXES.flip(0) + 3
    wanted = box_iou(corners(BOXES), corners(other)).diagonal()
    torch.testing.assert_close(overlap(BOXES, other), wanted)


def test_tight_boxes():
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = masks[0, 3, 5] = masks[1, 4, 6] = True
    wanted = torch.tensor([[1.0, 2, 3, 4], [4, 6, 1, 1], [0, 0, 0, 0]])
    assert torch.equal(tight_boxes(masks), wanted)

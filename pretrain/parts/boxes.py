"""Boxes of objects in views: of masks, jittered, as corners.

A box is (top, left, height, width) in pixels of the view, float32 (B, 4).
"""

from __future__ import annotations

import torch

from pretrain.parts.negatives import stream_key, uniform_integers

_ATTEMPTS = 10
_FINENESS = 2**24  # uniform numbers are multiples of its inverse, exact in float32


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Return the boxes of what is true in masks (B, H, W); one without a true pixel: zeros."""
    sides = []
    for line in (masks.any(2), masks.any(1)):  # rows, columns
        number = line.to(torch.uint8)  # argmax takes no bool
        first = number.argmax(1)
        last = line.shape[1] - 1 - number.flip(1).argmax(1)
        size = torch.where(line.any(1), last - first + 1, 0)
        sides.append((first, size))
    (top, height), (left, width) = sides
    return torch.stack([top, left, height, width], 1).float()


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """Return (left, top, right, bottom), as torchvision's operators take boxes."""
    top, left, height, width = boxes.unbind(-1)
    return torch.stack([left, top, left + width, top + height], -1)


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of boxes (..., 4) with boxes (..., 4), pair by pair."""
    a, b = corners(a), corners(b)
    least, most = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (most - least).clamp_min(0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    return shared / (areas[0] + areas[1] - shared).clamp_min(1e-6)


def uniform_numbers(seed: int, step: int, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return float32 (B, count) in [0, 1) that follow from seed, step and row alone.

    rows : int64 (B,), of the global batch.
    """
    counters = rows[:, None] * count + torch.arange(count, device=rows.device)
    return uniform_integers(stream_key(seed, step), counters, _FINENESS).float() / _FINENESS


def jitter_boxes(
    boxes: torch.Tensor,
    numbers: torch.Tensor,
    size: int,
    shift: float,
    enlarge: float,
    least_overlap: float = 0.5,
) -> torch.Tensor:
    """Return boxes moved at random and enlarged, so that they take in background; clipped.

    Of ten tries the first is taken that still overlaps the box enough, as InstanceLoc asks of its
    augmented boxes; where none does, the box stays.

    numbers : float32 (B, JITTER_NUMBERS), uniform in [0, 1).
    size : S, pixels; boxes lie within (0, 0, S, S).
    shift : top, left, height and width each change by U(-shift, shift) of the side (SoCo), in half
        of the cases.
    enlarge : each of the four sides then moves outward by U(0, enlarge) of the height or width.
    least_overlap : smallest intersection over union with the box.
    """
    u = numbers.view(len(boxes), _ATTEMPTS, 9)
    sides = boxes[:, None, 2:].repeat(1, 1, 2)  # (B, 1, 4): height, width, height, width
    moved = boxes[:, None] + sides * shift * (2 * u[..., 1:5] - 1) * (u[..., :1] < 0.5)
    outward = moved[..., 2:].repeat(1, 1, 2) * enlarge * u[..., 5:]  # above, left, below, right
    low = (moved[..., :2] - outward[..., :2]).clamp(0, size)
    high = (moved[..., :2] + moved[..., 2:] + outward[..., 2:]).clamp(0, size)
    tries = torch.cat([low, high - low], -1)  # (B, tries, 4)
    sound = overlap(tries, boxes[:, None]) >= least_overlap
    first = sound.to(torch.uint8).argmax(1)
    chosen = tries[torch.arange(len(boxes), device=boxes.device), first]
    return torch.where(sound.any(1, keepdim=True), chosen, boxes)


JITTER_NUMBERS = _ATTEMPTS * 9
"""Uniform numbers that a box's jitter takes."""

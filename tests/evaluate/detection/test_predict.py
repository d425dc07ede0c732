"""Masks are pasted as detectron2 pastes them: by pixels' centres, in a box that is not rounded."""

import math

import pytest
import torch

from evaluate.detection.predict import paste_mask


def plain(mask, box, size):
    """Bilinear interpolation at every pixel's centre, cells' centres at 1/2, 3/2 ...; 0 beyond."""
    side, (x1, y1, x2, y2) = len(mask), box
    found = torch.zeros(size)

    def cell(row, column):
        inside = 0 <= row < side and 0 <= column < side
        return float(mask[row, column]) if inside else 0.0

    for y in range(size[0]):
        for x in range(size[1]):
            v = (y + 0.5 - y1) / (y2 - y1) * side - 0.5
            u = (x + 0.5 - x1) / (x2 - x1) * side - 0.5
            top, left = math.floor(v), math.floor(u)
            b, a = v - top, u - left
            found[y, x] = (1 - b) * ((1 - a) * cell(top, left) + a * cell(top, left + 1)) + b * (
                (1 - a) * cell(top + 1, left) + a * cell(top + 1, left + 1)
            )
    return found


@pytest.mark.parametrize(
    "box",
    [
        (3.3, 2.8, 17.6, 11.1),
        (0.0, 0.0, 24.0, 20.0),  # the whole image
        (10.2, 5.4, 10.9, 6.3),  # within a pixel
        (-2.5, 12.0, 30.0, 26.5),  # beyond the image
    ],
)
def test_pasting_is_interpolation_at_pixels_centres(box):
    mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
    wanted = plain(mask, box, (20, 24))
    pasted = paste_mask(mask, torch.tensor(box), (20, 24))
    near = torch.zeros(20, 24, dtype=torch.bool)
    near[max(0, math.floor(box[1]) - 1) : math.ceil(box[3]) + 1,
         max(0, math.floor(box[0]) - 1) : math.ceil(box[2]) + 1] = True  # fmt: skip
    torch.testing.assert_close(pasted[near], wanted[near], atol=1e-5, rtol=0)
    assert not pasted[~near].any() and not (wanted[~near] >= 0.5).any()
    assert torch.equal(pasted >= 0.5, wanted >= 0.5)


def test_a_full_mask_holds_the_pixels_whose_centres_lie_in_the_box():
    pasted = paste_mask(torch.ones(28, 28), torch.tensor([2.4, 3.6, 9.4, 8.6]), (12, 14)) >= 0.5
    wanted = torch.zeros(12, 14, dtype=torch.bool)
    wanted[4:9, 2:9] = True  # centres 4.5 to 8.5 and 2.5 to 8.5
    assert torch.equal(pasted, wanted)

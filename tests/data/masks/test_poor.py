import numpy as np
import pytest

from data.masks.summary import RAGGED, coverage, raggedness, why_poor


def squares(count: int) -> np.ndarray:
    """Squares of 10 pixels a side, apart, in a mask of 200 x 200."""
    mask = np.zeros((200, 200), np.uint8)
    for number in range(count):
        y, x = 15 * (number // 13), 15 * (number % 13)
        mask[y : y + 10, x : x + 10] = 200
    return mask


@pytest.mark.parametrize("count", [1, 4, 9, 100])
def test_raggedness_of_squares_is_the_root_of_their_number(count):
    assert raggedness(squares(count)) == pytest.approx(np.sqrt(count))


def test_raggedness_of_a_disc():
    y, x = np.mgrid[-90:91, -90:91]
    disc = np.uint8(255 * (y**2 + x**2 < 80**2))
    assert raggedness(disc) == pytest.approx(2 / np.sqrt(np.pi), abs=0.02)  # 8 r / (4 sqrt(pi) r)


def test_reasons():
    assert why_poor(np.zeros((0, 0), np.uint8)) == why_poor(squares(5)) == "nearly empty"
    assert why_poor(np.full((9, 9), 240, np.uint8)) == "nearly everything"
    assert raggedness(squares(100)) > RAGGED and why_poor(squares(100)) == "ragged"
    good = np.zeros((40, 40), np.uint8)
    good[10:30, 10:30] = 255
    assert why_poor(good) == "" and coverage(good) == 0.25

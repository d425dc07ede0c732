"""Pictures and golden intermediates for the saliency tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image


class Golden(NamedTuple):
    """A photograph and what the authors' programs made of it."""

    name: str
    image: np.ndarray
    values: dict[str, np.ndarray]


def golden_cases(folder: Path) -> Iterator[Golden]:
    for path in sorted((folder / "golden").glob("*.npz")):
        with (
            np.load(path, allow_pickle=False) as values,
            Image.open(path.with_suffix(".JPEG")) as picture,
        ):
            yield Golden(path.stem, np.asarray(picture.convert("RGB")), dict(values))


@pytest.fixture(scope="session")
def golden(shared_data) -> list[Golden]:
    cases = list(golden_cases(shared_data))
    assert len(cases) == 19
    return cases


@pytest.fixture
def disc() -> tuple[np.ndarray, np.ndarray]:
    """A reddish disc on a noisy green ground, and the disc as bool (H, W)."""
    y, x = np.mgrid[:120, :160]
    inside = (y - 60) ** 2 + (x - 80) ** 2 < 30**2
    noise = np.random.default_rng(0).integers(-8, 9, (120, 160, 3))
    image = np.where(inside[..., None], (200, 60, 50), (60, 140, 70)) + noise
    return image.astype(np.uint8), inside

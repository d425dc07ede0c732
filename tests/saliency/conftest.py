"""Pictures and golden intermediates for the saliency tests."""

from collections.abc import Callable, Iterator
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


def disc_image(height: int, width: int, seed: int) -> np.ndarray:
    """A disc of one colour before another, with some noise: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.4, 0.6, 2) * (height, width)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (min(height, width) / 4) ** 2
    colours = rng.integers(0, 256, (2, 3))
    image = np.where(inside[..., None], *colours) + rng.integers(-8, 9, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def draw_disc() -> Callable[[int, int, int], np.ndarray]:
    """The function that draws a disc: (height, width, seed) to uint8 (height, width, 3)."""
    return disc_image


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder of six small pictures, one flat one, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "a").mkdir()
    for i in range(6):
        Image.fromarray(disc_image(120 + 4 * i, 150 - 2 * i, i)).save(folder / f"a/disc-{i}.png")
    Image.new("RGB", (30, 20), (9, 99, 9)).save(folder / "flat.png")
    (folder / "torn.jpg").touch()
    return folder

"""A labelled set of pictures: objects on backgrounds that tempt a model to look there.

The backgrounds are cut from textures and photographs that scikit-image carries. In `train` each
class has a usual background, as cows have grass and fish have water: it appears behind
`HABITAT_SHARE` of the class's images and, as any other, behind the rest. The pictures of `val` lie
on backgrounds from other photographs, drawn without regard to the class. So the background tells
training images apart with ease, hints at their class, and is worthless on `val`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
from PIL import Image
from tqdm import tqdm

from demo.objects import CLASSES, draw_object

SIDE = 128  # pixels of a picture
SEED = 7
HABITAT_SHARE = 0.5

TRAIN_SOURCES: dict[str, Callable[[], np.ndarray]] = {
    "brick": skimage.data.brick,
    "grass": skimage.data.grass,
    "gravel": skimage.data.gravel,
    "astronaut": skimage.data.astronaut,
    "cat": skimage.data.chelsea,
    "coffee": skimage.data.coffee,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "rocket": skimage.data.rocket,
}
VAL_SOURCES: dict[str, Callable[[], np.ndarray]] = {
    "camera": skimage.data.camera,
    "coins": skimage.data.coins,
    "galaxies": skimage.data.hubble_deep_field,
    "moon": skimage.data.moon,
    "page": skimage.data.page,
    "retina": skimage.data.retina,
    "tissue": skimage.data.immunohistochemistry,
}


@dataclass(frozen=True)
class Scene:
    """One picture: `image` uint8 (side, side, 3), `mask` uint8 (side, side), 255 on the object."""

    image: np.ndarray
    mask: np.ndarray
    source: str  # of the background


def render_scene(
    kind: str, sources: dict[str, np.ndarray], habitat: str | None, rng: np.random.Generator
) -> Scene:
    """Draw an object of a class on a background of its habitat or, as often, of any source."""
    if habitat is not None and rng.uniform() < HABITAT_SHARE:
        source = habitat
    else:
        source = str(rng.choice(list(sources)))
    behind = _cut(sources[source], rng)
    drawn = draw_object(kind, SIDE, behind, rng)
    alpha = drawn.alpha[..., None]
    image = alpha * drawn.colour * 255 + (1 - alpha) * behind
    mask = np.where(drawn.alpha >= 0.5, 255, 0).astype(np.uint8)
    return Scene(np.round(image).astype(np.uint8), mask, source)


def _cut(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph, turned by quarters, mirrored, tinted and dimmed: uint8."""
    longest = min(photograph.shape[:2])
    side = int(rng.uniform(0.25, 0.5) * longest)
    top = rng.integers(photograph.shape[0] - side + 1)
    left = rng.integers(photograph.shape[1] - side + 1)
    piece = np.rot90(photograph[top : top + side, left : left + side], rng.integers(4))
    if rng.uniform() < 0.5:
        piece = piece[:, ::-1]
    scaled = cv2.resize(np.ascontiguousarray(piece), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    values = scaled.astype(np.float32)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    gray = values.mean(axis=2, keepdims=True)
    values = gray + 0.7 * (values - gray)
    tint = rng.uniform(0.75, 1, 3)
    return np.clip(values * tint, 0, 255)


def write_scenes(
    folder: Path,
    truth: Path,
    train: int,
    val: int,
    backgrounds: tuple[str, str] = ("tied", "unseen"),
    quiet: bool = False,
) -> None:
    """Write pictures as folder/train/<class>/0000.jpg and folder/val/..., and their true masks.

    The masks are truth/train/<class>/0000.png and so on. The pictures depend on nothing but
    `SEED`, their numbers and their backgrounds. What is there already stays.

    Parameters
    ----------
    train, val : images, spread evenly over the classes.
    backgrounds : of train and of val: "tied" to the class in part (`HABITAT_SHARE`), "shared" by
        all classes alike, or "unseen", from other photographs than the first two.
    quiet : show no progress.
    """
    for part, count, kind in (("train", train, backgrounds[0]), ("val", val, backgrounds[1])):
        if (folder / part).is_dir():
            continue
        loaders = VAL_SOURCES if kind == "unseen" else TRAIN_SOURCES
        sources = {name: np.asarray(load()) for name, load in loaders.items()}
        habitats = list(TRAIN_SOURCES) if kind == "tied" else [None] * len(CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(truth / part, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{part}-", dir=folder))
        hidden = True if quiet else None  # None: where there is no terminal
        for number in tqdm(range(count), desc=f"draw {part}", unit="image", disable=hidden):
            label, place = number % len(CLASSES), number // len(CLASSES)
            kind = list(CLASSES)[label]
            rng = np.random.default_rng([SEED, part == "val", number])
            scene = render_scene(kind, sources, habitats[label], rng)
            for path, pixels in (
                (draft / kind / f"{place:04d}.jpg", scene.image),
                (truth / part / kind / f"{place:04d}.png", scene.mask),
            ):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, quality=92)
        draft.chmod(0o755)
        os.replace(draft, folder / part)

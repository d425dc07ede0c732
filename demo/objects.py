"""Eight kinds of objects, drawn with parts, shading and texture, each one a little different.

Colours, sizes, angles and places are drawn at random and say nothing about the class; only the
shape does.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Point = tuple[float, float]
OVERSAMPLING = 2  # objects are drawn this much larger, then averaged
ROUNDING = 12  # pixels of the picture over which a part's edge is rounded off


@dataclass(frozen=True)
class Part:
    """A polygon in the object's own coordinates: x to the right, y down, the object within [-1, 1].

    `colour` is 0 for the main colour, 1 for the second, 2 for the dark and 3 for the pale one.
    """

    outline: np.ndarray  # float64 (n, 2)
    colour: int = 0


@dataclass(frozen=True)
class Drawn:
    """An object on nothing: float32 `colour` (h, w, 3) and `alpha` (h, w), both in [0, 1]."""

    colour: np.ndarray
    alpha: np.ndarray


def _polygon(*points: Point, colour: int = 0) -> Part:
    return Part(np.array(points, np.float64), colour)


def _ellipse(
    x: float, y: float, rx: float, ry: float, colour: int = 0, start: float = 0, end: float = 360
) -> Part:
    angles = np.radians(np.linspace(start, end, 48))
    return Part(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1), colour)


def _ring_sector(
    x: float, y: float, inner: float, outer: float, start: float, end: float, colour: int = 0
) -> Part:
    angles = np.radians(np.linspace(start, end, 32))
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Part(np.concatenate([outer * arc, inner * arc[::-1]]) + np.array([x, y]), colour)


def _butterfly(rng: np.random.Generator) -> list[Part]:
    wing, low = rng.uniform(0.5, 0.6), rng.uniform(0.3, 0.42)
    parts = []
    for side in (-1, 1):
        parts.append(_ellipse(side * 0.5, -0.35, 0.48, wing))
        parts.append(_ellipse(side * 0.42, 0.5, 0.38, low, 1))
        parts.append(_ellipse(side * 0.55, -0.4, 0.2, 0.22, 3))
    return [*parts, _ellipse(0, 0.05, 0.12, 0.8, 2)]


def _car(rng: np.random.Generator) -> list[Part]:
    roof, front = rng.uniform(-0.6, -0.45), rng.uniform(0.4, 0.6)
    return [
        _polygon((-0.65, -0.05), (-0.42, roof), (0.25, roof), (front, -0.05), colour=1),
        _polygon((-0.5, -0.1), (-0.35, roof + 0.1), (-0.08, roof + 0.1), (-0.08, -0.1), colour=3),
        _polygon(
            (0.02, -0.1), (0.02, roof + 0.1), (0.2, roof + 0.1), (front - 0.1, -0.1), colour=3
        ),
        _polygon((-1, 0), (-0.9, -0.12), (0.85, -0.12), (1, 0.08), (1, 0.38), (-1, 0.38)),
        _ellipse(-0.52, 0.4, 0.26, 0.26, 2),
        _ellipse(0.52, 0.4, 0.26, 0.26, 2),
        _ellipse(-0.52, 0.4, 0.1, 0.1, 3),
        _ellipse(0.52, 0.4, 0.1, 0.1, 3),
    ]


def _fish(rng: np.random.Generator) -> list[Part]:
    height, tail = rng.uniform(0.42, 0.55), rng.uniform(0.4, 0.55)
    return [
        _polygon((0.45, 0), (1, -tail), (0.88, 0), (1, tail), colour=1),
        _polygon((-0.3, -0.3), (0.1, -0.8), (0.4, -0.2), colour=1),
        _ellipse(-0.2, 0, 0.78, height),
        _polygon((-0.1, 0.05), (0.25, 0.3), (0.22, -0.05), colour=1),
        _ellipse(-0.65, -0.12, 0.11, 0.11, 3),
        _ellipse(-0.66, -0.12, 0.05, 0.05, 2),
    ]


def _house(rng: np.random.Generator) -> list[Part]:
    top, eaves = rng.uniform(-1, -0.85), rng.uniform(0.85, 1)
    return [
        _polygon((0.35, -0.95), (0.6, -0.95), (0.6, -0.1), (0.35, -0.1), colour=2),
        _polygon((-0.75, -0.2), (0.75, -0.2), (0.75, 0.9), (-0.75, 0.9)),
        _polygon((-eaves, -0.1), (0, top), (eaves, -0.1), colour=1),
        _polygon((-0.5, 0.25), (-0.1, 0.25), (-0.1, 0.9), (-0.5, 0.9), colour=2),
        _polygon((0.15, 0.1), (0.55, 0.1), (0.55, 0.5), (0.15, 0.5), colour=3),
    ]


def _ice_cream(rng: np.random.Generator) -> list[Part]:
    scoop = rng.uniform(0.42, 0.5)
    return [
        _polygon((-0.45, 0.0), (0.45, 0.0), (0, 1), colour=1),
        _ellipse(-0.24, -0.15, scoop, scoop * 0.85),
        _ellipse(0.26, -0.15, scoop * 0.95, scoop * 0.85, 3),
        _ellipse(0, -0.55, scoop, scoop * 0.85),
        _ellipse(0, -0.92, 0.13, 0.13, 2),
    ]


def _mug(rng: np.random.Generator) -> list[Part]:
    taper, band = rng.uniform(0, 0.12), rng.uniform(-0.1, 0.3)
    return [
        _ring_sector(0.42, 0.0, 0.3, 0.52, -90, 90),
        _polygon((-0.85, -0.75), (0.5, -0.75), (0.5 - taper, 0.85), (-0.85 + taper, 0.85)),
        _polygon(
            (-0.83, band),
            (0.48, band),
            (0.46 - taper / 2, band + 0.28),
            (-0.8, band + 0.28),
            colour=1,
        ),
        _ellipse(-0.175, -0.75, 0.675, 0.18, 3),
        _ellipse(-0.175, -0.73, 0.56, 0.12, 2),
    ]


def _mushroom(rng: np.random.Generator) -> list[Part]:
    stem, cap = rng.uniform(0.2, 0.3), rng.uniform(0.8, 1)
    return [
        _polygon((-stem, -0.1), (stem, -0.1), (stem + 0.1, 0.9), (-stem - 0.1, 0.9), colour=3),
        _ellipse(0, 0.0, 0.95, cap, 0, 180, 360),
        _ellipse(0, 0.0, 0.95, 0.14, 1),
        _ellipse(-0.45, -0.35, 0.16, 0.16, 3),
        _ellipse(0.1, -0.6, 0.18, 0.18, 3),
        _ellipse(0.5, -0.28, 0.14, 0.14, 3),
    ]


def _tree(rng: np.random.Generator) -> list[Part]:
    wide = rng.uniform(0.7, 0.85)
    return [
        _polygon((-0.13, 0.4), (0.13, 0.4), (0.16, 1), (-0.16, 1), colour=2),
        _polygon((-wide, 0.6), (0, -0.1), (wide, 0.6)),
        _polygon((-wide * 0.85, 0.1), (0, -0.6), (wide * 0.85, 0.1), colour=1),
        _polygon((-wide * 0.65, -0.4), (0, -1), (wide * 0.65, -0.4)),
    ]


CLASSES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "butterfly": _butterfly,
    "car": _car,
    "fish": _fish,
    "house": _house,
    "ice-cream": _ice_cream,
    "mug": _mug,
    "mushroom": _mushroom,
    "tree": _tree,
}


def draw_object(kind: str, side: int, behind: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Draw one object of a class for a picture of side x side pixels.

    Parameters
    ----------
    kind : one of `CLASSES`.
    behind : uint8 (side, side, 3), what it will lie on; its colours keep clear of that one's mean.
    rng : decides everything else: angle, size, place, proportions, colours, light and grain.
    """
    parts = CLASSES[kind](rng)
    place = _placement(parts, side, rng)
    palette = _palette(behind, rng)
    light = rng.uniform(-1, 1, 2)
    canvas = side * OVERSAMPLING
    colour = np.zeros((canvas, canvas, 3), np.float32)
    alpha = np.zeros((canvas, canvas), np.uint8)
    for part in parts:
        outline = np.round(place(part.outline) * OVERSAMPLING).astype(np.int32)
        inside = np.zeros((canvas, canvas), np.uint8)
        cv2.fillPoly(inside, [outline], 1)
        top, left, bottom, right = _bounds(outline, canvas)
        window = (slice(top, bottom), slice(left, right))
        where = inside[window] > 0
        shade = _shading(inside[window], light) * _grain(where.shape, rng)
        painted = palette[part.colour] * shade[..., None]
        colour[window][where] = painted[where]
        alpha[window][where] = 1
    size = (side, side)
    covered = cv2.resize(alpha.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    summed = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    even = summed / np.maximum(covered, 1e-6)[..., None]
    return Drawn(np.clip(even, 0, 1), covered)


def _placement(parts: list[Part], side: int, rng: np.random.Generator):
    """Return the map from the object's coordinates to pixels: turned, mirrored, scaled, moved."""
    angle = np.radians(rng.uniform(-30, 30))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turn *= [[rng.choice([-1.0, 1.0])], [1.0]]
    turned = np.concatenate([part.outline @ turn for part in parts])
    low, high = turned.min(axis=0), turned.max(axis=0)
    longest = rng.uniform(0.6, 0.85) * side
    scale = longest / (high - low).max()
    free = side - scale * (high - low)
    corner = free * rng.uniform(0.15, 0.85, 2)
    return lambda outline: (outline @ turn - low) * scale + corner


def _palette(behind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Four colours, float32 (4, 3); the first two are saturated and far from the background's."""
    mean = cv2.cvtColor(
        np.float32(behind.mean(axis=(0, 1)) / 255).reshape(1, 1, 3), cv2.COLOR_RGB2LAB
    )
    chosen: list[tuple[float, float, float]] = []
    for _ in range(2):
        candidates = [
            colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.65, 1), rng.uniform(0.6, 1))
            for _ in range(4)
        ]
        lab = cv2.cvtColor(np.float32(candidates).reshape(1, 4, 3), cv2.COLOR_RGB2LAB)
        chosen.append(candidates[int(np.linalg.norm(lab - mean, axis=2).argmax())])
    hue = rng.uniform()
    dark = colorsys.hsv_to_rgb(hue, 0.5, rng.uniform(0.15, 0.3))
    pale = colorsys.hsv_to_rgb(hue, rng.uniform(0.05, 0.2), rng.uniform(0.9, 1))
    return np.float32([*chosen, dark, pale])


def _shading(inside: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Brightness of a part that bulges towards the viewer, float32 (h, w): Lambert's cosine law."""
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    reach = ROUNDING * OVERSAMPLING
    rise = 1 - np.minimum(depth / reach, 1)
    height = cv2.GaussianBlur(np.sqrt(1 - rise**2) * reach, (0, 0), OVERSAMPLING)
    dy, dx = np.gradient(height)
    steep = np.sqrt(dx**2 + dy**2 + 1)
    cosine = (-dx * light[0] - dy * light[1] + 1) / steep / np.sqrt(light @ light + 1)
    return np.float32(0.25 + 0.8 * np.clip(cosine, 0, 1))


def _grain(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Fine texture around 1, float32 (h, w)."""
    noise = rng.standard_normal(shape).astype(np.float32)
    return 1 + 0.25 * cv2.GaussianBlur(noise, (0, 0), 1.5)


def _bounds(outline: np.ndarray, canvas: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a polygon, within the canvas."""
    left, top = np.clip(outline.min(axis=0) - 1, 0, canvas - 1)
    right, bottom = np.clip(outline.max(axis=0) + 2, 1, canvas)
    return int(top), int(left), int(bottom), int(right)

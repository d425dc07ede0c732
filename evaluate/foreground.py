"""`probe foreground`: how much of the features the object explains, and how much the background."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from data.errors import UserError
from data.gallery import Cell, Figure, Gallery, Row
from data.gallery.plots import add_legend, plot
from data.options import Count, NotNegative, setting
from evaluate.intervals import Estimate
from evaluate.labelled import open_any
from evaluate.masks import open_masks
from evaluate.options import ComparisonOptions, MaskOptions
from evaluate.results import (
    Report,
    Results,
    by_difference,
    image_bar,
    left_out_notes,
    percent,
    unreadable_notes,
)
from evaluate.two_way import TERMS, Grid, measure
from evaluate.variants import Crops, mixed, usable

if TYPE_CHECKING:
    from evaluate.models import Model

FEWEST = 4  # objects and backgrounds
SHOWN_GRID = 6  # objects and backgrounds of grid.png
FIGURES = (*TERMS, "abx", "swap")
COLOURS = {"object": "C0", "background": "C1", "interaction": "lightgray"}


class Options(ComparisonOptions, MaskOptions):
    """Measure how much of the features the object explains, and how much the background.

    Objects of some images of IMAGES, cut by --masks, are each pasted on backgrounds of other
    images, every object on every background. The variance of the features (of unit length, as kNN
    reads them) is the sum of what the object explains, what the background explains, and what only
    their combination does. ABX: how often a composite is nearer to the same object on another
    background than to another object on the same one. Swap: of what changes when either is swapped,
    the share due to the object. No labels are used; a folder with train/ and val/ is taken by its
    val/.

    The untrained network of the same architecture is always measured, too: of a model that is not
    above it nothing can be said. Intervals are 95 %, by a bootstrap of objects and backgrounds.

    Writes results.json, fractions.png, grid.png, foreground.png and index.html.
    """

    images: Path = setting(..., "images of any kind", argument=True)
    masks: Path = setting(..., "mask shards or pictures, by which objects are cut out")
    grid: Annotated[int, Field(ge=FEWEST, le=128)] = setting(64, "objects, and backgrounds")
    seed: NotNegative = setting(0, "of the choice of objects and backgrounds")
    pages: Count = setting(40, "rows of the page")
    rows: Count = setting(6, "rows of the PNG")


@dataclass
class Composites:
    """Objects (I) and backgrounds (J) of one crop size, and what they are cut from.

    images : uint8 (I, S, S, 3); masks : bool (I, S, S); backgrounds : uint8 (J, S, S, 3)
    """

    images: np.ndarray
    masks: np.ndarray
    backgrounds: np.ndarray
    object_keys: list[str]
    background_keys: list[str]

    def picture(self, i: int, j: int) -> np.ndarray:
        """Object i on background j, uint8 (S, S, 3)."""
        return mixed(self.images[i], self.masks[i], self.backgrounds[j])


def run(options: Options, results: Results) -> Report:
    """Measure every model on the same composites."""
    from evaluate.models import common_size, load_models, readable, with_untrained

    given, folder = open_any(options.images)
    masks = open_masks(options.masks, "--masks", folder)
    models = with_untrained(load_models(options.checkpoints, options))
    size = common_size(models)
    there, unreadable = readable(given, options)
    crops, left_out = usable(there, masks, size, options.mask_threshold)
    composites = _composites(crops, options)
    features = [_features(model, composites) for model in models]
    grids = [measure(each, options.seed) for each in features]
    rows = [_row(model, grid) for model, grid in zip(models, grids, strict=True)]
    sentences = _verdicts(models, grids)
    _plot(rows, results.path("fractions.png"))
    _examples(composites).save_png(results.path("grid.png"))
    count = len(composites.images), len(composites.backgrounds)
    how = f"{count[0]} objects on {count[1]} backgrounds of other images"
    content = {
        **options.model_dump(include={"images", "masks", "mask_threshold", "seed"}),
        "split": how,
        "objects": composites.object_keys,
        "backgrounds": composites.background_keys,
        "rows": rows,
        "left_out": left_out,
        "unreadable": unreadable,
    }
    gallery = _gallery(models, features, grids, composites, options, results)
    gallery.sentences += [*sentences, how + "."]
    notes = [*unreadable_notes(unreadable), *left_out_notes("images", left_out), how]
    if count[0] < options.grid:
        notes.append(f"--grid {options.grid} is cut to {count[0]}: half of the usable images.")
    table, recipes = [_cells(row) for row in rows], [row["recipe"] for row in rows]
    return Report(content, table, sentences, notes, gallery, options.rows, recipes)


def _composites(crops: Crops, options: Options) -> Composites:
    """Draw objects and, from other images, backgrounds."""
    count = min(options.grid, len(crops) // 2)
    if count < FEWEST:
        raise UserError(
            f"--masks {options.masks}: {len(crops)} images have a usable mask, and {2 * FEWEST} "
            "are needed, for objects and for backgrounds."
        )
    order = np.random.default_rng(options.seed).permutation(len(crops))[: 2 * count].tolist()
    objects = zip(*map(crops.crop, order[:count]), strict=True)
    behind = np.stack([crops.background(row) for row in order[count:]])
    keys = [crops.images.keys[row] for row in order]
    return Composites(*map(np.stack, objects), behind, keys[:count], keys[count:])


def _features(model: Model, composites: Composites) -> np.ndarray:
    """Features of unit length of the whole grid, float32 (I, J, D)."""
    import torch
    from torch.nn import functional as F

    count, behind = len(composites.images), len(composites.backgrounds)
    cells = [(i, j) for i in range(count) for j in range(behind)]
    step = model.options.batch_size

    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, len(cells), step):
            batch = [composites.picture(i, j) for i, j in cells[start : start + step]]
            yield torch.from_numpy(np.stack(batch))
            bar.update(len(batch))

    with image_bar(len(cells), model.label) as bar:
        features = F.normalize(torch.cat(list(model.embed(batches()))), dim=1)
    return features.numpy().reshape(count, behind, -1)


def _row(model: Model, grid: Grid) -> dict:
    """A model's figures, as results.json has them."""
    return {
        **model.describe(),
        **{name: grid.estimate(name)._asdict() for name in FIGURES},
        "swap_shares": grid.shares.tolist(),
    }


def _cells(row: dict) -> dict:
    titles = {
        "background %": "background",
        "object %": "object",
        "both %": "interaction",
        "ABX %": "abx",
        "swap %": "swap",
    }
    return {"features": row["label"], **{t: Estimate(**row[name]) for t, name in titles.items()}}


def _verdicts(models: list[Model], grids: list[Grid]) -> list[str]:
    """What may be said of each model, by its ABX beside the untrained network's."""
    base = {m.backbone.source.arch: (m, g) for m, g in zip(models, grids, strict=True)
            if m.backbone.source.untrained}  # fmt: skip
    sentences, above = [], []
    for model, grid in zip(models, grids, strict=True):
        if model.backbone.source.untrained:
            continue
        other = base[model.backbone.source.arch][1]
        d = grid.difference(other, "abx")
        points = f"ABX {_points(d)}"
        if d.low > 0:
            above.append((model, grid))
            sentences.append(
                f"{model.label} looks at the object more than an untrained network ({points}): the "
                f"background explains {percent(grid.value['background'], 1)} % of its features, of "
                f"the untrained network's {percent(other.value['background'], 1)} %."
            )
        else:
            sentences.append(
                f"{model.label} is not above the untrained network ({points}), so nothing can be "
                "said about where it looks."
            )
    for (first, grid), (second, other) in pairwise(above):
        d = other.difference(grid, "background")
        sentences.append(
            f"{second.label} beside {first.label}: of the features the background explains "
            f"{_points(d)}."
        )
    return sentences


def _points(difference: Estimate) -> str:
    value, low, high = (f"{100 * number:+.1f}" for number in difference)
    return f"{value} points, 95 % interval {low} to {high}"


def _plot(rows: list[dict], path: Path) -> None:
    """Draw the fractions as bars, one above the other, and ABX, with their intervals."""
    with plot(path, 10, 1.2 + 0.5 * len(rows), 2) as (left, right):
        positions = np.arange(len(rows))[::-1]
        start = np.zeros(len(rows))
        for name in ("background", "object", "interaction"):
            values = np.array([100 * row[name]["value"] for row in rows])
            left.barh(positions, values, left=start, color=COLOURS[name], label=name)
            start = start + values
        for row, position in zip(rows, positions, strict=True):
            text = f"{100 * row['background']['value']:.1f} % background"
            left.text(1, position, text, va="center", fontsize=8, color="white")
        left.set(xlabel="of the features' variance, %", xlim=(0, 100))
        left.set_yticks(positions, [row["label"] for row in rows], fontsize=8)
        add_legend(left, 8, loc="upper center", bbox_to_anchor=(0.5, 1.25), ncols=3, frameon=False)
        values = np.array([[row["abx"][k] for k in ("value", "low", "high")] for row in rows]) * 100
        bars = np.abs(values[:, 1:].T - values[:, 0])
        right.errorbar(values[:, 0], positions, xerr=bars, fmt="o", capsize=3)
        right.axvline(50, color="gray", linestyle=":")
        right.set(xlabel="ABX: the same object is nearer, %", ylim=(-0.6, len(rows) - 0.4))
        right.set_yticks(positions, ["" for _ in rows])


def _examples(composites: Composites) -> Gallery:
    """A corner of the grid, for looking at."""
    shown = range(min(SHOWN_GRID, len(composites.images)))
    rows = [Row("", [Cell(composites.picture(i, j)) for j in shown]) for i in shown]
    heads = [f"background {j + 1}" for j in shown]
    return Gallery("Every object on every background", [], heads, rows)


def _gallery(
    models: list[Model], features: list[np.ndarray], grids: list[Grid], composites: Composites,
    options: Options, results: Results,
) -> Gallery:  # fmt: skip
    """The page: for each object a composite, the object moved, and the background kept."""
    order = by_difference(np.stack([grid.shares for grid in grids]))
    count, behind = len(composites.images), len(composites.backgrounds)
    rows = []
    for i in order[: options.pages].tolist():
        j, k, other = i % behind, (i + 1) % behind, (i + 1) % count
        pairs = {"the same object": (i, k), "the same background": (other, j)}
        cells = [Cell(composites.picture(i, j), "a composite")]
        for what, cell in pairs.items():
            far = [
                f"{m.label} {np.linalg.norm(f[i, j] - f[cell]):.2f}"
                for m, f in zip(models, features, strict=True)
            ]
            cells.append(Cell(composites.picture(*cell), f"{what}: {', '.join(far)}"))
        swap = (f"{m.label} {100 * g.shares[i]:.0f} %" for m, g in zip(models, grids, strict=True))
        rows.append(Row(f"{composites.object_keys[i]}: swap {', '.join(swap)}", cells))
    sentences = [
        "How much of the features' variance the object explains, and how much the background, over "
        "composites of every object with every background. ABX: how often the same object on "
        "another background is nearer than another object on the same background; 50 % is no "
        "preference. Swap: of what changes when either is swapped, the share due to the object.",
        "Below: composites with their distances in each model's features (of unit length, so 0 to "
        "2) to the same object on another background, and to another object on the same one. "
        "Objects on which the models differ most come first.",
    ]
    figures = [
        Figure("What explains the features", results.path("fractions.png").read_bytes()),
        Figure("Every object on every background", results.path("grid.png").read_bytes()),
    ]
    heads = ["a composite", "another background", "another object"]
    return Gallery("The object or the background?", sentences, heads, rows, figures=figures)

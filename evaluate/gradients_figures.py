"""What `probe gradients` shows: the table, the comparison, the pictures and the distribution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data.images.crop import centre_crop
from data.images.decode import decode, key_path
from evaluate.captions import add_legend
from evaluate.gallery import Gallery, Picture, Row
from evaluate.gradient_maps import compare
from evaluate.labelled import Labelled
from evaluate.models import Model


@dataclass
class MaskSet:
    """Foregrounds of the images by row, bool (S, S), of one kind; and why others have none."""

    title: str  # "masks" or "ground truth"
    foregrounds: dict[int, np.ndarray]
    left_out: dict[str, str]

    def area(self, rows: list[int]) -> float:
        """The mean share of the image that the foreground covers: what chance would give."""
        return float(np.mean([self.foregrounds[row].mean() for row in rows]))


@dataclass
class Seen:
    """One model's figures for each image: the share inside each kind of mask, and pictures."""

    model: Model
    c: float  # of the classifier
    accuracy: float  # of the classifier on these images
    right: np.ndarray  # (N,) bool
    shares: dict[str, np.ndarray]  # title -> (N,), NaN without a mask or gradient
    pointing: dict[str, np.ndarray]  # title -> (N,), 1 or 0, NaN alike


def choose_images(seen: list[Seen], sets: list[MaskSet], count: int) -> np.ndarray:
    """Images in which the models' shares differ most; without masks, in even steps."""
    if not sets:
        images = len(seen[0].right)
        return np.linspace(0, images - 1, min(count, images)).astype(int)
    shares = np.stack([one.shares[sets[0].title] for one in seen])
    spread = shares.max(axis=0) - shares.min(axis=0) if len(seen) > 1 else -shares[0]
    return np.argsort(-np.where(np.isnan(spread), -np.inf, spread), kind="stable")[:count]


def gallery_of(
    seen: list[Seen],
    images: Labelled,
    sets: list[MaskSet],
    chosen: np.ndarray,
    maps: dict[str, dict[int, np.ndarray]],
    size: int,
    how: str,
) -> Gallery:
    rows = []
    for row in chosen.tolist():
        crop = centre_crop(decode(key_path(images.root, images.keys[row])).image, size)
        cells = [[Picture(crop, images.classes[images.labels[row]])]]
        for one in sets:
            mask = one.foregrounds.get(row)
            shown = (
                np.zeros((size, size), np.uint8) if mask is None else mask.astype(np.uint8) * 255
            )
            area = "none" if mask is None else f"{100 * mask.mean():.0f} % of area"
            cells.append([Picture(shown, area)])
        for model in seen:
            caption = ", ".join(f"{100 * model.shares[one.title][row]:.0f} %" for one in sets)
            picture = maps[model.model.label][row]
            cells.append([Picture(picture, f"{caption} inside" if sets else "", model.right[row])])
        rows.append(Row(cells, images.keys[row]))
    sentences = [
        "The gradient of the score of each image's own class by its pixels: bright where a small "
        "change of the pixel moves the score most. The classifier is a logistic regression on the "
        f"model's {seen[0].model.backbone.layer} features. A green frame: the classifier is right; "
        "a red one: it is wrong.",
        f"Images: {how}; {len(images)} measured, {len(rows)} shown.",
    ]
    if sets:
        sentences.insert(
            1,
            "Below each map: the share of the gradient's energy inside the mask. An even gradient "
            "would have the mask's share of the area. "
            + (
                "Images where the models differ most come first."
                if len(seen) > 1
                else "Images with the smallest share come first."
            ),
        )
        sentences += comparisons(seen, sets)
    columns = ["image", *(one.title for one in sets), *(one.model.label for one in seen)]
    return Gallery("Where the models look", sentences, columns, rows, _table(seen, sets))


def _rows_of(one: Seen, title: str) -> list[int]:
    return np.flatnonzero(~np.isnan(one.shares[title])).tolist()


def _table(seen: list[Seen], sets: list[MaskSet]) -> list[dict[str, str]]:
    table = []
    for one in seen:
        row = {"checkpoint": one.model.label, "top-1 %": f"{100 * one.accuracy:.1f}"}
        for masks in sets:
            rows = _rows_of(one, masks.title)
            share, area = np.nanmean(one.shares[masks.title]), masks.area(rows)
            row |= {
                f"inside {masks.title} %": f"{100 * share:.2f}",
                "area %": f"{100 * area:.2f}",
                "share / area": f"{share / area:.3f}",
                "pointing %": f"{100 * np.nanmean(one.pointing[masks.title]):.1f}",
                "images": str(len(rows)),
            }
        table.append(row)
    return table


def comparisons(seen: list[Seen], sets: list[MaskSet]) -> list[str]:
    """One sentence for each model after the first, by the truest masks that were given."""
    if not sets or len(seen) < 2:
        return []
    title = sets[-1].title
    first, sentences = seen[0], []
    for one in seen[1:]:
        found = compare(one.shares[title], first.shares[title])
        names = f"{one.model.label} looks at the object {found} as much as {first.model.label}"
        sentences.append(
            f"{names} (gradient energy inside the {title}; 95 % interval)."
            if found
            else f"{one.model.label} and {first.model.label} share no image with a gradient."
        )
    return sentences


def plot_shares(seen: list[Seen], sets: list[MaskSet], path: Path) -> None:
    """Draw the distribution of the shares: how many images have at least each share."""
    figure = Figure(figsize=(5.5 * len(sets), 4), layout="constrained")
    bins = np.linspace(0, 1, 26)
    for axes, masks in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for number, one in enumerate(seen):
            values = one.shares[masks.title]
            values = values[~np.isnan(values)]
            axes.hist(
                values,
                bins,
                histtype="stepfilled",
                alpha=0.25,
                color=f"C{number}",
            )
            axes.hist(values, bins, histtype="step", color=f"C{number}", linewidth=1.5)
            label = f"{one.model.label}: mean {values.mean():.3f}"
            axes.axvline(values.mean(), color=f"C{number}", linestyle="--", label=label)
        area = masks.area(_rows_of(seen[0], masks.title))
        axes.axvline(area, color="black", linestyle=":", label=f"share of the area: {area:.3f}")
        axes.set(xlabel=f"share of gradient energy inside {masks.title}", ylabel="images")
        axes.set_xlim(0, 1)
        add_legend(axes, 8)
    figure.savefig(path, dpi=150, format="png")


def report_of(seen: list[Seen], images: Labelled, sets: list[MaskSet], seed: int) -> dict:
    """What results.json says about the models, their figures and the images left out."""
    models = []
    for one in seen:
        entry = {
            **one.model.describe(),
            "classifier": {"kind": "linear", "protocol": "fast", "c": one.c, "seed": seed},
            "top1": one.accuracy,
        }
        for masks in sets:
            found = compare(one.shares[masks.title], seen[0].shares[masks.title])
            entry[masks.title.replace(" ", "_")] = {
                "images": len(_rows_of(one, masks.title)),
                "share_inside": float(np.nanmean(one.shares[masks.title])),
                "share_of_area": masks.area(_rows_of(one, masks.title)),
                "pointing": float(np.nanmean(one.pointing[masks.title])),
                "against_first": found and vars(found),
                "shares": {
                    images.keys[row]: float(one.shares[masks.title][row])
                    for row in _rows_of(one, masks.title)
                },
            }
        models.append(entry)
    return {
        "test_images": len(images),
        "energy": "sum over channels of the squared gradient by pixels in [0, 1]",
        "score": "the image's own class, before the softmax",
        "models": models,
        "left_out": {one.title: one.left_out for one in sets},
    }

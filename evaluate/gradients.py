"""`probe gradients`: class-score gradients, and how much of them falls on the object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import UserError
from data.gallery import Cell, Figure, Gallery, Row
from data.gallery.plots import add_legend, plot
from data.images.labels import Labelled
from data.options import Count, NotNegative, option_name, setting
from evaluate.gradient_maps import (
    as_picture,
    energy,
    magnitude,
    pixel_gradients,
    points_inside,
    share_inside,
)
from evaluate.intervals import accuracy, mean
from evaluate.labelled import open_split, stratified_subset
from evaluate.masks import Masks, open_masks
from evaluate.options import ComparisonOptions, MaskOptions
from evaluate.results import (
    Report,
    Results,
    by_difference,
    cells,
    image_bar,
    left_out_notes,
    unreadable_notes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from evaluate.classifiers import LogisticRegression
    from evaluate.models import Features, Model

KINDS = ("masks", "ground_truth")  # of masks, as options and in results.json
BACKWARD_BATCH = 32  # images of one backward pass, however many fit a forward one


class Options(ComparisonOptions, MaskOptions):
    """Show class gradients beside nearest neighbours.

    For each model a linear classifier is trained on its features of train/ (logistic regression, as
    probe linear --fast). Then the score of each test image's own class, before the softmax, is
    differentiated by the pixels. With --masks: the share of the gradient's energy (its squares)
    that falls inside the mask, beside the share of the area, which an even gradient would have, and
    the pointing game. An untrained network of the same architecture is always a row, and passes
    these measures, too: they describe pictures, and rank no models (probe foreground does).

    Beside each gradient are the image's nearest training images, as in DiLo's Figure 2.

    Writes results.json, gradients.png, shares.png and index.html, which holds all its pictures.
    """

    ground_truth: Path | None = setting(None, "pictures of the objects' true masks")
    neighbors: NotNegative = setting(3, "shown beside each gradient")
    limit: Count = setting(1000, "test images, evenly over the classes")
    pages: Count = setting(40, "rows of the page")
    rows: Count = setting(8, "rows of the PNG")
    seed: NotNegative = setting(0, "of the classifier's held-out images")


@dataclass
class MaskSet:
    """Foregrounds of the images by row, bool (S, S), of one kind; and why others have none."""

    key: str  # of `KINDS`
    foregrounds: dict[int, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its name in tables and pictures."""
        return self.key.replace("_", " ")


@dataclass
class Measured:
    """One model's figures for each of N images.

    right : bool (N,), by the classifier
    shares : (N,) by the key of each `MaskSet`, of the gradient's energy inside; NaN without a mask
        or gradient
    pointing : likewise, 1 or 0
    """

    model: Model
    regression: LogisticRegression
    train: Features
    right: np.ndarray
    shares: dict[str, np.ndarray]
    pointing: dict[str, np.ndarray]


def run(options: Options, results: Results) -> Report:
    """Measure every model, and show the images where they differ most."""
    from evaluate.models import common_size, load_models, readable, with_untrained

    split = open_split(options.images)
    given = {
        key: open_masks(folder, option_name(key), split.folder)
        for key in KINDS
        if (folder := getattr(options, key)) is not None
    }
    models = with_untrained(load_models(options.checkpoints, options))
    size = common_size(models)
    subset, unreadable = readable(stratified_subset(split.val, options.limit), options)
    sets = [
        _foregrounds(key, masks, subset, size, options.mask_threshold)
        for key, masks in given.items()
    ]
    measured = [_measure(model, split.train, subset, sets, options.seed) for model in models]
    entries = [_entry(each, subset, sets, options.seed) for each in measured]
    rows = _rows(measured, subset, sets, options)
    shown = f"Images: {split.how}; {len(subset)} measured, {len(rows)} shown."
    gallery = Gallery(
        "Class gradients and neighbours",
        [*_explanation(models, sets), shown],
        _heads(models, sets, len(rows[0].cells)),
        rows,
    )
    if sets:
        shares = results.path("shares.png")
        _plot_shares(measured, entries[0], sets, shares)
        gallery.figures.append(Figure("How much of it falls on the object", shares.read_bytes()))
    content = {
        **options.model_dump(include={"images", *KINDS, "limit", "mask_threshold"}),
        "split": split.how,
        "test_images": len(subset),
        "energy": "sum over channels of the squared gradient by pixels in [0, 1]",
        "score": "the image's own class, before the softmax",
        "models": entries,
        "left_out": {each.title: each.left_out for each in sets},
        "unreadable": unreadable,
    }
    notes = unreadable_notes(unreadable)
    for each in sets:
        notes += left_out_notes(each.title, each.left_out)
    table, recipes = [_cells(entry, sets) for entry in entries], [e["recipe"] for e in entries]
    return Report(content, table, [], notes, gallery, options.rows, recipes)


def _foregrounds(key: str, masks: Masks, images: Labelled, size: int, threshold: int) -> MaskSet:
    """The foregrounds in the images' centre crops; empty and missing ones are left out."""
    kind = MaskSet(key)
    for row, mask in masks.foregrounds(images, size, threshold, kind.title):
        if isinstance(mask, str):
            kind.left_out[images.keys[row]] = mask
        else:
            kind.foregrounds[row] = mask
    if not kind.foregrounds:
        image, reason = next(iter(kind.left_out.items()))
        raise UserError(f"{option_name(key)}: no image has a usable mask; {image} {reason}.")
    return kind


def _gradients(
    model: Model, regression: LogisticRegression, images: Labelled, what: str
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield (rows, features, gradients of the own class's score by the pixels)."""
    weight = regression.weight.to(model.device)
    with image_bar(len(images), f"{model.label} {what}") as bar:
        for batch in model.batches(images, most=BACKWARD_BATCH):
            pixels = batch["image"].to(model.device, non_blocking=True)
            labels = batch["label"].to(model.device, non_blocking=True)
            gradient, features = pixel_gradients(model.backbone, weight, pixels, labels)
            yield batch["index"].tolist(), features.cpu(), gradient
            bar.update(len(batch["index"]))


def _measure(
    model: Model, train: Labelled, images: Labelled, sets: list[MaskSet], seed: int
) -> Measured:
    """Train a classifier, and measure where its gradients fall."""
    from evaluate.classifiers import fit

    train = model.features(train, "train")
    regression = fit(
        train.features, train.labels, len(images.classes), seed=seed, device=model.device
    )
    right, nothing = np.zeros(len(images), bool), np.full(len(images), np.nan)
    shares = {each.key: nothing.copy() for each in sets}
    pointing = {each.key: nothing.copy() for each in sets}
    for rows, features, gradient in _gradients(model, regression, images, "gradients"):
        right[rows] = regression(features).argmax(1).numpy() == images.labels[rows]
        energies, magnitudes = energy(gradient).cpu().numpy(), magnitude(gradient).cpu().numpy()
        for row, squares, values in zip(rows, energies, magnitudes, strict=True):
            for each in sets:
                mask = each.foregrounds.get(row)
                if mask is not None and squares.any():
                    shares[each.key][row] = share_inside(squares, mask)
                    pointing[each.key][row] = points_inside(values, mask)
    if any(np.isnan(values).all() for values in shares.values()):
        raise UserError(
            f"CHECKPOINT {model.label}: no image's score has a gradient: its features do not "
            "depend on the images; name a checkpoint of a trained network."
        )
    return Measured(model, regression, train, right, shares, pointing)


def _choose_images(measured: list[Measured], sets: list[MaskSet], count: int) -> list[int]:
    """Images in which the models' shares differ most; without masks, in even steps."""
    if sets:
        return by_difference(np.stack([m.shares[sets[0].key] for m in measured]))[:count].tolist()
    images = len(measured[0].right)
    return np.linspace(0, images - 1, min(count, images)).astype(int).tolist()


def _maps(
    each: Measured, images: Labelled, rows: list[int], neighbors: int
) -> dict[int, list[Cell]]:
    """By row: an image's gradient map, and its nearest training images."""
    from data.images.crop import centre_crop
    from data.knn import nearest

    pictures, train, rows = {}, each.train, sorted(rows)
    shown = images.take(np.array(rows))
    count = min(neighbors, len(train.images))
    for numbers, features, gradient in _gradients(each.model, each.regression, shown, "pictures"):
        near = nearest(train.features, features, max(count, 1)).index[:, :count].tolist()
        maps = magnitude(gradient).cpu().numpy()
        for number, values, neighbours in zip(numbers, maps, near, strict=True):
            cells = [Cell(as_picture(values), "", bool(each.right[rows[number]]))]
            for row in neighbours:
                crop = centre_crop(train.images.image(row), each.model.size)
                right = train.images.labels[row] == shown.labels[number]
                cells.append(Cell(crop, train.images.class_of(row), bool(right)))
            pictures[rows[number]] = cells
    return pictures


def _heads(models: list[Model], sets: list[MaskSet], cells: int) -> list[str]:
    """Heads of the page's columns; a model's neighbours are below its own."""
    each = (cells - 1 - len(sets)) // len(models)
    heads = ["image", *(masks.title for masks in sets)]
    for model in models:
        heads += [model.label, *[""] * (each - 1)]
    return heads


def _rows(
    measured: list[Measured], images: Labelled, sets: list[MaskSet], options: Options
) -> list[Row]:
    """The page's rows: an image, its masks, and each model's map and neighbours."""
    from data.images.crop import centre_crop

    chosen = _choose_images(measured, sets, options.pages)
    maps = [_maps(each, images, chosen, options.neighbors) for each in measured]
    rows = []
    for row in chosen:
        crop = centre_crop(images.image(row), measured[0].model.size)
        cells = [Cell(crop, images.class_of(row))]
        for masks in sets:
            mask = masks.foregrounds.get(row)
            area = "none" if mask is None else f"{100 * mask.mean():.0f} % of area"
            shown = np.zeros(crop.shape[:2], bool) if mask is None else mask
            cells.append(Cell(shown.astype(np.uint8) * 255, area))
        for each, pictures in zip(measured, maps, strict=True):
            inside = ", ".join(f"{100 * shares[row]:.0f} %" for shares in each.shares.values())
            pictures[row][0].caption = f"{inside} inside" if sets else ""
            cells += pictures[row]
        rows.append(Row(images.keys[row], cells))
    return rows


def _explanation(models: list[Model], sets: list[MaskSet]) -> Iterator[str]:
    """What the page shows."""
    yield (
        "The gradient of the score of each image's own class by its pixels: bright where a small "
        "change of the pixel moves the score most. The classifier is a logistic regression on the "
        f"model's {models[0].backbone.layer} features. A green frame: the classifier is right; a "
        "red one: it is wrong. Beside it the nearest training images by cosine similarity, green "
        "of the same class. Gradients follow edges and contrast, those of an untrained network as "
        "well; they illustrate, and rank no models."
    )
    if sets:
        first = "where the models differ most" if len(models) > 1 else "with the smallest share"
        yield (
            "Below each map: the share of the gradient's energy inside the mask. An even gradient "
            f"would have the mask's share of the area. Images {first} come first."
        )


def _entry(each: Measured, images: Labelled, sets: list[MaskSet], seed: int) -> dict:
    """A model's figures, as results.json has them; the table is made of it."""
    c = each.regression.c
    entry = {
        **each.model.describe(),
        "classifier": {"kind": "linear", "protocol": "fast", "c": c, "seed": seed},
        **accuracy(float(each.right.mean()), len(images)).named("top1"),
        "test_images": len(images),
    }
    for masks in sets:
        shares = each.shares[masks.key]
        rows = np.flatnonzero(~np.isnan(shares)).tolist()
        entry[masks.key] = {
            "images": len(rows),
            **mean(shares[rows]).named("share_inside"),
            "share_of_area": float(np.mean([masks.foregrounds[row].mean() for row in rows])),
            **accuracy(float(each.pointing[masks.key][rows].mean()), len(rows)).named("pointing"),
            "shares": {images.keys[row]: float(shares[row]) for row in rows},
        }
    return entry


def _cells(entry: dict, sets: list[MaskSet]) -> dict:
    row = cells(entry, {"checkpoint": "label", "top-1 %": "top1"})
    for masks in sets:
        columns = {
            f"inside {masks.title} %": "share_inside",
            "area %": "share_of_area",
            "pointing %": "pointing",
            "images": "images",
        }
        row |= cells(entry[masks.key], columns)
    return row


def _plot_shares(measured: list[Measured], entry: dict, sets: list[MaskSet], path: Path) -> None:
    """Draw the distribution of the shares over the images; `entry` is of any of the models."""
    bins = np.linspace(0, 1, 26)
    with plot(path, 5.5 * len(sets), 4, len(sets)) as columns:
        for axes, masks in zip(columns, sets, strict=True):
            for number, each in enumerate(measured):
                shares, colour = each.shares[masks.key], f"C{number}"
                axes.hist(shares, bins, histtype="stepfilled", alpha=0.25, color=colour)
                axes.hist(shares, bins, histtype="step", color=colour, linewidth=1.5)
                mean = np.nanmean(shares)
                label = f"{each.model.label}: mean {mean:.3f}"
                axes.axvline(mean, color=colour, linestyle="--", label=label)
            area = entry[masks.key]["share_of_area"]
            label = f"share of the area: {area:.3f}"
            axes.axvline(area, color="black", linestyle=":", label=label)
            axes.set(xlabel=f"share of gradient energy inside {masks.title}", ylabel="images")
            axes.set_xlim(0, 1)
            add_legend(axes, 8)

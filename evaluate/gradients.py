"""`probe gradients`: class-score gradients, and how much of them falls on the object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from data.errors import UserError
from data.gallery import Cell, Figure, Gallery, Row
from data.images.decode import decode, key_path, read_size
from data.options import setting
from evaluate.gradient_maps import (
    as_picture,
    compare,
    energy,
    magnitude,
    pixel_gradients,
    points_inside,
    share_inside,
)
from evaluate.labelled import Labelled, Split, has_split, open_split, stratified_subset
from evaluate.masks import MaskFinder, NoMask, open_masks
from evaluate.options import ComparisonOptions, Count, MaskOptions, Seed
from evaluate.results import Report, Results, add_legend, unreadable_notes

if TYPE_CHECKING:
    from evaluate.classifiers import LogisticRegression
    from evaluate.models import Model

BACKWARD_BATCH = 32  # images of one backward pass, however many fit a forward one


class Options(ComparisonOptions, MaskOptions):
    """Show where models look, and measure how much of it is the object.

    For each model a linear classifier is trained on its features of train/ (logistic regression, as
    probe linear --fast). Then the score of each test image's own class, before the softmax, is
    differentiated by the pixels. With --masks: the share of the gradient's energy (its squares)
    that falls inside the mask, beside the share of the area, which an even gradient would have, and
    the pointing game. The last line compares each model with the first.

    Writes results.json, gradients.png, shares.png and index.html, which holds all its pictures.
    """

    ground_truth: Path | None = setting(None, "pictures of the objects' true masks")
    limit: Count = setting(1000, "test images, evenly over the classes")
    pages: Count = setting(40, "rows of the page")
    rows: Count = setting(8, "rows of the PNG")
    seed: Seed = setting(0, "of the classifier's held-out images")


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
class Measured:
    """One model's figures for each image: the share inside each kind of mask, and pictures."""

    model: Model
    c: float  # of the classifier
    accuracy: float  # of the classifier on these images
    right: np.ndarray  # (N,) bool
    shares: dict[str, np.ndarray]  # title -> (N,), NaN without a mask or gradient
    pointing: dict[str, np.ndarray]  # title -> (N,), 1 or 0, NaN alike


def run(options: Options, results: Results) -> Report:
    """Measure every model, and show the images where they differ most."""
    from evaluate.loading import readable
    from evaluate.models import load_models, workers_of

    split = open_split(options.images)
    subset = stratified_subset(split.val, options.limit)
    folder = split.val.root.name if has_split(options.images) else ""
    kinds = {
        title: MaskFinder(open_masks(path, argument), folder)
        for title, path, argument in (
            ("masks", options.masks, "--masks"),
            ("ground truth", options.ground_truth, "--ground-truth"),
        )
        if path is not None
    }
    models = load_models(options.checkpoints, options)
    sizes = sorted({model.size for model in models})
    if len(sizes) > 1:
        raise UserError(
            f"the models were trained at different sizes ({', '.join(map(str, sizes))}) and "
            "gradients compare at one; add --image-size."
        )
    subset, unreadable = readable(subset, workers_of(options))
    sets = [
        _foregrounds(title, finder, subset, sizes[0], options.mask_threshold)
        for title, finder in kinds.items()
    ]
    measured, chosen, maps = _look_at_all(models, split, subset, sets, options)
    gallery = _gallery(measured, subset, sets, chosen, maps, sizes[0], split.how)
    if sets:
        _plot_shares(measured, sets, results.path("shares.png"))
        shares = results.path("shares.png").read_bytes()
        gallery.figures.append(Figure("How much of it falls on the object", shares))
    gallery.save_html(results.path("index.html"))
    gallery.save_png(results.path("gradients.png"), options.rows)
    content = {
        "images": options.images,
        "masks": options.masks,
        "ground_truth": options.ground_truth,
        "split": split.how,
        "limit": options.limit,
        "mask_threshold": options.mask_threshold,
        **_content(measured, subset, sets, options.seed),
        "unreadable": unreadable,
    }
    notes = unreadable_notes(unreadable)
    for each in sets:
        for key, reason in list(each.left_out.items())[:1]:
            notes.append(
                f"without {each.title}: {len(each.left_out)} images; the first: {key} {reason}"
            )
    return Report(content, gallery.table, _comparisons(measured, sets), notes)


def _foregrounds(
    title: str, finder: MaskFinder, images: Labelled, size: int, threshold: int
) -> MaskSet:
    """The foregrounds in the images' centre crops; empty and missing ones are left out."""
    foregrounds, left_out = {}, {}
    for row, key in enumerate(tqdm(images.keys, desc=title, unit="image", disable=None)):
        try:
            mask = finder.read(key, read_size(key_path(images.root, key)), size) >= threshold
        except NoMask as reason:
            left_out[key] = str(reason)
            continue
        if mask.any():
            foregrounds[row] = mask
        else:
            left_out[key] = f"has an empty mask: nothing from {threshold} up"
    if not foregrounds:
        key, reason = next(iter(left_out.items()))
        raise UserError(f"--{title.replace(' ', '-')}: no image has a usable mask; {key} {reason}.")
    return MaskSet(title, foregrounds, left_out)


def _look_at_all(
    models: list[Model], split: Split, images: Labelled, sets: list[MaskSet], options: Options
) -> tuple[list[Measured], np.ndarray, dict[str, dict[int, np.ndarray]]]:
    """Measure every model on every image, then make the maps of the images that are shown."""
    from evaluate.classifiers import fit

    regressions, measured = [], []
    for model in models:
        train, labels = model.features(split.train, "train")
        regression = fit(
            train.features, labels, len(images.classes), seed=options.seed, device=model.device
        )
        regressions.append(regression)
        measured.append(_measure(model, regression, images, sets))
    chosen = _choose_images(measured, sets, options.pages)
    shown = images.take(np.sort(chosen))
    maps = {}
    for model, regression in zip(models, regressions, strict=True):
        pictures = {}
        for rows, _, gradient in _gradients(model, regression, shown, "pictures"):
            for row, values in zip(rows, magnitude(gradient).cpu().numpy(), strict=True):
                pictures[int(np.sort(chosen)[row])] = as_picture(values)
        maps[model.label] = pictures
    return measured, chosen, maps


def _gradients(model: Model, regression: LogisticRegression, images: Labelled, description: str):
    """Yield (rows, features, gradients of the own class's score by the pixels)."""
    weight = regression.weight.to(model.device)
    model.backbone.to(model.device)
    with tqdm(
        total=len(images), desc=f"{model.label} {description}", unit="image", disable=None
    ) as bar:
        for batch in model.batches(images, most=BACKWARD_BATCH):
            if not len(batch["index"]):
                continue
            pixels = batch["image"].to(model.device, non_blocking=True)
            labels = batch["label"].to(model.device, non_blocking=True)
            gradient, features = pixel_gradients(model.backbone, weight, pixels, labels)
            yield batch["index"].tolist(), features.cpu(), gradient
            bar.update(len(batch["index"]))


def _measure(
    model: Model, regression: LogisticRegression, images: Labelled, sets: list[MaskSet]
) -> Measured:
    count = len(images)
    right = np.zeros(count, bool)
    shares = {each.title: np.full(count, np.nan) for each in sets}
    pointing = {each.title: np.full(count, np.nan) for each in sets}
    for rows, features, gradient in _gradients(model, regression, images, "gradients"):
        right[rows] = regression(features).argmax(1).numpy() == images.labels[rows]
        energies, magnitudes = energy(gradient).cpu().numpy(), magnitude(gradient).cpu().numpy()
        for each in sets:
            for row, squares, values in zip(rows, energies, magnitudes, strict=True):
                mask = each.foregrounds.get(row)
                if mask is not None:
                    shares[each.title][row] = share_inside(squares, mask)
                    if squares.any():
                        pointing[each.title][row] = points_inside(values, mask)
    for each in sets:
        if np.isnan(shares[each.title]).all():
            raise UserError(
                f"CHECKPOINT {model.label}: no image's score has a gradient: its features do not "
                "depend on the images; name a checkpoint of a trained network."
            )
    return Measured(model, regression.c, float(right.mean()), right, shares, pointing)


def _choose_images(measured: list[Measured], sets: list[MaskSet], count: int) -> np.ndarray:
    """Images in which the models' shares differ most; without masks, in even steps."""
    if not sets:
        images = len(measured[0].right)
        return np.linspace(0, images - 1, min(count, images)).astype(int)
    shares = np.stack([each.shares[sets[0].title] for each in measured])
    spread = shares.max(axis=0) - shares.min(axis=0) if len(measured) > 1 else -shares[0]
    return np.argsort(-np.where(np.isnan(spread), -np.inf, spread), kind="stable")[:count]


def _gallery(
    measured: list[Measured],
    images: Labelled,
    sets: list[MaskSet],
    chosen: np.ndarray,
    maps: dict[str, dict[int, np.ndarray]],
    size: int,
    how: str,
) -> Gallery:
    from data.images.crop import centre_crop

    rows = []
    for row in chosen.tolist():
        crop = centre_crop(decode(key_path(images.root, images.keys[row])).image, size)
        cells = [Cell(crop, images.classes[images.labels[row]])]
        for each in sets:
            mask = each.foregrounds.get(row)
            shown = (
                np.zeros((size, size), np.uint8) if mask is None else mask.astype(np.uint8) * 255
            )
            area = "none" if mask is None else f"{100 * mask.mean():.0f} % of area"
            cells.append(Cell(shown, area))
        for model in measured:
            caption = ", ".join(f"{100 * model.shares[each.title][row]:.0f} %" for each in sets)
            picture = maps[model.model.label][row]
            caption = f"{caption} inside" if sets else ""
            cells.append(Cell(picture, caption, bool(model.right[row])))
        rows.append(Row(images.keys[row], cells))
    sentences = [
        "The gradient of the score of each image's own class by its pixels: bright where a small "
        "change of the pixel moves the score most. The classifier is a logistic regression on the "
        f"model's {measured[0].model.backbone.layer} features. A green frame: the classifier is "
        "right; a red one: it is wrong.",
        f"Images: {how}; {len(images)} measured, {len(rows)} shown.",
    ]
    if sets:
        sentences.insert(
            1,
            "Below each map: the share of the gradient's energy inside the mask. An even gradient "
            "would have the mask's share of the area. "
            + (
                "Images where the models differ most come first."
                if len(measured) > 1
                else "Images with the smallest share come first."
            ),
        )
        sentences += _comparisons(measured, sets)
    columns = ["image", *(each.title for each in sets), *(each.model.label for each in measured)]
    return Gallery("Where the models look", sentences, columns, rows, _table(measured, sets))


def _rows_of(each: Measured, title: str) -> list[int]:
    return np.flatnonzero(~np.isnan(each.shares[title])).tolist()


def _table(measured: list[Measured], sets: list[MaskSet]) -> list[dict[str, str]]:
    table = []
    for each in measured:
        row = {"checkpoint": each.model.label, "top-1 %": f"{100 * each.accuracy:.1f}"}
        for masks in sets:
            rows = _rows_of(each, masks.title)
            share, area = np.nanmean(each.shares[masks.title]), masks.area(rows)
            row |= {
                f"inside {masks.title} %": f"{100 * share:.2f}",
                "area %": f"{100 * area:.2f}",
                "share / area": f"{share / area:.3f}",
                "pointing %": f"{100 * np.nanmean(each.pointing[masks.title]):.1f}",
                "images": str(len(rows)),
            }
        table.append(row)
    return table


def _comparisons(measured: list[Measured], sets: list[MaskSet]) -> list[str]:
    """One sentence for each model after the first, by the truest masks that were given."""
    if not sets or len(measured) < 2:
        return []
    title = sets[-1].title
    first, sentences = measured[0], []
    for each in measured[1:]:
        ratio = compare(each.shares[title], first.shares[title])
        names = f"{each.model.label} looks at the object {ratio} as much as {first.model.label}"
        sentences.append(
            f"{names} (gradient energy inside the {title}; 95 % interval)."
            if ratio
            else f"{each.model.label} and {first.model.label} share no image with a gradient."
        )
    return sentences


def _plot_shares(measured: list[Measured], sets: list[MaskSet], path: Path) -> None:
    """Draw the distribution of the shares over the images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(sets), 4), layout="constrained")
    bins = np.linspace(0, 1, 26)
    for axes, masks in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        for number, each in enumerate(measured):
            values = each.shares[masks.title]
            values = values[~np.isnan(values)]
            axes.hist(
                values,
                bins,
                histtype="stepfilled",
                alpha=0.25,
                color=f"C{number}",
            )
            axes.hist(values, bins, histtype="step", color=f"C{number}", linewidth=1.5)
            label = f"{each.model.label}: mean {values.mean():.3f}"
            axes.axvline(values.mean(), color=f"C{number}", linestyle="--", label=label)
        area = masks.area(_rows_of(measured[0], masks.title))
        axes.axvline(area, color="black", linestyle=":", label=f"share of the area: {area:.3f}")
        axes.set(xlabel=f"share of gradient energy inside {masks.title}", ylabel="images")
        axes.set_xlim(0, 1)
        add_legend(axes, 8)
    figure.savefig(path, dpi=150, format="png")


def _content(measured: list[Measured], images: Labelled, sets: list[MaskSet], seed: int) -> dict:
    """What results.json says about the models, their figures and the images left out."""
    models = []
    for each in measured:
        entry = {
            **each.model.describe(),
            "classifier": {"kind": "linear", "protocol": "fast", "c": each.c, "seed": seed},
            "top1": each.accuracy,
        }
        for masks in sets:
            ratio = compare(each.shares[masks.title], measured[0].shares[masks.title])
            entry[masks.title.replace(" ", "_")] = {
                "images": len(_rows_of(each, masks.title)),
                "share_inside": float(np.nanmean(each.shares[masks.title])),
                "share_of_area": masks.area(_rows_of(each, masks.title)),
                "pointing": float(np.nanmean(each.pointing[masks.title])),
                "against_first": ratio and vars(ratio),
                "shares": {
                    images.keys[row]: float(each.shares[masks.title][row])
                    for row in _rows_of(each, masks.title)
                },
            }
        models.append(entry)
    return {
        "test_images": len(images),
        "energy": "sum over channels of the squared gradient by pixels in [0, 1]",
        "score": "the image's own class, before the softmax",
        "models": models,
        "left_out": {each.title: each.left_out for each in sets},
    }

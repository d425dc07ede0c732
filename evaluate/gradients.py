"""`probe gradients`: class-score gradients, and how much of them falls on the object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from data.errors import UserError
from data.images.decode import key_path, read_size
from data.options import setting
from evaluate.labelled import Labelled, Split, has_split, open_split, stratified_subset
from evaluate.masks import MaskFinder, NoMask, open_masks
from evaluate.options import ComparisonOptions, Count, MaskOptions, Seed
from evaluate.results import Report, Results, unreadable_notes

if TYPE_CHECKING:
    from evaluate.classifiers import LogisticRegression
    from evaluate.gradients_figures import MaskSet, Seen
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


def run(options: Options, results: Results) -> Report:
    """Measure every model, and show the images where they differ most."""
    from evaluate.gradients_figures import comparisons, gallery_of, plot_shares, report_of
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
    seen, chosen, maps = _look_at_all(models, split, subset, sets, options)
    gallery = gallery_of(seen, subset, sets, chosen, maps, sizes[0], split.how)
    if sets:
        plot_shares(seen, sets, results.path("shares.png"))
        gallery.plots.append(("shares", results.path("shares.png").read_bytes()))
    gallery.save_html(results.path("index.html"))
    gallery.save_png(results.path("gradients.png"), options.rows)
    content = {
        "images": options.images,
        "masks": options.masks,
        "ground_truth": options.ground_truth,
        "split": split.how,
        "limit": options.limit,
        "mask_threshold": options.mask_threshold,
        **report_of(seen, subset, sets, options.seed),
        "unreadable": unreadable,
    }
    notes = unreadable_notes(unreadable)
    for each in sets:
        for key, reason in list(each.left_out.items())[:1]:
            notes.append(
                f"without {each.title}: {len(each.left_out)} images; the first: {key} {reason}"
            )
    return Report(content, gallery.table, comparisons(seen, sets), notes)


def _foregrounds(
    title: str, finder: MaskFinder, images: Labelled, size: int, threshold: int
) -> MaskSet:
    """The foregrounds in the images' centre crops; empty and missing ones are left out."""
    from evaluate.gradients_figures import MaskSet

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
) -> tuple[list[Seen], np.ndarray, dict[str, dict[int, np.ndarray]]]:
    """Measure every model on every image, then make the maps of the images that are shown."""
    from evaluate.classifiers import fit
    from evaluate.gradient_maps import as_picture, magnitude
    from evaluate.gradients_figures import choose_images

    regressions, seen = [], []
    for model in models:
        train, labels = model.features(split.train, "train")
        regression = fit(
            train.features, labels, len(images.classes), seed=options.seed, device=model.device
        )
        regressions.append(regression)
        seen.append(_measure(model, regression, images, sets))
    chosen = choose_images(seen, sets, options.pages)
    shown = images.take(np.sort(chosen))
    maps = {}
    for model, regression in zip(models, regressions, strict=True):
        pictures = {}
        for rows, _, gradient in _gradients(model, regression, shown, "pictures"):
            for row, values in zip(rows, magnitude(gradient).cpu().numpy(), strict=True):
                pictures[int(np.sort(chosen)[row])] = as_picture(values)
        maps[model.label] = pictures
    return seen, chosen, maps


def _gradients(model: Model, regression: LogisticRegression, images: Labelled, description: str):
    """Yield (rows, features, gradients of the own class's score by the pixels)."""
    from evaluate.gradient_maps import pixel_gradients

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
) -> Seen:
    from evaluate.gradient_maps import energy, magnitude, points_inside, share_inside
    from evaluate.gradients_figures import Seen

    count = len(images)
    right = np.zeros(count, bool)
    shares = {one.title: np.full(count, np.nan) for one in sets}
    pointing = {one.title: np.full(count, np.nan) for one in sets}
    for rows, features, gradient in _gradients(model, regression, images, "gradients"):
        right[rows] = regression(features).argmax(1).numpy() == images.labels[rows]
        energies, magnitudes = energy(gradient).cpu().numpy(), magnitude(gradient).cpu().numpy()
        for one in sets:
            for row, squares, values in zip(rows, energies, magnitudes, strict=True):
                mask = one.foregrounds.get(row)
                if mask is not None:
                    shares[one.title][row] = share_inside(squares, mask)
                    if squares.any():
                        pointing[one.title][row] = points_inside(values, mask)
    for one in sets:
        if np.isnan(shares[one.title]).all():
            raise UserError(
                f"CHECKPOINT {model.label}: no image's score has a gradient: its features do not "
                "depend on the images; name a checkpoint of a trained network."
            )
    return Seen(model, regression.c, float(right.mean()), right, shares, pointing)

"""`probe gradients`: class-score gradients, and how much of them falls on the object."""

from __future__ import annotations

import click
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from data.errors import UserError
from data.images.decode import key_path, read_size
from data.loading import build_plain_loader
from evaluate import fast_linear
from evaluate.gradients import (
    as_picture,
    energy,
    magnitude,
    pixel_gradients,
    points_inside,
    share_inside,
)
from evaluate.gradients_figures import (
    MaskSet,
    Seen,
    choose_images,
    comparisons,
    gallery_of,
    plot_shares,
    report_of,
)
from evaluate.labelled import Labelled, Split, has_split, open_split, stratified_subset
from evaluate.loading import readable
from evaluate.masks import Unusable, open_masks
from evaluate.models import Model, Settings, load_models
from evaluate.options import say, say_unreadable
from evaluate.results import Results
from evaluate.robustness import MaskFinder

BACKWARD_BATCH = 32  # images of one backward pass, however many fit a forward one


def run(
    checkpoints, images, masks, ground_truth, limit, pages, rows, mask_threshold, seed, arch,
    settings, out, overwrite, as_json,
):  # fmt: skip
    """Do `probe gradients`; the arguments are its options."""
    split = open_split(images)
    subset = stratified_subset(split.val, limit)
    folder = split.val.root.name if has_split(images) else ""
    kinds = {
        title: MaskFinder(open_masks(path, argument), folder)
        for title, path, argument in (
            ("masks", masks, "--masks"),
            ("ground truth", ground_truth, "--ground-truth"),
        )
        if path is not None
    }
    with Results("gradients", out, overwrite) as results:
        models = load_models(checkpoints, settings, arch)
        sizes = {model.size for model in models}
        if len(sizes) > 1:
            raise UserError(
                f"the models were trained at different sizes ({_list(sizes)}) and gradients "
                "compare at one; add --image-size."
            )
        size = models[0].size
        subset, unreadable = readable(subset, settings.workers)
        sets = [_foregrounds(title, f, subset, size, mask_threshold) for title, f in kinds.items()]
        seen, chosen, maps = _look_at_all(models, split, subset, sets, settings, pages, seed)
        gallery = gallery_of(seen, subset, sets, chosen, maps, size, split.how)
        if sets:
            plot_shares(seen, sets, results.path("shares.png"))
            gallery.plots.append(("shares", results.path("shares.png").read_bytes()))
        gallery.save_html(results.path("index.html"))
        gallery.save_png(results.path("gradients.png"), rows)
        text = results.write_json(
            {
                "images": images,
                "masks": masks,
                "ground_truth": ground_truth,
                "split": split.how,
                "limit": limit,
                "mask_threshold": mask_threshold,
                **report_of(seen, subset, sets, seed),
                "unreadable": unreadable,
            }
        )
    say_unreadable(unreadable)
    for one in sets:
        if one.left_out:
            key, reason = next(iter(one.left_out.items()))
            say(f"without {one.title}: {len(one.left_out)} images; the first: {key} {reason}")
    click.echo(text if as_json else tabulate(gallery.table, headers="keys", disable_numparse=True))
    if not as_json:
        for sentence in comparisons(seen, sets):
            click.echo(sentence)
    say(f"Open {results.folder / 'index.html'}")


def _list(values) -> str:
    return ", ".join(str(value) for value in sorted(values))


def _foregrounds(
    title: str, finder: MaskFinder, images: Labelled, size: int, threshold: int
) -> MaskSet:
    """The foregrounds in the images' centre crops; empty and missing ones are left out."""
    found, left_out = {}, {}
    for row, key in enumerate(tqdm(images.keys, desc=title, unit="image", disable=None)):
        try:
            mask = finder.read(key, read_size(key_path(images.root, key)), size) >= threshold
        except Unusable as reason:
            left_out[key] = str(reason)
            continue
        if mask.any():
            found[row] = mask
        else:
            left_out[key] = f"has an empty mask: nothing from {threshold} up"
    if not found:
        key, reason = next(iter(left_out.items()))
        raise UserError(f"--{title.replace(' ', '-')}: no image has a usable mask; {key} {reason}.")
    return MaskSet(title, found, left_out)


def _look_at_all(
    models: list[Model],
    split: Split,
    images: Labelled,
    sets: list[MaskSet],
    settings: Settings,
    pages: int,
    seed: int,
) -> tuple[list[Seen], np.ndarray, dict[str, dict[int, np.ndarray]]]:
    """Measure every model on every image, then make the maps of the images that are shown."""
    weights, seen = [], []
    for model in models:
        regression, c = _classifier(model, split.train, settings, seed)
        weights.append(regression)
        seen.append(_measure(model, regression, c, images, sets, settings))
    chosen = choose_images(seen, sets, pages)
    shown = images.take(np.sort(chosen))
    maps = {}
    for model, regression in zip(models, weights, strict=True):
        pictures = {}
        for rows, _, gradient in _gradients(model, regression, shown, settings, "pictures"):
            for row, values in zip(rows, magnitude(gradient).cpu().numpy(), strict=True):
                pictures[int(np.sort(chosen)[row])] = as_picture(values)
        maps[model.label] = pictures
    return seen, chosen, maps


def _classifier(model: Model, train: Labelled, settings: Settings, seed: int):
    found, labels = model.features(train, settings, "train")
    regression = fast_linear.fit(
        found.features, labels, len(train.classes), seed=seed, device=settings.device
    )
    return regression, regression.c


def _gradients(model: Model, regression, images: Labelled, settings: Settings, description: str):
    """Yield (rows, features, gradients of the own class's score by the pixels)."""
    loader = build_plain_loader(
        images.root,
        keys=images.keys,
        labels=images.labels,
        image_size=model.size,
        batch_size=min(settings.batch_size, BACKWARD_BATCH),
        workers=settings.workers,
        pin_memory=settings.device.type == "cuda",
    )
    weight = regression.weight.to(settings.device)
    model.backbone.to(settings.device)
    with tqdm(
        total=len(images), desc=f"{model.label} {description}", unit="image", disable=None
    ) as bar:
        for batch in loader:
            if not len(batch["index"]):
                continue
            pixels = batch["image"].to(settings.device, non_blocking=True)
            labels = batch["label"].to(settings.device, non_blocking=True)
            gradient, features = pixel_gradients(model.backbone, weight, pixels, labels)
            yield batch["index"].tolist(), features.cpu(), gradient
            bar.update(len(batch["index"]))


def _measure(
    model: Model, regression, c: float, images: Labelled, sets: list[MaskSet], settings: Settings
) -> Seen:
    count = len(images)
    right = np.zeros(count, bool)
    shares = {one.title: np.full(count, np.nan) for one in sets}
    pointing = {one.title: np.full(count, np.nan) for one in sets}
    for rows, features, gradient in _gradients(model, regression, images, settings, "gradients"):
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
    return Seen(model, c, float(right.mean()), right, shares, pointing)

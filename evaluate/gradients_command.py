"""`probe gradients`: class-score gradients, and how much of them falls on the object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from data.crop import centre_crop
from data.errors import UserError
from data.images import UnreadableImage, decode, key_path, read_size
from data.plain_loader import build_plain_loader
from evaluate import fast_linear
from evaluate.features import extract_folder
from evaluate.gallery import Gallery, Picture, Row
from evaluate.gradients import (
    as_picture,
    compare,
    energy,
    magnitude,
    pixel_gradients,
    points_inside,
    share_inside,
)
from evaluate.labelled import Labelled, Split, has_split, open_split, stratified_subset
from evaluate.masks import Unusable, open_masks
from evaluate.options import (
    Model,
    Settings,
    arch_option,
    json_option,
    load_models,
    network_options,
    out_options,
    say,
)
from evaluate.results import Results
from evaluate.robustness import THRESHOLD, MaskFinder

BACKWARD_BATCH = 32  # images of one backward pass, however many fit a forward one


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


@click.command("gradients")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--masks", type=click.Path(path_type=Path), help="Mask shards or pictures.")
@click.option(
    "--ground-truth", type=click.Path(path_type=Path), help="Pictures of the objects' true masks."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Test images, evenly over the classes.",
)
@click.option(
    "--pages", type=click.IntRange(1), default=40, show_default=True, help="Rows of the page."
)
@click.option(
    "--rows", type=click.IntRange(1), default=8, show_default=True, help="Rows of the PNG."
)
@click.option(
    "--mask-threshold",
    type=click.IntRange(1, 255),
    default=THRESHOLD,
    show_default=True,
    help="A mask is foreground from this level on.",
)
@click.option("--seed", default=0, show_default=True, help="Of the classifier's held-out images.")
@arch_option
@network_options
@out_options
@json_option
def gradients(
    checkpoints, images, masks, ground_truth, limit, pages, rows, mask_threshold, seed, arch,
    settings, out, overwrite, as_json,
):  # fmt: skip
    """Show where models look, and measure how much of it is the object.

    For each model a linear classifier is trained on its features of train/ (logistic regression, as
    probe linear --fast). Then the score of each test image's own class, before the softmax, is
    differentiated by the pixels. With --masks: the share of the gradient's energy (its squares)
    that falls inside the mask, beside the share of the area, which an even gradient would have, and
    the pointing game. The last line compares each model with the first.

    Writes results.json, gradients.png, shares.png and index.html, which holds all its pictures.
    """
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
        subset = _readable(subset)
        sets = [_foregrounds(title, f, subset, size, mask_threshold) for title, f in kinds.items()]
        seen, chosen, maps = _look_at_all(models, split, subset, sets, settings, pages, seed)
        gallery = _gallery(seen, subset, sets, chosen, maps, size, split.how)
        if sets:
            _plot(seen, sets, results.path("shares.png"))
            gallery.plots.append(("shares", results.path("shares.png").read_bytes()))
        gallery.save_html(results.path("index.html"))
        gallery.save_png(results.path("gradients.png"), rows)
        text = results.write_json(_report(seen, subset, sets, images, split, mask_threshold, seed))
    for one in sets:
        if one.left_out:
            key, reason = next(iter(one.left_out.items()))
            say(f"without {one.title}: {len(one.left_out)} images; the first: {key} {reason}")
    click.echo(text if as_json else tabulate(gallery.table, headers="keys", disable_numparse=True))
    if not as_json:
        for sentence in _comparisons(seen, sets):
            click.echo(sentence)
    say(f"Open {results.folder / 'index.html'}")


def _list(values) -> str:
    return ", ".join(str(value) for value in sorted(values))


def _readable(images: Labelled) -> Labelled:
    """The images whose headers can be read; the others are named."""
    kept = []
    for row, key in enumerate(images.keys):
        try:
            read_size(key_path(images.root, key))
            kept.append(row)
        except UnreadableImage as reason:
            say(f"left out, cannot be read: {key}: {reason}")
    return images.take(np.array(kept, np.int64))


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
    chosen = _order(seen, sets)[:pages]
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
    found = extract_folder(
        model.backbone,
        train.root,
        train.keys,
        size=model.size,
        batch_size=settings.batch_size,
        workers=settings.workers,
        device=settings.device,
        description=f"{model.label} train",
    )
    labels = torch.from_numpy(train.labels[found.rows])
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
    )
    weight = regression.weight.to(settings.device)
    model.backbone.to(settings.device)
    with tqdm(
        total=len(images), desc=f"{model.label} {description}", unit="image", disable=None
    ) as bar:
        for batch in loader:
            if not len(batch["index"]):
                continue
            pixels = batch["image"].to(settings.device)
            labels = batch["label"].to(settings.device)
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
    return Seen(model, c, float(right.mean()), right, shares, pointing)


def _order(seen: list[Seen], sets: list[MaskSet]) -> np.ndarray:
    """Images by how much the models' shares differ, most first; without masks, in even steps."""
    if not sets:
        return np.arange(len(seen[0].right))
    shares = np.stack([one.shares[sets[0].title] for one in seen])
    spread = shares.max(axis=0) - shares.min(axis=0) if len(seen) > 1 else -shares[0]
    return np.argsort(-np.where(np.isnan(spread), -np.inf, spread), kind="stable")


def _gallery(
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
        sentences += _comparisons(seen, sets)
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


def _comparisons(seen: list[Seen], sets: list[MaskSet]) -> list[str]:
    """One sentence for each model after the first, by the truest masks that were given."""
    if not sets or len(seen) < 2:
        return []
    title = sets[-1].title
    first = seen[0]
    return [
        f"{one.model.label} looks at the object "
        f"{compare(one.shares[title], first.shares[title])} as much as {first.model.label} "
        f"(gradient energy inside the {title}; 95 % interval)."
        for one in seen[1:]
    ]


def _plot(seen: list[Seen], sets: list[MaskSet], path: Path) -> None:
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
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, format="png")


def _report(
    seen: list[Seen],
    images: Labelled,
    sets: list[MaskSet],
    folder: Path,
    split: Split,
    threshold: int,
    seed: int,
) -> dict:
    models = []
    for one in seen:
        entry = {
            **one.model.describe(),
            "classifier": {"kind": "linear", "protocol": "fast", "c": one.c, "seed": seed},
            "top1": one.accuracy,
        }
        for masks in sets:
            entry[masks.title.replace(" ", "_")] = {
                "images": len(_rows_of(one, masks.title)),
                "share_inside": float(np.nanmean(one.shares[masks.title])),
                "share_of_area": masks.area(_rows_of(one, masks.title)),
                "pointing": float(np.nanmean(one.pointing[masks.title])),
                "against_first": vars(
                    compare(one.shares[masks.title], seen[0].shares[masks.title])
                ),
                "shares": {
                    images.keys[row]: float(one.shares[masks.title][row])
                    for row in _rows_of(one, masks.title)
                },
            }
        models.append(entry)
    return {
        "images": folder,
        "split": split.how,
        "test_images": len(images),
        "mask_threshold": threshold,
        "energy": "sum over channels of the squared gradient by pixels in [0, 1]",
        "score": "the image's own class, before the softmax",
        "models": models,
        "left_out": {one.title: one.left_out for one in sets},
    }

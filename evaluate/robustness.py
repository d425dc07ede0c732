"""`probe robustness`: accuracy with backgrounds swapped, and the background gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from data.errors import UserError
from data.gallery import Cell, Gallery, Row
from data.gallery.plots import add_legend, plot
from data.images.labels import Labelled
from data.images.listing import stem
from data.options import Count, NotNegative, one_of, setting
from evaluate.intervals import Estimate, mean, spread, weights
from evaluate.labelled import check_classes, open_labelled, open_split
from evaluate.masks import open_masks
from evaluate.options import ComparisonOptions, MaskOptions
from evaluate.results import Report, Results, cells, image_bar, left_out_notes
from evaluate.variants import MIXED, VARIANTS, VariantImages, check_classes_left, usable

if TYPE_CHECKING:
    from torch import Tensor

    from evaluate.models import Model

    Classify = Callable[[Tensor], Tensor]
    Right = dict[str, np.ndarray]  # variant -> bool (N, n): image by donor

SHOWN = 6  # rows of variants.png


class Options(ComparisonOptions, MaskOptions):
    """Measure accuracy with the background swapped.

    From IMAGES (train/ and val/, or class folders) and their --masks the variants of the background
    challenge (Xiao et al., ICLR 2021) are made; a folder in ImageNet-9's own layout
    (original/val/..., mixed_same/val/..., ...) is taken as it is. A classifier is trained on
    features of original training images and tested on every variant. The background gap is the
    accuracy on mixed_same minus that on mixed_rand: what a background of the right class is worth.
    Each image is mixed with the backgrounds of several --donors, and accuracies are means over
    them; intervals are 95 %, by a bootstrap of the test images.

    Writes results.json, accuracies.png and variants.png into the folder --out.
    """

    train: Path | None = setting(
        None, "labelled originals to train the classifier on", shown_default="IMAGES' own"
    )
    classifier: Annotated[str, one_of(("linear", "knn"))] = setting("linear", "its kind")
    donors: Count = setting(10, "backgrounds that each image gets in each mixed variant")
    seed: NotNegative = setting(0, "of the choice of backgrounds")


@dataclass
class Trial:
    """What a classifier is trained on, and on what it is tested.

    how : where the images come from, in words
    score : which images a model has right, of each variant
    paired : whether the variants are of the same images in the same order
    made : the variants; None of a folder in ImageNet-9's layout
    left_out : test images without variants, key -> reason
    """

    train: Labelled
    how: str
    score: Callable[[Model, Classify], Right]
    paired: bool
    made: VariantImages | None = None
    left_out: dict[str, str] = field(default_factory=dict)


def run(options: Options, results: Results) -> Report:
    """Train a classifier on every model's features, and test it on every variant."""
    from evaluate.classifiers import train_classifier
    from evaluate.models import load_models

    given = imagenet9_variants(options.images)
    _check(options, given)
    models = load_models(options.checkpoints, options)
    trial = _given(options, given) if given else _made(options, models)
    classes = trial.train.classes
    rows = []
    for model in models:
        train = model.features(trial.train, "train")
        classify, description = train_classifier(
            options.classifier, train.features, train.labels, len(classes), model.device
        )
        right = trial.score(model, classify)
        figures = _figures(right, trial.paired)
        rows.append({**model.describe(), "classifier": description, **figures})
    _plot(rows, results.path("accuracies.png"))
    if trial.made is not None:
        _examples(trial.made).save_png(results.path("variants.png"))
    content = {
        **options.model_dump(include={"images", "masks", "train", "seed"}),
        "donors": None if given else options.donors,
        "mask_threshold": None if given else options.mask_threshold,
        "split": trial.how,
        "classes": classes,
        "rows": rows,
        "left_out": trial.left_out,
    }
    notes = left_out_notes("test images", trial.left_out)
    table, recipes = [_cells(row) for row in rows], [row["recipe"] for row in rows]
    return Report(content, table, notes=[*notes, trial.how], recipes=recipes)


def imagenet9_variants(root: Path) -> tuple[str, ...]:
    """The variants in ImageNet-9's own layout, `<root>/<variant>/val/<class>/`; () in another."""
    there = tuple(name for name in VARIANTS if (root / name / "val").is_dir())
    return there if "original" in there and len(there) > 1 else ()


def _check(options: Options, given: tuple[str, ...]) -> None:
    """Refuse what does not go together, before the long work."""
    if not given and options.masks is None:
        raise UserError(
            f"--masks is needed: {options.images} is not in ImageNet-9's layout, so variants must "
            "be made."
        )
    if given and options.masks is not None:
        raise UserError(
            f"--masks {options.masks}: {options.images} is in ImageNet-9's layout, whose variants "
            "are made already; leave --masks out."
        )


def _made(options: Options, models: list[Model]) -> Trial:
    """Open IMAGES and its masks, and make the variants of them."""
    from evaluate.models import common_size, readable

    split = open_split(options.images)
    masks = open_masks(options.masks, "--masks", split.folder)
    val, unreadable = readable(split.val, options)
    crops, left_out = usable(val, masks, common_size(models), options.mask_threshold)
    check_classes_left(crops, left_out)
    made = VariantImages(crops, options.seed, options.donors)
    train, how = split.train, split.how
    if options.train is not None:
        train, how = open_labelled(options.train, "--train"), f"{options.train}"
        check_classes(train, split.val)
    left_out |= {key: f"cannot be read: {reason}" for key, reason in unreadable.items()}
    return Trial(train, how, partial(_score_made, images=made), True, made, left_out)


def _given(options: Options, variants: tuple[str, ...]) -> Trial:
    """Open ImageNet-9's own folders; their pictures are taken whole, as the authors do."""
    from data.images.crop import whole_image

    source = options.train or options.images / "original" / "train"
    if not source.is_dir():
        raise UserError(
            f"--train is needed: {options.images} has no original/train to train the classifier on."
        )
    train = open_labelled(source, "--train")
    tested = {name: open_labelled(options.images / name / "val") for name in variants}
    for images in tested.values():
        check_classes(train, images)

    def score(model: Model, classify: Classify) -> Right:
        right = {}
        for name, images in tested.items():
            test = model.features(images, name, whole_image)
            answers = classify(test.features).argmax(1).cpu()
            right[name] = (answers == test.labels).numpy()[:, None]
        return right

    stems = [[stem(key) for key in images.keys] for images in tested.values()]
    return Trial(train, f"trained on {source}", score, all(each == stems[0] for each in stems))


def _score_made(model: Model, classify: Classify, images: VariantImages) -> Right:
    """Which images are right in each variant, all made in one pass over the images."""
    import torch
    from torch.utils.data import default_collate

    from data.loading import Loader, in_batches

    labels = torch.from_numpy(images.crops.images.labels)
    answers: dict[str, list[Tensor]] = {name: [] for name in VARIANTS}
    counts = {name: images.donors[name].shape[1] if name in MIXED else 1 for name in VARIANTS}
    batches = in_batches(len(images), max(1, model.options.batch_size // sum(counts.values())))
    workers, pin = model.options.loading_workers, model.device.type == "cuda"
    loader = Loader(images, batches, workers, collate=default_collate, pin_memory=pin)

    def pictures() -> Iterator[Tensor]:  # those of an image one after the other
        for rows, variants in loader:
            yield torch.cat([variants[name] for name in VARIANTS], dim=1).flatten(0, 1)
            bar.update(len(rows))

    with image_bar(len(images), model.label) as bar:
        for batch in model.embed(pictures()):
            of_images = batch.unflatten(0, (-1, sum(counts.values()))).transpose(0, 1)
            parts = of_images.split(list(counts.values()))  # each (pictures of an image, B, D)
            for name, features in zip(VARIANTS, parts, strict=True):
                scores = classify(features.flatten(0, 1)).argmax(1).cpu()
                answers[name].append(scores.unflatten(0, features.shape[:2]).T)
    return {name: (torch.cat(parts) == labels[:, None]).numpy() for name, parts in answers.items()}


def _figures(right: Right, paired: bool) -> dict:
    """Accuracies, means over donors and images, and the gap, with intervals."""
    by_image = {name: each.mean(axis=1) for name, each in right.items()}
    estimates = {name: mean(values) for name, values in by_image.items()}
    figures = {
        "accuracy": {name: each.value for name, each in estimates.items()},
        "accuracy_interval": {name: each[1:] for name, each in estimates.items()},
    }
    if not {"mixed_same", "mixed_rand"} <= right.keys():
        return figures | {"background_gap": None, "background_gap_interval": None}
    same, rand = by_image["mixed_same"], by_image["mixed_rand"]
    gap = mean(same - rand) if paired else _unpaired(same, rand)
    return figures | gap.named("background_gap")


def _unpaired(first: np.ndarray, second: np.ndarray) -> Estimate:
    """The difference of two means over different images."""
    drawn = [
        np.concatenate([w @ values / len(values) for w in weights(len(values), (0, number))])
        for number, values in enumerate((first, second))
    ]
    return Estimate(float(first.mean() - second.mean()), *spread(drawn[0] - drawn[1]))


def _cells(row: dict) -> dict:
    accuracies = {f"{name} %": value for name, value in row["accuracy"].items()}
    return {"top-1": row["label"], **accuracies, **cells(row, {"gap %": "background_gap"})}


def _examples(images: VariantImages) -> Gallery:
    """A few images as rows and variants as columns, for looking at."""
    numbers = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().astype(int)
    rows = [
        Row(images.crops.images.keys[row], [Cell(variants[name][0]) for name in VARIANTS])
        for row, variants in (images[number] for number in numbers.tolist())
    ]
    return Gallery("Swapped backgrounds", [], list(VARIANTS), rows)


def _plot(rows: list[dict], path: Path) -> None:
    """Draw bars of accuracy: variants side by side, one colour for each model."""
    names = list(rows[0]["accuracy"])
    width = 0.8 / len(rows)
    with plot(path, 9, 4) as (axes,):
        for number, row in enumerate(rows):
            positions = np.arange(len(names)) + (number - (len(rows) - 1) / 2) * width
            gap = row["background_gap"]
            label = row["label"] if gap is None else f"{row['label']}: gap {100 * gap:+.1f}"
            values = [100 * row["accuracy"][name] for name in names]
            bars = axes.bar(positions, values, width, label=label)
            axes.bar_label(bars, fmt="%.0f", fontsize=7)
        axes.set_xticks(np.arange(len(names)), names, fontsize=9)
        axes.set(ylabel="top-1 %", ylim=(0, 105))
        add_legend(axes, 8, title="background gap = mixed_same - mixed_rand", title_fontsize=8)

"""`probe robustness`: accuracy with backgrounds swapped, and the background gap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from data.errors import UserError
from data.images.crop import whole_image
from data.loading import normalise
from evaluate.accuracy import top_k
from evaluate.captions import add_legend
from evaluate.classifiers import train_classifier
from evaluate.labelled import Labelled, has_split, open_labelled, open_split
from evaluate.loading import readable
from evaluate.masks import open_masks, stem
from evaluate.models import Model, Settings, load_models
from evaluate.options import say
from evaluate.results import Results, draft_folder
from evaluate.robustness import (
    Folders,
    MaskFinder,
    VariantImages,
    imagenet9_folders,
    usable_images,
    variant_batches,
)
from evaluate.to_host import to_host
from evaluate.variants import VARIANTS

SHOWN = 6  # rows of variants.png


def run(
    checkpoints, images, masks, train, classifier, mask_threshold, seed, save_variants, arch,
    settings, out, overwrite, as_json,
):  # fmt: skip
    """Do `probe robustness`; the arguments are its options."""
    folders = imagenet9_folders(images, VARIANTS)
    if folders is None and masks is None:
        raise UserError(
            f"--masks is needed: {images} is not in ImageNet-9's layout, so variants must be made."
        )
    if folders is not None:
        for option, value in (("--masks", masks), ("--save-variants", save_variants)):
            if value is not None:
                raise UserError(
                    f"{option} {value}: {images} is in ImageNet-9's layout, whose variants are "
                    f"made already; leave {option} out."
                )
    if save_variants is not None:
        if save_variants.exists():
            raise UserError(f"--save-variants {save_variants} exists; name a new folder.")
        with draft_folder(save_variants, "--save-variants"):  # now, not after the long work
            pass
    with Results("robustness", out, overwrite) as results:
        models = load_models(checkpoints, settings, arch)
        if folders is None:
            trained_on, how, tested = _made(
                images, masks, train, mask_threshold, seed, models, settings
            )
        else:
            trained_on, how, tested = _given(folders, train)
        rows = []
        for model in models:
            judge = _train(model, trained_on, classifier, settings)
            found = (
                _score_folders(model, judge, folders, trained_on, settings)
                if folders is not None
                else _score_made(model, judge, tested[model.size], settings)
            )
            rows.append({**model.describe(), "classifier": judge.describe(), **_gap(found)})
        sample = _sample(folders, tested, models[0].size)
        _sheet(sample, results.path("variants.png"))
        _plot(rows, results.path("accuracies.png"))
        left_out = {} if folders else tested[models[0].size].left_out
        text = results.write_json(
            {
                "images": images,
                "masks": masks,
                "train": train,
                "mask_threshold": None if folders else mask_threshold,
                "split": how,
                "classes": trained_on.classes,
                "seed": seed,
                "rows": rows,
                "left_out": left_out,
            }
        )
        if save_variants is not None and folders is None:
            _save(tested[models[0].size].variants, save_variants, settings)
    if left_out:
        key, reason = next(iter(left_out.items()))
        say(f"left out {len(left_out)} of the test images; the first: {key} {reason}")
    click.echo(text if as_json else _table(rows))
    say(f"{how}; written to {results.folder}")


class _Tested:
    """The variants of one crop size, and the images that were left out."""

    def __init__(self, variants: VariantImages, left_out: dict[str, str]):
        self.variants, self.left_out = variants, left_out


def _made(images, masks, train, threshold, seed, models: list[Model], settings: Settings):
    """Open IMAGES and its masks; the variants depend on a model's crop size."""
    split = open_split(images)
    finder = MaskFinder(
        open_masks(masks, "--masks"), split.val.root.name if has_split(images) else ""
    )
    val, unreadable = readable(split.val, settings.workers)
    unreadable = {key: f"cannot be read: {reason}" for key, reason in unreadable.items()}
    tested = {}
    for size in sorted({model.size for model in models}):
        usable = usable_images(val, finder, size, threshold)
        variants = VariantImages(usable.images, finder, size, threshold, seed)
        tested[size] = _Tested(variants, unreadable | usable.left_out)
    trained_on, how = split.train, split.how
    if train is not None:
        trained_on, how = _same_classes(open_labelled(train, "--train"), split.val), f"{train}"
    return trained_on, how, tested


def _given(folders: Folders, train: Path | None):
    """The originals to train on, for ImageNet-9's own folders."""
    source = train or folders.root / "original" / "train"
    if not source.is_dir():
        raise UserError(
            f"--train is needed: {folders.root} has no original/train to train the classifier on."
        )
    trained_on = open_labelled(source, "--train")
    for name in folders.variants:
        _same_classes(trained_on, open_labelled(folders.val(name)))
    return trained_on, f"trained on {source}", {}


def _same_classes(train: Labelled, val: Labelled) -> Labelled:
    differ = sorted(set(train.classes) ^ set(val.classes))
    if differ:
        raise UserError(
            f"the class '{differ[0]}' is in only one of {train.root} and {val.root}; both need the "
            "same class folders."
        )
    return train


def _train(model: Model, images: Labelled, kind: str, settings: Settings):
    features, labels = model.features(images, settings, "train")
    return train_classifier(kind, features.features, labels, len(images.classes), settings.device)


def _score_made(model: Model, judge, tested: _Tested, settings: Settings) -> dict[str, float]:
    """Accuracy on each variant, all made in one pass over the images."""
    images = tested.variants
    labels = torch.from_numpy(images.images.labels)
    scores: dict[str, list] = {name: [] for name in VARIANTS}
    share, device = max(1, settings.batch_size // len(VARIANTS)), settings.device

    def computed() -> Iterator[torch.Tensor]:  # (variants, B, D)
        for batch in variant_batches(images, share, settings.workers, device.type == "cuda"):
            pixels = (normalise(batch[name].to(device, non_blocking=True)) for name in VARIANTS)
            yield torch.stack([model.backbone(one).float() for one in pixels])
            bar.update(len(batch["row"]))

    with (
        torch.no_grad(),
        tqdm(total=len(images), desc=model.label, unit="image", disable=None) as bar,
    ):
        for found in to_host(computed()):
            for name, features in zip(VARIANTS, found, strict=True):
                scores[name].append(judge(features))
    return {name: top_k(torch.cat(parts), labels, 1) for name, parts in scores.items()}


def _score_folders(
    model: Model, judge, folders: Folders, trained_on: Labelled, settings: Settings
) -> dict[str, float]:
    """Accuracy on each of ImageNet-9's folders; its pictures are taken whole, as the authors do."""
    accuracies = {}
    for name in folders.variants:
        images = open_labelled(folders.val(name))
        found, labels = model.features(images, settings, name, whole_image)
        accuracies[name] = top_k(judge(found.features), labels, 1)
    return accuracies


def _gap(found: dict[str, float]) -> dict:
    both = "mixed_same" in found and "mixed_rand" in found
    gap = found["mixed_same"] - found["mixed_rand"] if both else None
    return {"accuracy": found, "background_gap": gap}


def _sample(folders: Folders | None, tested: dict, size: int) -> list[dict[str, np.ndarray]]:
    """A few images in all variants, for looking at; of ImageNet-9's folders none are needed."""
    if folders is not None:
        return []
    images = tested[size].variants
    rows = np.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().astype(int)
    return [images[int(row)][1] for row in rows]


def _sheet(sample: list[dict[str, np.ndarray]], path: Path) -> None:
    """Draw images as rows and variants as columns."""
    if not sample:
        return
    figure = Figure(figsize=(1.3 * len(VARIANTS), 1.3 * len(sample) + 0.3), layout="constrained")
    grid = figure.subplots(len(sample), len(VARIANTS), squeeze=False)
    for line, variants in zip(grid, sample, strict=True):
        for axes, name in zip(line, VARIANTS, strict=True):
            axes.imshow(variants[name])
            axes.set(xticks=[], yticks=[])
    for axes, name in zip(grid[0], VARIANTS, strict=True):
        axes.set_title(name, fontsize=8)
    figure.savefig(path, dpi=150, format="png")


def _plot(rows: list[dict], path: Path) -> None:
    """Draw bars of accuracy: variants side by side, one colour for each model."""
    names = list(rows[0]["accuracy"])
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        places = np.arange(len(names)) + (number - (len(rows) - 1) / 2) * width
        gap = row["background_gap"]
        label = row["label"] if gap is None else f"{row['label']}: gap {100 * gap:+.1f}"
        values = [100 * row["accuracy"][name] for name in names]
        bars = axes.bar(places, values, width, label=label)
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(np.arange(len(names)), names, fontsize=9)
    axes.set(ylabel="top-1 %", ylim=(0, 105))
    add_legend(axes, 8, title="background gap = mixed_same - mixed_rand", title_fontsize=8)
    figure.savefig(path, dpi=150, format="png")


def _save(images: VariantImages, folder: Path, settings: Settings) -> None:
    """Write `<variant>/val/<class>/<image>.png`, under a temporary name until all are there."""
    with (
        draft_folder(folder, "--save-variants") as draft,
        tqdm(total=len(images), desc="save", unit="image", disable=None) as bar,
    ):
        for batch in variant_batches(images, 16, settings.workers):
            for place, row in enumerate(batch["row"].tolist()):
                key = stem(images.images.keys[row]) + ".png"
                for name in VARIANTS:
                    path = draft / name / "val" / key
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(batch[name][place].numpy()).save(path)
            bar.update(len(batch["row"]))
        os.replace(draft, folder)
    say(f"the variants' pictures are in {folder}")


def _table(rows: list[dict]) -> str:
    shown = []
    for row in rows:
        cells = {name: f"{100 * value:.1f}" for name, value in row["accuracy"].items()}
        gap = row["background_gap"]
        end = {"gap": "" if gap is None else f"{100 * gap:+.1f}"}
        shown.append({"top-1 %": row["label"], **cells, **end})
    return tabulate(shown, headers="keys", disable_numparse=True)

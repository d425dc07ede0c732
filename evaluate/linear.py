"""`probe linear`: the linear probe, a linear classifier on frozen features."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from data.gallery.plots import add_legend, plot
from data.options import Count, NotNegative, one_of, setting
from evaluate.intervals import accuracy
from evaluate.labelled import Split, open_split
from evaluate.options import FLOAT32_MAX, ComparisonOptions, PoolOptions, Positive
from evaluate.protocols import PRESETS, UNFINISHED, Protocol
from evaluate.results import (
    Report,
    Results,
    cells,
    processes,
    refuse_several,
    unreadable_notes,
)

if TYPE_CHECKING:
    from evaluate.models import Model
    from pretrain.parts.distributed import World

SHARES_WORK = True  # among torchrun's processes
MAY_HOLD = (UNFINISHED,)
COLUMNS = {
    "checkpoint": "label",
    "layer": "layer",
    "pool": "pool",
    "size": "image_size",
    "protocol": "protocol",
    "top-1 %": "top1",
    "top-5 %": "top5",
    "train": "train_images",
    "test": "test_images",
}


class Options(ComparisonOptions, PoolOptions):
    """Train a linear classifier on frozen features.

    IMAGES holds train/ and val/ with a folder for each class; from class folders alone a fifth of
    each class is held out. The backbone stays in eval mode, and at the end is proved unchanged.
    Training crops are RandomResizedCrop(.08, 1) with flips, test crops the centre.

    A run that was stopped continues when the same command with the same --out is given again. Start
    it by torchrun to use several GPUs; --batch-size is over all of them.

    Writes results.json, classifier.pt and curve.png into the folder --out; of several networks
    classifier-1.pt and so on.
    """

    preset: Annotated[str, one_of(PRESETS)] = setting(
        "dilo",
        "published protocol: lr 30, 100 epochs, decay at 30/60/90 (dilo) or 60/80 (moco); places "
        "is lr .01 with Nesterov momentum, weight decay 1e-4, 28 epochs, decay at 7/14/21 and a "
        "batch norm without parameters before the classifier",
    )
    lr: Positive | None = setting(None, "in place of the preset's")
    weight_decay: Annotated[float, Field(ge=0, le=FLOAT32_MAX)] | None = setting(
        None, "in place of the preset's"
    )
    epochs: Count | None = setting(
        None, "in place of the preset's; its milestones move along in proportion"
    )
    seed: NotNegative = setting(0, "of crops, order and initial weights")
    amp: bool = setting(False, "run the backbone in bfloat16: faster on a GPU")
    fast: bool = setting(
        False,
        "features once, without augmentation, then logistic regression; minutes, not hours",
    )

    def protocol(self) -> Protocol:
        """The preset with what the command line puts in its place."""
        preset = PRESETS[self.preset]
        named = {"lr", "weight_decay", "epochs", "seed", "batch_size"}
        given = self.model_dump(include=named, exclude_none=True)
        if self.epochs is not None:
            moved = (round(m * self.epochs / preset.epochs) for m in preset.milestones)
            given["milestones"] = tuple(sorted({max(1, m) for m in moved}))
        return replace(preset, **given)


def run(options: Options, results: Results) -> Report | None:
    """Train and validate each network; None in all of torchrun's processes but the first."""
    import torch

    from evaluate.models import load_models
    from evaluate.pooling import open_pool

    if options.fast:
        refuse_several("linear --fast")
    pool, split = open_pool(options, options.images), open_split(options.images)
    with processes(options) as here:
        device = None if options.fast else here.device
        models = load_models(options.checkpoints, options, device, pool)
        trained = [
            _fit(model, split, options)
            if options.fast
            else _train(model, split, options, results, here)
            for model in models
        ]
    if not here.first:
        return None
    for path, (_, state) in zip(numbered(results, "classifier.pt", models), trained, strict=True):
        state = {key: value.cpu() for key, value in state.items()}
        torch.save({"state_dict": state, "classes": split.train.classes}, path)
    rows = [row for row, _ in trained]
    if not options.fast:
        plot_history(rows, results.path("curve.png"))
    unchanged = [
        f"the backbone is unchanged: sha256 {row['backbone_sha256'][:16]}..." for row in rows
    ]
    shown = [{**row, "protocol": row["protocol"]["name"]} for row in rows]
    report = training_report(options, split, rows, shown, COLUMNS)
    if pool:
        report.content |= pool.describe(split.images)
        report.notes += pool.notes()
    report.notes += unchanged
    return report


def _train(
    model: Model, split: Split, options: Options, results: Results, here: World
) -> tuple[dict, dict]:
    """Train by SGD; returns what the JSON says, and the classifier."""
    from evaluate.linear_training import Training, train_to_end

    protocol = options.protocol()
    probe = Training(model, split, protocol, here, options.amp)
    train_to_end(probe, results, options)
    how = {
        "name": f"{options.preset}, {protocol.epochs} epochs, lr {protocol.lr:g}",
        "preset": options.preset,
        **asdict(protocol),
        "amp": options.amp,
        "gpus": here.size,
    }
    row = {**probe.outcome(), "protocol": how, "backbone_sha256": probe.before}
    return row, probe.head.state_dict()


def _fit(model: Model, split: Split, options: Options) -> tuple[dict, dict]:
    """Fit a logistic regression; returns what the JSON says, and the classifier."""
    from evaluate.checkpoints import digest
    from evaluate.classifiers import HOLDOUT, fit, top_k

    before = digest(model.backbone)
    train, val = model.split_features(split)
    classes, device = len(split.train.classes), model.device
    regression = fit(train.features, train.labels, classes, seed=options.seed, device=device)
    if digest(model.backbone) != before:
        raise RuntimeError("the backbone changed while features were taken")
    logits = regression(val.features)
    how = {
        "name": f"fast, C {regression.c:g}",
        "fast": "logistic regression on features of the test crop",
        "c": regression.c,
        "c_tried": {f"{c:g}": accuracy for c, accuracy in regression.tried.items()},
        "c_chosen_on": f"{HOLDOUT:.0%} of the training images",
        "seed": options.seed,
    }
    row = {
        **model.describe(),
        **accuracy(top_k(logits, val.labels, 1), len(split.val)).named("top1"),
        "top5": top_k(logits, val.labels, 5),
        "protocol": how,
        "backbone_sha256": before,
        "unreadable": train.unreadable | val.unreadable,
    }
    return row, {"weight": regression.weight, "bias": regression.bias}


# ---- what `probe finetune` tells, too ------------------------------------------------------------


def numbered(results: Results, name: str, models: list[Model]) -> list[Path]:
    """Where to write each model's file: `name`, or with several models `stem-1`, `stem-2` ..."""
    if len(models) == 1:
        return [results.path(name)]
    stem, dot, ending = name.partition(".")
    return [results.path(f"{stem}-{number + 1}{dot}{ending}") for number in range(len(models))]


def training_report(
    options: ComparisonOptions,
    split: Split,
    rows: list[dict],
    shown: list[dict],
    columns: dict[str, str],
) -> Report:
    """Make the report of one network, as it is, or of several as `rows` and `means`.

    shown : the rows as `columns` of the table take them
    """
    shared = {
        "images": options.images,
        "split": split.how,
        "train_images": len(split.train),
        "test_images": len(split.val),
        "classes": len(split.train.classes),
        "batch_size": options.batch_size,
    }
    table = [cells({**shared, **row}, columns) for row in shown]
    notes = [*unreadable_notes(rows[0]["unreadable"]), split.how]
    if len(rows) == 1:
        return Report(shared | rows[0], table, notes=notes)
    recipes = [row["recipe"] for row in rows]
    return Report(shared | {"rows": rows}, table, notes=notes, recipes=recipes)


def plot_history(rows: list[dict], path: Path, cuts: bool = True) -> None:
    """Draw the accuracies over the epochs, and where the rate is cut."""
    from matplotlib.ticker import MaxNLocator

    with plot(path, 7, 4) as (axes,):
        for number, row in enumerate(rows):
            history, name = row["history"], f"{row['label']}, " if len(rows) > 1 else ""
            epochs, colour = [epoch["epoch"] + 1 for epoch in history], f"C{number}"
            for key, label, style in (
                ("train_top1", "training crops", ":"), ("top1", "validation", "-"),
            ):  # fmt: skip
                shares = [100 * epoch[key] for epoch in history]
                axes.plot(epochs, shares, style, color=colour, label=name + label)
        for before, after in pairwise(rows[0]["history"]):
            if cuts and after["lr"] != before["lr"]:
                axes.axvline(after["epoch"] + 0.5, color="gray", linewidth=0.8, linestyle=":")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        cut = " (gray: the rate is cut)" if cuts else ""
        axes.set(xlabel=f"epoch{cut}", ylabel="top-1 %")
        axes.grid(alpha=0.3)
        add_legend(axes, 8)

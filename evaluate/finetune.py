"""`probe finetune`: the whole network trained further on class folders."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from data.gallery.plots import plot
from data.options import Count, NotNegative, setting
from evaluate.labelled import open_split
from evaluate.linear import numbered, plot_history, training_report
from evaluate.options import FLOAT32_MAX, PENULTIMATE, ComparisonOptions, Positive
from evaluate.protocols import FINE_TUNING, UNFINISHED
from evaluate.results import Report, Results, percent

if TYPE_CHECKING:
    from evaluate.linear_training import Training
    from evaluate.protocols import Protocol

MAY_HOLD = (UNFINISHED,)
LAST = 10  # epochs that the reported figure is the median of
CONFUSIONS = 10  # pairs of classes in the JSON
NAMED_CLASSES = 60  # above it, classes have no names in the picture
COLUMNS = {
    "checkpoint": "label",
    "size": "image_size",
    "epochs": "epochs",
    "lr": "lr",
    "top-1 %": "top1",
    "median of ten epochs %": "median_top1",
    "mean of classes %": "mean_class_top1",
    "train": "train_images",
    "test": "test_images",
}


class Options(ComparisonOptions):
    """Fine-tune the whole network on class folders.

    IMAGES holds train/ and val/ with a folder for each class; from class folders alone a fifth of
    each class is held out. The protocol is that of openmixup on fine-grained sets: SGD, lr .001,
    momentum .9, weight decay 5e-4, batch 16, 200 epochs of a cosine; crops of .5 to 1 of the area
    with flips, tested on the centre crop; 224 px, or 448 by --image-size 448. Reported are the last
    epoch, and the median of the last ten, which is theirs.

    A run that was stopped continues when the same command with the same --out is given again.
    Writes results.json, finetuned.pt, curve.png and confusion.png into the folder --out; of several
    networks finetuned-1.pt and so on.
    """

    lr: Positive = setting(FINE_TUNING.lr, "learning rate at the start, for --batch-size 16")
    weight_decay: Annotated[float, Field(ge=0, le=FLOAT32_MAX)] = setting(
        FINE_TUNING.weight_decay, "of all weights"
    )
    epochs: Count = setting(FINE_TUNING.epochs, "passes over the training images")
    batch_size: Count = setting(FINE_TUNING.batch_size, "images in a batch", heading="Network")
    seed: NotNegative = setting(0, "of crops, order and the classifier's first weights")
    amp: bool = setting(False, "compute in bfloat16: faster on a GPU")

    def protocol(self) -> Protocol:
        """The published protocol with what the command line puts in its place."""
        given = self.model_dump(include={"lr", "weight_decay", "epochs", "batch_size", "seed"})
        return replace(FINE_TUNING, **given)


def run(options: Options, results: Results) -> Report:
    """Fine-tune each network, and say which classes are told apart."""
    from data.device import pick_device
    from data.errors import UserError
    from evaluate.linear_training import Training, train_to_end
    from evaluate.models import load_models
    from pretrain.parts.distributed import World

    if options.layer != PENULTIMATE:
        raise UserError(f"--layer {options.layer}: the whole network is fine-tuned; leave it out.")
    split, protocol = open_split(options.images), options.protocol()
    here, names = World(0, 1, 0, 1, pick_device(options.device)), split.train.classes
    models = load_models(options.checkpoints, options, here.device)
    weights, pictures = (numbered(results, n, models) for n in ("finetuned.pt", "confusion.png"))
    rows = []
    for model, path, picture in zip(models, weights, pictures, strict=True):
        training = Training(model, split, protocol, here, options.amp, whole=True)
        train_to_end(training, results, options)
        _save(training, names, path)
        matrix = confusion(*training.predicted, len(names))
        _plot_confusion(matrix, names, picture)
        median = float(np.median([epoch.top1 for epoch in training.history[-LAST:]]))
        row = {**training.outcome(), "median_top1": median, **_of_classes(matrix, names)}
        rows.append({**row, "protocol": {**asdict(protocol), "amp": options.amp}})
    plot_history(rows, results.path("curve.png"), cuts=False)
    shown = [{**row, "epochs": protocol.epochs, "lr": f"{protocol.lr:g}"} for row in rows]
    report = training_report(options, split, rows, shown, COLUMNS)
    report.sentences += [
        f"{row['label']}: {pair['images']} of {pair['of']} images of {pair['class']} are taken for "
        f"{pair['taken']}."
        for row in rows
        for pair in row["confused"][:3]
    ]
    return report


def confusion(predicted, labels, classes: int) -> np.ndarray:
    """Count images by class and by the class they are taken for: int64 (classes, classes).

    predicted, labels : int64 (N,)
    """
    flat = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def _of_classes(matrix: np.ndarray, names: list[str]) -> dict:
    """Accuracies by class, and the pairs of classes that are most confused."""
    counts = matrix.sum(1)
    shares = {
        name: float(matrix[i, i] / counts[i]) for i, name in enumerate(names) if counts[i] > 0
    }
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    return {
        "mean_class_top1": float(np.mean(list(shares.values()))),
        "class_top1": shares,
        "confused": [
            {"class": names[i], "taken": names[j], "images": int(wrong[i, j]), "of": int(counts[i])}
            for i, j in pairs
            if wrong[i, j]
        ],
    }


def _save(training: Training, classes: list[str], path: Path) -> None:
    """Write the network under torchvision's names, its classifier included."""
    import torch

    from evaluate.networks import classifier

    arch = training.backbone.source.arch
    state = training.backbone.model.state_dict()
    state |= {
        f"{classifier(arch)}.{name}": value for name, value in training.head.fc.state_dict().items()
    }
    state = {name: value.detach().cpu() for name, value in state.items()}
    torch.save({"arch": arch, "state_dict": state, "classes": classes}, path)


def _plot_confusion(matrix: np.ndarray, names: list[str], path: Path) -> None:
    """Draw the matrix, each row in percent of its class, with the class's accuracy at its left."""
    count = len(names)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(12.0, 3.5 + 0.22 * count)
    with plot(path, side + 1.5, side) as (axes,):
        axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
        axes.set(xlabel="taken for", ylabel="class, and how many % of it are right")
        if count > NAMED_CLASSES:
            return
        right = [f"{name} {percent(shares[i, i], 0)}" for i, name in enumerate(names)]
        for set_ticks, labels, turn in (
            (axes.set_xticks, names, 90), (axes.set_yticks, right, 0),
        ):  # fmt: skip
            set_ticks(range(count), labels, fontsize=7, rotation=turn, parse_math=False)
        for i, j in np.argwhere(matrix > 0):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, matrix[i, j], ha="center", va="center", fontsize=6, color=colour)

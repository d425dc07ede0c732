"""`probe knn`: weighted k-nearest-neighbour accuracy of frozen features."""

from __future__ import annotations

import click
from tabulate import tabulate

from data.errors import UserError
from data.knn import nearest, votes
from evaluate.accuracy import top_k
from evaluate.labelled import Labelled, has_split, open_labelled, open_split
from evaluate.models import Model, Settings, load_models
from evaluate.options import say, say_unreadable
from evaluate.results import Results


def run(checkpoints, images, ks, temperature, arch, settings, out, overwrite, as_json):
    """Do `probe knn`; the arguments are its options."""
    leave_one_out = not has_split(images)
    if leave_one_out:
        train = val = open_labelled(images)
        how = "leave one out"
    else:
        split = open_split(images)
        train, val, how = split.train, split.val, split.how
    available = len(train) - int(leave_one_out)
    if available < 1:
        raise UserError(f"IMAGES {images} has a single image; there is none to compare it with.")
    with Results("knn", out, overwrite) as results:
        rows = []
        for model in load_models(checkpoints, settings, arch):
            for row in score(model, train, val, ks, temperature, settings):
                rows.append({**model.describe(), **row})
        text = results.write_json(
            {
                "images": images,
                "split": how,
                "classes": len(train.classes),
                "batch_size": settings.batch_size,
                "rows": rows,
            }
        )
    say_unreadable(rows[0]["unreadable"])  # the same for all models
    for k in sorted({k for k in ks if k > rows[-1]["k"]}):
        say(f"--k {k} is cut to {rows[-1]['k']}: there are no more training images to vote.")
    click.echo(text if as_json else _table(rows))
    say(f"{how}; written to {results.folder}")


def score(
    model: Model,
    train: Labelled,
    val: Labelled,
    ks: tuple[int, ...],
    temperature: float,
    settings: Settings,
) -> list[dict]:
    """Accuracies for each k; a k larger than the training set is cut to it, and so reported."""
    leave_one_out = train is val
    bank, bank_labels = model.features(train, settings, "train")
    test, labels = (bank, bank_labels) if leave_one_out else model.features(val, settings, "val")
    available = len(bank.features) - int(leave_one_out)
    if available < 1:
        raise UserError(
            f"IMAGES {val.root}: a single image can be read; there is no other to vote."
        )
    sizes = sorted({min(k, available) for k in ks})
    found = nearest(
        bank.features,
        test.features,
        sizes[-1],
        leave_one_out=leave_one_out,
        device=settings.device,
    )
    rows = []
    for k in sizes:
        first = type(found)(found.similarity[:, :k], found.index[:, :k])
        scores = votes(first, bank_labels, temperature, len(train.classes)).cpu()
        rows.append(
            {
                "k": k,
                "temperature": temperature,
                "top1": top_k(scores, labels, 1),
                "top5": top_k(scores, labels, 5),
                "train_images": len(bank.features),
                "test_images": len(test.features),
                "unreadable": bank.unreadable | test.unreadable,
            }
        )
    return rows


def _table(rows: list[dict]) -> str:
    shown = [
        {
            "checkpoint": row["label"],
            "layer": row["layer"],
            "size": row["image_size"],
            "k": row["k"],
            "T": row["temperature"],
            "top-1 %": f"{100 * row['top1']:.2f}",
            "top-5 %": "" if row["top5"] is None else f"{100 * row['top5']:.2f}",
            "train": row["train_images"],
            "test": row["test_images"],
        }
        for row in rows
    ]
    return tabulate(shown, headers="keys", disable_numparse=True)

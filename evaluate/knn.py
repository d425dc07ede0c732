"""`probe knn`: weighted k-nearest-neighbour accuracy of frozen features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.options import Count, setting
from evaluate.intervals import accuracy
from evaluate.labelled import Split, open_split
from evaluate.options import ComparisonOptions, PoolOptions, Positive
from evaluate.results import Report, Results, cells, unreadable_notes

if TYPE_CHECKING:
    from evaluate.models import Model

COLUMNS = {
    "checkpoint": "label",
    "layer": "layer",
    "pool": "pool",
    "size": "image_size",
    "k": "k",
    "T": "temperature",
    "top-1 %": "top1",
    "top-5 %": "top5",
    "train": "train_images",
    "test": "test_images",
}


class Options(ComparisonOptions, PoolOptions):
    """Classify by the nearest training images of frozen features.

    IMAGES holds train/ and val/ with a folder for each class, or the class folders themselves; then
    each image is classified by all others. A CHECKPOINT is a run of pretrain, a file with weights
    of one of torchvision's networks, torchvision:NAME for supervised weights on disk, or
    random:NAME for the untrained network. Several are compared; NAME=CHECKPOINT names one.

    The k training images of largest cosine similarity s vote with weight exp(s / T), as in Wu et
    al., CVPR 2018. Writes results.json into the folder --out.
    """

    k: tuple[Count, ...] = setting((200,), "neighbours that vote; may be given several times")
    temperature: Positive = setting(0.07, "T in a vote's weight exp(similarity / T)")


def run(options: Options, results: Results) -> Report:
    """Score every model at every k."""
    from evaluate.models import load_models
    from evaluate.pooling import open_pool

    split = open_split(options.images, leave_one_out="leave one out")
    pool = open_pool(options, options.images)
    rows = [
        {**model.describe(), **row}
        for model in load_models(options.checkpoints, options, pool=pool)
        for row in _score(model, split, options)
    ]
    largest = rows[-1]["k"]
    table = [cells(row, COLUMNS) for row in rows]
    recipes = [f"{row['recipe']}, k {row['k']}" for row in rows]
    content = {
        "images": options.images,
        "split": split.how,
        "classes": len(split.train.classes),
        "batch_size": options.batch_size,
        **(pool.describe(split.images) if pool else {}),
        "rows": rows,
    }
    notes = unreadable_notes(rows[0]["unreadable"])  # the same for all models
    notes += [
        f"--k {k} is cut to {largest}: there are no more training images to vote."
        for k in sorted({k for k in options.k if k > largest})
    ]
    notes += [*(pool.notes() if pool else []), split.how]
    return Report(content, table, notes=notes, recipes=recipes)


def _score(model: Model, split: Split, options: Options) -> list[dict]:
    """Accuracies for each k; a k larger than the training set is cut to it, and so reported."""
    from data.knn import Neighbours, votes
    from evaluate.classifiers import top_k

    (similarity, index), train, test = model.nearest(split, max(options.k))
    rows = []
    for k in sorted({min(k, index.shape[1]) for k in options.k}):
        first = Neighbours(similarity[:, :k], index[:, :k])
        scores = votes(first, train.labels, options.temperature, len(split.train.classes)).cpu()
        top1 = accuracy(top_k(scores, test.labels, 1), len(test.labels))
        rows.append(
            {
                "k": k,
                "temperature": options.temperature,
                **top1.named("top1"),
                "top5": top_k(scores, test.labels, 5),
                "train_images": len(train.labels),
                "test_images": len(test.labels),
                "unreadable": train.unreadable | test.unreadable,
            }
        )
    return rows

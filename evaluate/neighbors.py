"""`probe neighbors`: queries and their nearest neighbours, model beside model (DiLo, Figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.gallery import Cell, Gallery, Row
from data.options import Count, setting
from evaluate.intervals import accuracy, mean
from evaluate.labelled import Split, open_split
from evaluate.options import ComparisonOptions, PoolOptions
from evaluate.results import Report, Results, by_difference, cells, unreadable_notes

if TYPE_CHECKING:
    from evaluate.models import Model

SHOWN_SIZE = 128
COLUMNS = {
    "checkpoint": "label",
    "right neighbours %": "right_share",
    "right first %": "right_first",
    "neighbours": "neighbors",
    "layer": "layer",
    "pool": "pool",
    "size": "image_size",
}


class Options(ComparisonOptions, PoolOptions):
    """Show queries and their nearest neighbours, model beside model.

    Queries are the images of val/, neighbours those of train/; from class folders alone both are
    all images. Neighbours are the images of largest cosine similarity. A green frame has the
    query's label, a red one another. The queries where the models differ most in their share of
    right neighbours come first; with one model, those with the fewest right ones.

    Writes results.json, neighbors.png and index.html, which holds all its pictures.
    """

    neighbors: Count = setting(5, "a query's")
    queries: Count = setting(40, "rows of the page")
    rows: Count = setting(10, "rows of the PNG")


@dataclass
class Neighbourhood:
    """One model's neighbours of Q queries.

    index: (Q, n) rows of the candidates; right: (Q, n) whether they have the query's label;
    similarity: (Q, n) cosine
    """

    model: Model
    index: np.ndarray
    right: np.ndarray
    similarity: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """(Q,) of each query's neighbours, the share that has its label."""
        return self.right.mean(axis=1)

    def describe(self) -> dict:
        """What a result says about this model."""
        queries, neighbors = self.right.shape
        first = accuracy(float(self.right[:, 0].mean()), queries)
        return {
            **self.model.describe(),
            "neighbors": neighbors,
            **mean(self.shares).named("right_share"),
            **first.named("right_first"),
        }


def run(options: Options, results: Results) -> Report:
    """Find every model's neighbours, and show them."""
    from evaluate.models import load_models
    from evaluate.pooling import open_pool

    pool = open_pool(options, options.images)
    split = open_split(options.images, leave_one_out="all images but the query itself")
    neighbourhoods = []
    for model in load_models(options.checkpoints, options, pool=pool):
        neighbourhood, read, unreadable = _find(model, split, options.neighbors)
        neighbourhoods.append(neighbourhood)  # the rest is the same for all models
    models = [each.describe() for each in neighbourhoods]
    order = by_difference(np.stack([each.shares for each in neighbourhoods]))[: options.queries]
    table, recipes = [cells(m, COLUMNS) for m in models], [m["recipe"] for m in models]
    content = {
        **options.model_dump(include={"images", "neighbors"}),
        "split": split.how,
        "queries": len(read.val),
        "candidates": len(read.train),
        **(pool.describe(split.images) if pool else {}),
        "models": models,
        "rows": [_query(query, neighbourhoods, read) for query in order],
        "unreadable": unreadable,
    }
    gallery = _gallery(neighbourhoods, read, order)
    notes = unreadable_notes(unreadable) + (pool.notes() if pool else [])
    if (count := models[0]["neighbors"]) < options.neighbors:
        notes.append(
            f"--neighbors {options.neighbors} is cut to {count}: there are no more images."
        )
    return Report(content, table, [], notes, gallery, options.rows, recipes)


def _find(model: Model, split: Split, count: int) -> tuple[Neighbourhood, Split, dict[str, str]]:
    """Neighbours of the queries that can be read; what of the split can be, and what cannot."""
    found, train, test = model.nearest(split, count)
    read = Split(train.images, test.images, split.how)
    similarity, index = (values.cpu().numpy() for values in found)
    right = read.train.labels[index] == read.val.labels[:, None]
    neighbourhood = Neighbourhood(model, index, right, similarity)
    return neighbourhood, read, train.unreadable | test.unreadable


def _query(query: int, neighbourhoods: list[Neighbourhood], split: Split) -> dict:
    """What the JSON says about a query."""
    return {
        "query": split.val.keys[query],
        "label": split.val.class_of(query),
        "neighbors": {
            each.model.label: [split.train.keys[int(row)] for row in each.index[query]]
            for each in neighbourhoods
        },
        "right": {each.model.label: each.right[query].tolist() for each in neighbourhoods},
    }


def _gallery(neighbourhoods: list[Neighbourhood], split: Split, order: np.ndarray) -> Gallery:
    """The page: a row for each query of `order`."""
    from data.images.crop import centre_crop

    rows = []
    for query in order:
        crop = centre_crop(split.val.image(query), SHOWN_SIZE)
        cells = [Cell(crop, split.val.class_of(query))]
        for each in neighbourhoods:
            nearest = zip(each.index[query], each.similarity[query], each.right[query], strict=True)
            for row, similarity, right in nearest:
                crop = centre_crop(split.train.image(row), SHOWN_SIZE)
                caption = f"{split.train.class_of(row)} {similarity:.2f}"
                cells.append(Cell(crop, caption, bool(right)))
        counts = (
            f"{each.model.label} {each.right[query].sum()} of {each.right.shape[1]} right"
            for each in neighbourhoods
        )
        rows.append(Row(f"{split.val.keys[query]}: {', '.join(counts)}", cells))
    sentences = [
        "Each row is a query and its nearest neighbours by cosine similarity of "
        f"{neighbourhoods[0].model.backbone.layer} features, most similar first. A green frame has "
        "the query's label, a dashed red one another.",
        "The queries where the models differ most come first."
        if len(neighbourhoods) > 1
        else "The queries with the fewest right neighbours come first.",
        f"Queries and neighbours: {split.how}. {len(split.val)} queries, {len(split.train)} "
        "candidates.",
    ]
    columns = ["query"]
    for each in neighbourhoods:
        columns += [each.model.label, *[""] * (each.index.shape[1] - 1)]
    return Gallery("Nearest neighbours", sentences, columns, rows)

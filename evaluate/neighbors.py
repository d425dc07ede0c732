"""`probe neighbors`: queries and their nearest neighbours, model beside model (DiLo, Figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.errors import UserError
from data.gallery import Cell, Gallery, Row
from data.images.decode import decode, key_path
from data.options import setting
from evaluate.labelled import Labelled, has_split, open_labelled, open_split, stratified_subset
from evaluate.options import ComparisonOptions, Count
from evaluate.results import Report, Results, percent, say, unreadable_notes

if TYPE_CHECKING:
    from evaluate.models import Model

SHOWN_SIZE = 128


class Options(ComparisonOptions):
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
    limit: Count | None = setting(None, "use this many queries, evenly over the classes")


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


def run(options: Options, results: Results) -> Report:
    """Find every model's neighbours, and show them."""
    from evaluate.models import load_models

    leave_one_out = not has_split(options.images)
    if leave_one_out:
        bank = open_labelled(options.images)
        asked, how = bank, "all images but the query itself"
        if options.limit is not None:
            say("--limit is for folders with train/ and val/; all images are queries here.")
    else:
        split = open_split(options.images)
        bank, how = split.train, split.how
        asked = stratified_subset(split.val, options.limit)
    _check_count(options.neighbors, bank, leave_one_out)
    models = load_models(options.checkpoints, options)
    outcomes = [_find(model, bank, asked, options.neighbors) for model in models]
    neighbourhoods = [neighbourhood for neighbourhood, *_ in outcomes]
    _, bank, asked, unreadable = outcomes[0]  # the same for all models
    order = _order(neighbourhoods)[: options.queries]
    table = [_table_row(each) for each in neighbourhoods]
    gallery = _gallery(neighbourhoods, bank, asked, order, how, table)
    gallery.save_html(results.path("index.html"))
    gallery.save_png(results.path("neighbors.png"), options.rows)
    content = {
        "images": options.images,
        "split": how,
        "neighbors": options.neighbors,
        "queries": len(asked),
        "candidates": len(bank),
        "models": [
            {
                **each.model.describe(),
                "right_share": float(each.shares.mean()),
                "right_first": float(each.right[:, 0].mean()),
            }
            for each in neighbourhoods
        ],
        "rows": [_query(query, neighbourhoods, bank, asked) for query in order.tolist()],
        "limit": options.limit,
        "unreadable": unreadable,
    }
    return Report(content, table, notes=unreadable_notes(unreadable))


def _check_count(count: int, bank: Labelled, leave_one_out: bool) -> None:
    available = len(bank) - int(leave_one_out)
    if count > available:
        raise UserError(
            f"--neighbors {count}: a query has only {available} images to choose from in "
            f"{bank.root}; ask for fewer."
        )


def _find(
    model: Model, bank: Labelled, asked: Labelled, count: int
) -> tuple[Neighbourhood, Labelled, Labelled, dict[str, str]]:
    """Neighbours of the queries that can be read, these candidates and queries; the unreadable."""
    from data.knn import nearest

    leave_one_out = asked is bank
    train, _ = model.features(bank, "train")
    test = train if leave_one_out else model.features(asked, "val")[0]
    bank = bank.take(train.rows)
    asked = bank if leave_one_out else asked.take(test.rows)
    _check_count(count, bank, leave_one_out)
    near = nearest(
        train.features, test.features, count, leave_one_out=leave_one_out, device=model.device
    )
    index = near.index.cpu().numpy()
    right = bank.labels[index] == asked.labels[:, None]
    neighbourhood = Neighbourhood(model, index, right, near.similarity.cpu().numpy())
    return neighbourhood, bank, asked, train.unreadable | test.unreadable


def _order(neighbourhoods: list[Neighbourhood]) -> np.ndarray:
    """Queries by how much the models differ, most first; one model's by its fewest right ones."""
    shares = np.stack([each.shares for each in neighbourhoods])
    if len(shares) == 1:
        return np.argsort(shares[0], kind="stable")
    return np.argsort(-(shares.max(axis=0) - shares.min(axis=0)), kind="stable")


def _query(
    query: int, neighbourhoods: list[Neighbourhood], bank: Labelled, asked: Labelled
) -> dict:
    """What the JSON says about a query."""
    return {
        "query": asked.keys[query],
        "label": asked.classes[asked.labels[query]],
        "neighbors": {
            each.model.label: [bank.keys[int(row)] for row in each.index[query]]
            for each in neighbourhoods
        },
        "right": {each.model.label: each.right[query].tolist() for each in neighbourhoods},
    }


def _table_row(each: Neighbourhood) -> dict[str, str]:
    return {
        "checkpoint": each.model.label,
        "right neighbours %": percent(each.shares.mean()),
        "right first %": percent(each.right[:, 0].mean()),
        "neighbours": str(each.right.shape[1]),
        "layer": each.model.backbone.layer,
        "size": str(each.model.size),
    }


def _gallery(
    neighbourhoods: list[Neighbourhood],
    bank: Labelled,
    asked: Labelled,
    order: np.ndarray,
    how: str,
    table: list[dict[str, str]],
) -> Gallery:
    rows = []
    for query in order.tolist():
        label = asked.classes[asked.labels[query]]
        cells = [Cell(_thumbnail(asked, query), label)]
        for each in neighbourhoods:
            nearest = zip(each.index[query], each.similarity[query], each.right[query], strict=True)
            for row, similarity, right in nearest:
                caption = f"{bank.classes[bank.labels[row]]} {similarity:.2f}"
                cells.append(Cell(_thumbnail(bank, int(row)), caption, bool(right)))
        said = (
            f"{each.model.label} {each.right[query].sum()} of {each.right.shape[1]} right"
            for each in neighbourhoods
        )
        rows.append(Row(f"{asked.keys[query]}: {', '.join(said)}", cells))
    sentences = [
        "Each row is a query and its nearest neighbours by cosine similarity of "
        f"{neighbourhoods[0].model.backbone.layer} features, most similar first. A green frame has "
        "the query's label, a dashed red one another.",
        "The queries where the models differ most come first."
        if len(neighbourhoods) > 1
        else "The queries with the fewest right neighbours come first.",
        f"Queries and neighbours: {how}. {len(asked)} queries, {len(bank)} candidates.",
    ]
    columns = ["query"]
    for each in neighbourhoods:
        columns += [each.model.label, *[""] * (each.index.shape[1] - 1)]
    return Gallery("Nearest neighbours", sentences, columns, rows, table)


def _thumbnail(images: Labelled, row: int) -> np.ndarray:
    from data.images.crop import centre_crop

    return centre_crop(decode(key_path(images.root, images.keys[row])).image, SHOWN_SIZE)

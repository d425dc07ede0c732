"""`probe neighbors`: queries and their nearest neighbours, model beside model (DiLo, Figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from tabulate import tabulate

from data.errors import UserError
from data.images.crop import centre_crop
from data.images.decode import decode, key_path
from data.knn import nearest
from evaluate.gallery import Gallery, Picture, Row
from evaluate.labelled import Labelled, has_split, open_labelled, open_split, stratified_subset
from evaluate.models import Model, Settings, load_models
from evaluate.options import say, say_unreadable
from evaluate.results import Results

SHOWN_SIZE = 128


@dataclass
class Found:
    """One model's neighbours: rows of the bank (Q, n), and which have the query's label (Q, n)."""

    model: Model
    index: np.ndarray
    right: np.ndarray
    similarity: np.ndarray


def run(checkpoints, images, count, queries, rows, limit, arch, settings, out, overwrite, as_json):
    """Do `probe neighbors`; the arguments are its options."""
    leave_one_out = not has_split(images)
    if leave_one_out:
        bank = open_labelled(images)
        asked, how = bank, "all images but the query itself"
        if limit is not None:
            say("--limit is for folders with train/ and val/; all images are queries here.")
    else:
        split = open_split(images)
        bank, how = split.train, split.how
        asked = stratified_subset(split.val, limit)
    _check_count(count, bank, leave_one_out)
    with Results("neighbors", out, overwrite) as results:
        models = load_models(checkpoints, settings, arch)
        outcomes = [_find(model, bank, asked, count, settings) for model in models]
        found = [one for one, *_ in outcomes]
        _, bank, asked, unreadable = outcomes[0]  # the same for all models
        shares = np.stack([one.right.mean(axis=1) for one in found])  # (models, Q)
        order = _order(shares)
        gallery = _gallery(found, bank, asked, order[:queries], shares, how)
        gallery.save_html(results.path("index.html"))
        gallery.save_png(results.path("neighbors.png"), rows)
        report = _report(found, bank, asked, order[:queries], shares, images, how, count)
        text = results.write_json({**report, "limit": limit, "unreadable": unreadable})
    say_unreadable(unreadable)
    click.echo(text if as_json else tabulate(gallery.table, headers="keys", disable_numparse=True))
    say(f"Open {results.folder / 'index.html'}")


def _check_count(count: int, bank: Labelled, leave_one_out: bool) -> None:
    available = len(bank) - int(leave_one_out)
    if count > available:
        raise UserError(
            f"--neighbors {count}: a query has only {available} images to choose from in "
            f"{bank.root}; ask for fewer."
        )


def _find(
    model: Model, bank: Labelled, asked: Labelled, count: int, settings: Settings
) -> tuple[Found, Labelled, Labelled, dict[str, str]]:
    """Neighbours of the queries that can be read, these candidates and queries; the unreadable."""
    leave_one_out = asked is bank
    train, _ = model.features(bank, settings, "train")
    test = train if leave_one_out else model.features(asked, settings, "val")[0]
    bank = bank.take(train.rows)
    asked = bank if leave_one_out else asked.take(test.rows)
    _check_count(count, bank, leave_one_out)
    near = nearest(
        train.features,
        test.features,
        count,
        leave_one_out=leave_one_out,
        device=settings.device,
    )
    index = near.index.cpu().numpy()
    right = bank.labels[index] == asked.labels[:, None]
    found = Found(model, index, right, near.similarity.cpu().numpy())
    return found, bank, asked, train.unreadable | test.unreadable


def _order(shares: np.ndarray) -> np.ndarray:
    """Queries by how much the models differ, most first; one model's by its fewest right ones."""
    if len(shares) == 1:
        return np.argsort(shares[0], kind="stable")
    return np.argsort(-(shares.max(axis=0) - shares.min(axis=0)), kind="stable")


def _gallery(
    found: list[Found],
    bank: Labelled,
    asked: Labelled,
    order: np.ndarray,
    shares: np.ndarray,
    how: str,
) -> Gallery:
    rows = []
    for query in order.tolist():
        label = asked.classes[asked.labels[query]]
        cells = [[Picture(_thumbnail(asked, query), label)]]
        for one in found:
            cells.append(
                [
                    Picture(
                        _thumbnail(bank, int(row)),
                        f"{bank.classes[bank.labels[row]]} {similarity:.2f}",
                        bool(right),
                    )
                    for row, similarity, right in zip(
                        one.index[query], one.similarity[query], one.right[query], strict=True
                    )
                ]
            )
        said = (
            f"{one.model.label} {one.right[query].sum()} of {one.right.shape[1]} right"
            for one in found
        )
        rows.append(Row(cells, f"{asked.keys[query]}: {', '.join(said)}"))
    sentences = [
        "Each row is a query and its nearest neighbours by cosine similarity of "
        f"{found[0].model.backbone.layer} features, most similar first. A green frame has the "
        "query's label, a dashed red one another.",
        "The queries where the models differ most come first."
        if len(found) > 1
        else "The queries with the fewest right neighbours come first.",
        f"Queries and neighbours: {how}. {len(asked)} queries, {len(bank)} candidates.",
    ]
    table = [
        {
            "checkpoint": one.model.label,
            "right neighbours %": f"{100 * share.mean():.2f}",
            "right first %": f"{100 * one.right[:, 0].mean():.2f}",
            "neighbours": str(one.right.shape[1]),
            "layer": one.model.backbone.layer,
            "size": str(one.model.size),
        }
        for one, share in zip(found, shares, strict=True)
    ]
    columns = ["query", *(one.model.label for one in found)]
    return Gallery("Nearest neighbours", sentences, columns, rows, table)


def _thumbnail(images: Labelled, row: int) -> np.ndarray:
    return centre_crop(decode(key_path(images.root, images.keys[row])).image, SHOWN_SIZE)


def _report(
    found: list[Found],
    bank: Labelled,
    asked: Labelled,
    order: np.ndarray,
    shares: np.ndarray,
    images: Path,
    how: str,
    count: int,
) -> dict:
    return {
        "images": images,
        "split": how,
        "neighbors": count,
        "queries": len(asked),
        "candidates": len(bank),
        "models": [
            {
                **one.model.describe(),
                "right_share": float(share.mean()),
                "right_first": float(one.right[:, 0].mean()),
            }
            for one, share in zip(found, shares, strict=True)
        ],
        "rows": [
            {
                "query": asked.keys[query],
                "label": asked.classes[asked.labels[query]],
                "neighbors": {
                    one.model.label: [bank.keys[int(row)] for row in one.index[query]]
                    for one in found
                },
                "right": {one.model.label: one.right[query].tolist() for one in found},
            }
            for query in order.tolist()
        ],
    }

"""`probe saliency`: masks against ground truth, in one table and one plot."""

from __future__ import annotations

from pathlib import Path

import click
from tabulate import tabulate

from data.errors import UserError
from data.images.decode import list_images
from data.masks.precision_recall import BETA2
from evaluate.masks import names_of, open_masks
from evaluate.options import say
from evaluate.results import Results
from evaluate.saliency_figures import plot_curves, plot_examples
from evaluate.saliency_scores import Scores, match, score_masks

COLUMNS = {
    "images": "images",
    "max_f": "max F",
    "mean_f": "mean F",
    "mae": "MAE",
    "weighted_f": "weighted F",
    "s_measure": "S",
    "mean_e": "mean E",
    "max_e": "max E",
}
NAMED = 5  # how many images of one complaint are named on the terminal; the JSON has all


def run(masks, ground_truth, images, rows, quick, resize, jobs, out, overwrite, as_json):
    """Do `probe saliency`; the arguments are its options."""
    labels = names_of(list(masks))
    if len(set(labels)) < len(labels):
        raise UserError(f"MASKS names '{masks[labels.index(labels[0])]}' twice; name it once.")
    # All mistakes before the first long work.
    photographs = None if images is None else list_images(images)
    for folder in masks:
        match(open_masks(folder, "MASKS"), open_masks(ground_truth, "GROUND_TRUTH"))
    with Results("saliency", out, overwrite) as results:
        scores = [
            score_masks(folder, ground_truth, label, structure=not quick, resize=resize, jobs=jobs)
            for folder, label in zip(masks, labels, strict=True)
        ]
        text = results.write_json(_report(scores, ground_truth, quick, resize))
        plot_curves(scores, results.path("precision-recall.png"))
        if photographs is not None:
            truths = open_masks(ground_truth, "GROUND_TRUTH")
            sets = [(one, open_masks(one.folder)) for one in scores]
            plot_examples(
                images, photographs, truths, sets, results.path("examples.png"), rows, resize
            )
    for one in scores:
        _complain(one)
    if len({tuple(one.names) for one in scores}) > 1:
        say("The rows are over different images, so they do not compare; see left_out in the JSON.")
    click.echo(text if as_json else _table(scores))
    say(f"Written to {results.folder}")


def _table(scores: list[Scores]) -> str:
    rows = []
    for one in scores:
        summary = one.summary()
        cells = {title: summary[key] for key, title in COLUMNS.items() if summary[key] is not None}
        rows.append({"masks": one.label, **cells})
    return tabulate(rows, headers="keys", floatfmt=".4f")


def _report(scores: list[Scores], truth: Path, quick: bool, resize: bool) -> dict:
    return {
        "ground_truth": truth,
        "settings": {
            "beta2": BETA2,
            "structure_measures": not quick,
            "resize": resize,
            "normalised": "each map stretched to 0..255",
        },
        "masks": [
            {
                "label": one.label,
                "folder": one.folder,
                "method": one.method,
                **one.summary(),
                "precision": one.curve.precision,
                "recall": one.curve.recall,
                "f_measure": one.curve.f_measure(),
                "constant_masks": one.constant,
                "left_out": one.left_out,
            }
            for one in scores
        ],
    }


def _complain(one: Scores) -> None:
    """Name the images that were left out, by reason, and those whose mask is constant."""
    kinds: dict[str, list[str]] = {}
    for name, reason in one.left_out.items():
        kinds.setdefault(reason.split(":")[0], []).append(name)
    for reason, names in kinds.items():
        say(f"{one.label}: left out, {reason}: {_names(names)}")
    if one.constant:
        say(f"{one.label}: constant mask, scored as empty: {_names(one.constant)}")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more

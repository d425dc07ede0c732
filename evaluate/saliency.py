"""`probe saliency`: masks against ground truth, in one table and one plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator

from data.errors import UserError
from data.gallery import Cell, Gallery, Row
from data.images.decode import UnreadableImage, decode, key_path, list_images
from data.keys import Keys
from data.masks.precision_recall import BETA2
from data.options import setting
from evaluate.masks import Masks, names_of, open_masks, stem
from evaluate.options import Count, ResultOptions
from evaluate.results import Report, Results, add_legend

if TYPE_CHECKING:
    from evaluate.saliency_scores import Scores

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
TILE = 200  # pixels of an example's longer side
NAMED = 5  # how many images of one complaint are named on the terminal; the JSON has all


def _not_zero(jobs: int) -> int:
    if jobs == 0:
        raise ValueError("give the number of processes, or -1 for one a core")
    return jobs


class Options(ResultOptions):
    """Score saliency MASKS against GROUND_TRUTH.

    MASKS is a folder of mask shards, as saliency-compute writes them, or a folder of pictures.
    Give several to compare them. GROUND_TRUTH is a folder of pictures, foreground above 128. A mask
    belongs to the ground truth of the same path without its suffix.

    \b
    max F, mean F   precision and recall averaged over the images at each of 256 thresholds, then F
                    with beta^2 = .3: its maximum and its mean over the thresholds
    MAE             mean absolute error
    weighted F      Margolin et al. 2014;  S: Fan et al. 2017;  E: Fan et al. 2018

    Writes results.json and precision-recall.png into the folder --out.
    """

    masks: tuple[Path, ...] = setting(..., "sets of masks", argument=True)
    ground_truth: Path = setting(..., "true masks", argument=True)
    images: Path | None = setting(
        None, "the photographs; adds examples.png, from the best to the worst mask"
    )
    rows: Count = setting(8, "of examples.png")
    quick: bool = setting(False, "F and MAE alone; leaves out the slower measures")
    resize: bool = setting(False, "scale masks of another size to the ground truth's, bilinearly")
    jobs: Annotated[int, AfterValidator(_not_zero)] = setting(-1, "processes; -1 takes all cores")


def run(options: Options, results: Results) -> Report:
    """Score every set of masks."""
    from evaluate.saliency_scores import match, score_masks

    labels = names_of(list(options.masks))
    if len(set(labels)) < len(labels):
        raise UserError(
            f"MASKS names '{options.masks[labels.index(labels[0])]}' twice; name it once."
        )
    # All mistakes before the first long work.
    photographs = None if options.images is None else list_images(options.images)
    truths = open_masks(options.ground_truth, "GROUND_TRUTH")
    for folder in options.masks:
        match(open_masks(folder, "MASKS"), truths)
    scores = [
        score_masks(
            folder,
            options.ground_truth,
            label,
            structure=not options.quick,
            resize=options.resize,
            jobs=options.jobs,
        )
        for folder, label in zip(options.masks, labels, strict=True)
    ]
    _plot_curves(scores, results.path("precision-recall.png"))
    if photographs is not None:
        sets = [(each, open_masks(each.folder)) for each in scores]
        examples = _examples(options, photographs, truths, sets)
        examples.save_png(results.path("examples.png"), side=TILE)
    notes = [note for each in scores for note in _notes(each)]
    if len({tuple(each.names) for each in scores}) > 1:
        notes.append(
            "The rows are over different images, so they do not compare; see left_out in the JSON."
        )
    return Report(_content(scores, options), [_table_row(each) for each in scores], notes=notes)


def _table_row(each: Scores) -> dict[str, str]:
    summary = each.summary()
    cells = {title: summary[key] for key, title in COLUMNS.items() if summary[key] is not None}
    images = {"images": str(cells.pop("images"))}
    return {"masks": each.label, **images, **{t: f"{value:.4f}" for t, value in cells.items()}}


def _content(scores: list[Scores], options: Options) -> dict:
    return {
        "ground_truth": options.ground_truth,
        "settings": {
            "beta2": BETA2,
            "structure_measures": not options.quick,
            "resize": options.resize,
            "normalised": "each map stretched to 0..255",
        },
        "masks": [
            {
                "label": each.label,
                "folder": each.folder,
                "method": each.method,
                **each.summary(),
                "precision": each.curve.precision,
                "recall": each.curve.recall,
                "f_measure": each.curve.f_measure(),
                "constant_masks": each.constant,
                "left_out": each.left_out,
            }
            for each in scores
        ],
    }


def _notes(each: Scores) -> list[str]:
    """Name the images that were left out, by reason, and those whose mask is constant."""
    kinds: dict[str, list[str]] = {}
    for name, reason in each.left_out.items():
        kinds.setdefault(reason.split(":")[0], []).append(name)
    notes = [
        f"{each.label}: left out, {reason}: {_names(names)}" for reason, names in kinds.items()
    ]
    if each.constant:
        notes.append(f"{each.label}: constant mask, scored as empty: {_names(each.constant)}")
    return notes


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _plot_curves(scores: list[Scores], path: Path) -> None:
    """Draw precision against recall, and F against the threshold, a line for each set of masks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for each in scores:
        curve = each.curve
        f = curve.f_measure()
        best = int(f.argmax())
        label = f"{each.label}: max F {f[best]:.4f}"
        (line,) = left.plot(curve.recall, curve.precision, label=label, linewidth=1.5)
        left.plot(curve.recall[best], curve.precision[best], "o", color=line.get_color())
        right.plot(f, linewidth=1.5, color=line.get_color())
        right.plot(best, f[best], "o", color=line.get_color())
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    left.set_title("Precision and recall; dots at max F", fontsize=10)
    right.set(xlabel="threshold", ylabel=f"F (β² = {BETA2})", xlim=(0, 255), ylim=(0, 1))
    right.set_title("F against the threshold", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    add_legend(left, 9, loc="lower left")
    figure.savefig(path, dpi=150, format="png")


def _examples(
    options: Options, photographs: Keys, truths: Masks, sets: list[tuple[Scores, Masks]]
) -> Gallery:
    """Return photographs below --images with their ground truth and each set's mask.

    The images run from the smallest to the largest mean absolute error of the first set, in even
    steps of rank, so that the picture shows the method's best, usual and worst.
    """
    from evaluate.saliency_scores import load_pair

    shared = set.intersection(*(set(each.names) for each, _ in sets))
    by_stem = {stem(key): key for key in photographs}
    first = sets[0][0]
    errors = {name: s.mae for name, s in zip(first.names, first.per_image, strict=True)}
    ranked = sorted((n for n in shared if n in by_stem), key=lambda n: (errors[n], n))
    if not ranked:
        raise UserError(f"--images {options.images} holds none of the images that were scored.")
    positions = np.linspace(0, len(ranked) - 1, min(options.rows, len(ranked))).round().astype(int)
    rows = []
    for name in (ranked[position] for position in positions):
        try:
            photograph = decode(key_path(options.images, by_stem[name]), 2 * TILE).image
        except UnreadableImage as reason:
            raise UserError(f"--images: '{by_stem[name]}' cannot be read: {reason}.") from None
        cells = []
        for each, masks in sets:
            mask, truth = load_pair(masks, truths, name, options.resize)
            score = each.per_image[each.names.index(name)]
            cells.append(Cell(mask, f"MAE {score.mae:.3f}"))
        rows.append(Row(name, [Cell(photograph), Cell(truth.astype(np.uint8) * 255), *cells]))
    columns = ["image", "ground truth", *(each.label for each, _ in sets)]
    return Gallery("From the best to the worst mask", [], columns, rows)

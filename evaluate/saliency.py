"""`probe saliency`: masks against ground truth, in one table and one plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from data.errors import UserError
from data.images.decode import list_images
from data.masks.precision_recall import BETA2
from data.options import setting
from evaluate.masks import names_of, open_masks
from evaluate.options import Count, ResultOptions
from evaluate.results import Report, Results

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
    from evaluate.saliency_figures import plot_curves, plot_examples
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
    plot_curves(scores, results.path("precision-recall.png"))
    if photographs is not None:
        sets = [(each, open_masks(each.folder)) for each in scores]
        path = results.path("examples.png")
        plot_examples(options.images, photographs, truths, sets, path, options.rows, options.resize)
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

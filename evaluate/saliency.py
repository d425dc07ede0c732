"""`probe saliency`: masks against ground truth, in one table and one plot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from data.errors import UserError
from data.gallery import Cell, Gallery, Row
from data.gallery.plots import add_legend, plot
from data.images.decode import UnreadableImage, decode
from data.images.listing import key_path, list_images, stem
from data.keys import Keys
from data.masks.picture import scale_mask
from data.masks.precision_recall import BETA2, Curve, normalise, precision_recall
from data.options import Count, Jobs, setting
from evaluate.masks import Masks, NoMask, names_of, open_masks
from evaluate.options import ResultOptions
from evaluate.results import Report, Results, image_bar, left_out_notes, some

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
GROUND_TRUTH_LEVEL = 128  # ground truth is foreground above this level
RUN = 8  # images that a worker takes at a time
TILE = 200  # pixels of an example's longer side


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
    jobs: Jobs = setting(-1, "processes; -1 takes all cores")


def run(options: Options, results: Results) -> Report:
    """Score every set of masks."""
    labels = names_of(list(options.masks))
    if len(set(labels)) < len(labels):
        raise UserError(
            f"MASKS names '{options.masks[labels.index(labels[0])]}' twice; name it once."
        )
    # All mistakes before the first long work.
    photographs = None if options.images is None else list_images(options.images)
    truths = open_masks(options.ground_truth, "GROUND_TRUTH")
    sets = [open_masks(folder, "MASKS") for folder in options.masks]
    pairs = [match(masks, truths) for masks in sets]
    scores = [
        score(masks, truths, label, *pair, options)
        for masks, label, pair in zip(sets, labels, pairs, strict=True)
    ]
    _plot_curves(scores, results.path("precision-recall.png"))
    if photographs is not None:
        examples = _examples(options, photographs, truths, scores)
        examples.save_png(results.path("examples.png"), side=TILE)
    notes = []
    for each in scores:
        notes += left_out_notes(each.label, each.left_out)
        if each.constant:
            notes.append(f"{each.label}: constant mask, scored as empty: {some(each.constant)}")
    if len({tuple(each.images) for each in scores}) > 1:
        notes.append(
            "The rows are over different images, so they do not compare; see left_out in the JSON."
        )
    content = {
        "ground_truth": options.ground_truth,
        "settings": {
            "beta2": BETA2,
            "structure_measures": not options.quick,
            "resize": options.resize,
            "normalised": "each map stretched to 0..255",
        },
        "masks": [_entry(each) for each in scores],
    }
    return Report(content, [_table_row(each) for each in scores], notes=notes)


# ---- scores --------------------------------------------------------------------------------------


def score_image(saliency: np.ndarray, truth: np.ndarray, structure: bool = True) -> dict[str, Any]:
    """Score one saliency map.

    saliency : (h, w) uint8, any range: it is stretched to 0..255 first
    truth : (h, w) bool, with at least one True
    structure : whether to compute weighted F (Margolin et al., CVPR 2014, beta 1), S-measure
        (Fan et al., ICCV 2017, alpha .5) and E-measure (Fan et al., IJCAI 2018), by pysodmetrics

    Returns precision and recall, (256,) float64; mae, the mean of |map / 255 - truth| (Perazzi et
    al., CVPR 2012); constant, whether nothing stands out; weighted_f, s_measure, adaptive_e, and
    e_curve, (256,), where they were asked for.
    """
    saliency = normalise(saliency)
    precision, recall = precision_recall(saliency, truth)
    scores = {
        "precision": precision,
        "recall": recall,
        "mae": float(np.where(truth, 255 - saliency, saliency).mean() / 255),
        "constant": not saliency.any(),
    }
    if not structure:
        return scores
    from py_sod_metrics import Emeasure, Smeasure, WeightedFmeasure  # takes seconds

    weighted, s, e = WeightedFmeasure(), Smeasure(), Emeasure()
    for measure in (weighted, s, e):
        measure.step(saliency / 255.0, truth, normalize=False)
    enhanced = e.get_results()["em"]
    return scores | {
        "weighted_f": float(weighted.get_results()["wfm"]),
        "s_measure": float(s.get_results()["sm"]),
        "e_curve": np.asarray(enhanced["curve"]),
        "adaptive_e": float(enhanced["adp"]),
    }


@dataclass
class Scores:
    """Scores of one set of masks over a data set, and why other images have none, by name."""

    label: str
    masks: Masks
    images: dict[str, dict[str, Any]]
    left_out: dict[str, str]

    def mean(self, name: str) -> Any:
        """The mean over images of one of `score_image`'s; None where it was not computed."""
        values = [scores.get(name) for scores in self.images.values()]
        return None if values[0] is None else np.mean(values, axis=0)

    @property
    def curve(self) -> Curve:
        """Precision and recall averaged over images."""
        return Curve(self.mean("precision"), self.mean("recall"))

    @property
    def constant(self) -> list[str]:
        """The images whose mask is constant: nothing stands out, scored as empty."""
        return [name for name, scores in self.images.items() if scores["constant"]]

    def summary(self) -> dict[str, Any]:
        """The figures of the table; the structure measures are None where not computed."""
        curve, e_curve = self.curve, self.mean("e_curve")
        return {
            "images": len(self.images),
            "max_f": curve.max_f,
            "mean_f": curve.mean_f,
            "mae": self.mean("mae"),
            "weighted_f": self.mean("weighted_f"),
            "s_measure": self.mean("s_measure"),
            "mean_e": None if e_curve is None else e_curve.mean(),
            "max_e": None if e_curve is None else e_curve.max(),
            "adaptive_e": self.mean("adaptive_e"),
        }


def load_pair(masks: Masks, truths: Masks, name: str, resize: bool) -> tuple[np.ndarray, ...]:
    """Read one map and its ground truth at the ground truth's size; `NoMask` says why not.

    A shard's mask is at working resolution and is scaled bilinearly, when the image that it was
    computed from has the ground truth's size. A picture must have that size, unless `resize`.
    """
    truth = truths.read(name)[0] > GROUND_TRUTH_LEVEL
    if not truth.any():
        raise NoMask("ground truth is empty: no pixel above 128")
    mask, image_size = masks.read(name)
    size = image_size or mask.shape
    if size != truth.shape and not resize:
        what = "mask" if image_size is None else "image"
        raise NoMask(
            f"{what} is {size[1]}x{size[0]}, its ground truth {truth.shape[1]}x{truth.shape[0]}"
        )
    return scale_mask(mask, truth.shape), truth


def match(masks: Masks, truths: Masks) -> tuple[list[str], dict[str, str]]:
    """Stems that both have, in order, and those that one lacks, with the reason."""
    ours, theirs = masks.names, truths.names
    unmatched = {name: "has a ground truth and no mask" for name in theirs if name not in ours}
    unmatched |= {name: "has a mask and no ground truth" for name in ours if name not in theirs}
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise UserError(
            f"MASKS {masks.folder} and GROUND_TRUTH {truths.folder} have no image in common: "
            f"without suffixes the first is '{next(iter(ours))}' there and '{next(iter(theirs))}' "
            "here."
        )
    return both, unmatched


def score(
    masks: Masks,
    truths: Masks,
    label: str,
    names: list[str],
    left_out: dict[str, str],
    options: Options,
) -> Scores:
    """Score the named masks on all cores; those that cannot be scored are left out and named."""
    runs = [names[i : i + RUN] for i in range(0, len(names), RUN)]
    tasks = (delayed(_score_some)(masks.folder, truths.folder, run, options) for run in runs)
    images, left_out = {}, dict(left_out)
    with image_bar(len(names), label) as bar:
        outcomes = Parallel(n_jobs=options.jobs, return_as="generator")(tasks)
        for run, batch in zip(runs, outcomes, strict=True):
            for name, outcome in zip(run, batch, strict=True):
                (left_out if isinstance(outcome, str) else images)[name] = outcome
            bar.update(len(run))
    if not images:
        name, reason = next(iter(left_out.items()))
        raise UserError(f"MASKS {masks.folder}: none of its masks can be scored; {name} {reason}.")
    return Scores(label, masks, images, left_out)


_opened = lru_cache(maxsize=4)(open_masks)  # once a worker: a listing is too long to send


def _score_some(
    folder: Path, truth_folder: Path, names: list[str], options: Options
) -> list[dict[str, Any] | str]:
    """Score a few images in a worker; a string is the reason why one cannot be scored."""
    masks, truths = _opened(folder, "MASKS"), _opened(truth_folder, "GROUND_TRUTH")
    outcomes: list[dict[str, Any] | str] = []
    for name in names:
        try:
            pair = load_pair(masks, truths, name, options.resize)
            outcomes.append(score_image(*pair, structure=not options.quick))
        except NoMask as reason:
            outcomes.append(str(reason))
    return outcomes


# ---- what is told --------------------------------------------------------------------------------


def _table_row(each: Scores) -> dict[str, str]:
    summary = each.summary()
    cells = {title: summary[key] for key, title in COLUMNS.items() if summary[key] is not None}
    images = {"images": str(cells.pop("images"))}
    return {"masks": each.label, **images, **{t: f"{value:.4f}" for t, value in cells.items()}}


def _entry(each: Scores) -> dict:
    """What results.json says about a set of masks."""
    return {
        "label": each.label,
        "folder": each.masks.folder,
        "method": each.masks.method,
        **each.summary(),
        "precision": each.curve.precision,
        "recall": each.curve.recall,
        "f_measure": each.curve.f_measure(),
        "constant_masks": each.constant,
        "left_out": each.left_out,
    }


def _plot_curves(scores: list[Scores], path: Path) -> None:
    """Draw precision against recall, and F against the threshold, a line for each set of masks."""
    with plot(path, 10, 4.2, 2) as (left, right):
        for each in scores:
            curve, f = each.curve, each.curve.f_measure()
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
        left.grid(alpha=0.3)
        right.grid(alpha=0.3)
        add_legend(left, 9, loc="lower left")


def _examples(options: Options, photographs: Keys, truths: Masks, scores: list[Scores]) -> Gallery:
    """Photographs below --images with their ground truth and each set's mask.

    The images run from the smallest to the largest mean absolute error of the first set, in even
    steps of rank, so that the picture shows the method's best, usual and worst.
    """
    by_stem = {stem(key): key for key in photographs}
    shared = set.intersection(set(by_stem), *(set(each.images) for each in scores))
    ranked = sorted(shared, key=lambda name: (scores[0].images[name]["mae"], name))
    if not ranked:
        raise UserError(f"--images {options.images} holds none of the images that were scored.")
    positions = np.linspace(0, len(ranked) - 1, min(options.rows, len(ranked))).round().astype(int)
    rows = []
    for name in (ranked[position] for position in positions):
        try:
            photograph = Cell(decode(key_path(options.images, by_stem[name]), 2 * TILE).image)
        except UnreadableImage as reason:
            photograph = Cell(None, str(reason))
        cells = []
        for each in scores:
            mask, truth = load_pair(each.masks, truths, name, options.resize)
            cells.append(Cell(mask, f"MAE {each.images[name]['mae']:.3f}"))
        rows.append(Row(name, [photograph, Cell(truth.astype(np.uint8) * 255), *cells]))
    columns = ["image", "ground truth", *(each.label for each in scores)]
    return Gallery("From the best to the worst mask", [], columns, rows)

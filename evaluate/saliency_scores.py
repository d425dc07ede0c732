"""Scores of saliency masks against ground truth: F, MAE, weighted F, S- and E-measure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from py_sod_metrics import Emeasure, Smeasure, WeightedFmeasure
from tqdm import tqdm

from data.errors import UserError
from data.masks.picture import scale_mask
from data.masks.precision_recall import Curve, normalise, precision_recall
from evaluate.masks import Masks, NoMask, open_masks

GROUND_TRUTH_LEVEL = 128  # ground truth is foreground above this level
RUN = 8  # images that a worker takes at a time


@dataclass(frozen=True)
class ImageScores:
    """One image's scores. precision, recall: (256,) float64. The structure measures may be None."""

    precision: np.ndarray
    recall: np.ndarray
    mae: float
    constant: bool
    weighted_f: float | None = None
    s_measure: float | None = None
    e_curve: np.ndarray | None = None  # (256,)
    e_adaptive: float | None = None


def score_image(saliency: np.ndarray, truth: np.ndarray, structure: bool = True) -> ImageScores:
    """Score one saliency map.

    Parameters
    ----------
    saliency : (h, w) uint8, any range: it is stretched to 0..255 first
    truth : (h, w) bool, with at least one True
    structure : whether to compute weighted F (Margolin et al., CVPR 2014, beta 1), S-measure
        (Fan et al., ICCV 2017, alpha .5) and E-measure (Fan et al., IJCAI 2018), by pysodmetrics

    MAE is the mean of |map / 255 - truth| (Perazzi et al., CVPR 2012).
    """
    saliency = normalise(saliency)
    precision, recall = precision_recall(saliency, truth)
    error = np.where(truth, 255 - saliency, saliency)
    basic = {
        "precision": precision,
        "recall": recall,
        "mae": float(error.mean() / 255),
        "constant": int(saliency.max()) == 0,
    }
    if not structure:
        return ImageScores(**basic)
    values = saliency / 255.0
    weighted, s, e = WeightedFmeasure(), Smeasure(), Emeasure()
    for measure in (weighted, s, e):
        measure.step(values, truth, normalize=False)
    enhanced = e.get_results()["em"]
    return ImageScores(
        **basic,
        weighted_f=float(weighted.get_results()["wfm"]),
        s_measure=float(s.get_results()["sm"]),
        e_curve=np.asarray(enhanced["curve"]),
        e_adaptive=float(enhanced["adp"]),
    )


@dataclass
class Scores:
    """Scores of one set of masks over a data set; `per_image` is in the order of `names`."""

    label: str
    folder: Path
    method: str | None
    names: list[str]
    per_image: list[ImageScores]
    left_out: dict[str, str] = field(default_factory=dict)  # stem: reason

    @property
    def curve(self) -> Curve:
        """Precision and recall averaged over images."""
        return Curve(
            np.mean([score.precision for score in self.per_image], axis=0),
            np.mean([score.recall for score in self.per_image], axis=0),
        )

    @property
    def constant(self) -> list[str]:
        """The images whose mask is constant: nothing stands out, scored as empty."""
        return [
            name for name, score in zip(self.names, self.per_image, strict=True) if score.constant
        ]

    def summary(self) -> dict[str, float | int | None]:
        """The figures of the table; the structure measures are None where not computed."""
        curve, images = self.curve, self.per_image
        structure = images[0].s_measure is not None

        def mean(values: Iterable[float]) -> float | None:
            return float(np.mean(list(values))) if structure else None

        e_curve = np.mean([score.e_curve for score in images], axis=0) if structure else None
        return {
            "images": len(images),
            "max_f": curve.max_f,
            "mean_f": curve.mean_f,
            "mae": float(np.mean([score.mae for score in images])),
            "weighted_f": mean(score.weighted_f for score in images),
            "s_measure": mean(score.s_measure for score in images),
            "mean_e": float(e_curve.mean()) if structure else None,
            "max_e": float(e_curve.max()) if structure else None,
            "adaptive_e": mean(score.e_adaptive for score in images),
        }


def load_pair(masks: Masks, truths: Masks, name: str, resize: bool) -> tuple[np.ndarray, ...]:
    """Read one map and its ground truth at the ground truth's size; `NoMask` says why not.

    A shard's mask is at working resolution and is scaled bilinearly, when the image that it was
    computed from has the ground truth's size. A picture must have that size, unless `resize`.
    """
    truth = truths.read(name).values > GROUND_TRUTH_LEVEL
    if not truth.any():
        raise NoMask("ground truth is empty: no pixel above 128")
    mask = masks.read(name)
    size = mask.image_size or mask.values.shape
    if tuple(size) != truth.shape and not resize:
        what = "mask" if mask.image_size is None else "image"
        raise NoMask(
            f"{what} is {size[1]}x{size[0]}, its ground truth {truth.shape[1]}x{truth.shape[0]}"
        )
    return scale_mask(mask.values, truth.shape), truth


@lru_cache(maxsize=4)
def _opened(folder: Path, argument: str) -> Masks:
    """Open a folder once in each worker: its listing is too long to send with every task."""
    return open_masks(folder, argument)


def _score_some(
    folder: Path, truth_folder: Path, names: list[str], structure: bool, resize: bool
) -> list[ImageScores | str]:
    """Score a few images in a worker; a string is the reason why one cannot be scored."""
    masks, truths = _opened(folder, "MASKS"), _opened(truth_folder, "GROUND_TRUTH")
    outcomes: list[ImageScores | str] = []
    for name in names:
        try:
            pair = load_pair(masks, truths, name, resize)
            outcomes.append(score_image(*pair, structure=structure))
        except NoMask as reason:
            outcomes.append(str(reason))
    return outcomes


def match(masks: Masks, truths: Masks) -> tuple[list[str], dict[str, str]]:
    """Stems that both have, in order, and those that one lacks, with the reason."""
    both = sorted(name for name in truths if name in masks)
    unmatched = {name: "has a ground truth and no mask" for name in truths if name not in masks}
    unmatched |= {name: "has a mask and no ground truth" for name in masks if name not in truths}
    if not both:
        first, second = next(iter(masks)), next(iter(truths))
        raise UserError(
            f"MASKS {masks.folder} and GROUND_TRUTH {truths.folder} have no image in common: "
            f"without suffixes the first is '{first}' there and '{second}' here."
        )
    return both, unmatched


def score_masks(
    folder: str | Path,
    truth_folder: str | Path,
    label: str,
    *,
    structure: bool = True,
    resize: bool = False,
    jobs: int = -1,
    quiet: bool = False,
) -> Scores:
    """Score one folder of masks against a folder of ground-truth pictures, on all cores.

    Images without a partner, with an empty ground truth or of another size are left out, and named
    in `left_out`.
    """
    masks = open_masks(folder, "MASKS")
    truths = open_masks(truth_folder, "GROUND_TRUTH")
    names, left_out = match(masks, truths)
    runs = [names[i : i + RUN] for i in range(0, len(names), RUN)]
    tasks = (
        delayed(_score_some)(masks.folder, truths.folder, run, structure, resize) for run in runs
    )
    scored, per_image = [], []
    with tqdm(total=len(names), desc=label, unit="image", disable=quiet or None) as bar:
        outcomes = Parallel(n_jobs=jobs, return_as="generator")(tasks)
        for run, batch in zip(runs, outcomes, strict=True):
            for name, outcome in zip(run, batch, strict=True):
                if isinstance(outcome, str):
                    left_out[name] = outcome
                else:
                    scored.append(name)
                    per_image.append(outcome)
            bar.update(len(run))
    if not scored:
        name, reason = next(iter(left_out.items()))
        raise UserError(f"MASKS {folder}: none of its masks can be scored; {name} {reason}.")
    return Scores(label, Path(folder), masks.method, scored, per_image, left_out)

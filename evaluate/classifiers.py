"""Classifiers on features: regularised logistic regression (the fast linear probe), weighted kNN.

Features are taken with the test crop, without augmentation, and standardised. The regression
minimises scikit-learn's objective, C * sum of cross-entropies + |W|^2 / 2 with the bias free, by
SciPy's L-BFGS-B; loss and gradient are computed on the device, which is what makes a million
images possible. C is chosen on a part of the training images, and the fit repeated on all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from data.knn import weighted_knn
from evaluate.labelled import hold_out

GRID = tuple(10.0**power for power in range(-6, 3))
HOLDOUT = 0.1
PATIENCE = 2  # falls of the held-out accuracy in a row that end the path
K, TEMPERATURE = 200, 0.07


def top_k(scores: Tensor, labels: Tensor, k: int) -> float | None:
    """Share of rows whose label is among the k largest scores; None where k classes say nothing.

    scores: (N, C); labels: (N,) int64. With C <= k every answer would be right.
    """
    if scores.shape[1] <= k and k > 1:
        return None
    best = scores.topk(k, dim=1).indices
    return float((best == labels.to(best.device)[:, None]).any(1).cpu().double().mean())


@dataclass(frozen=True)
class LogisticRegression:
    """A linear classifier of raw features: logits = features @ weight.T + bias.

    weight: (C, D) float32, bias: (C,) float32; the standardisation is folded into them.
    """

    weight: Tensor
    bias: Tensor
    c: float
    tried: dict[float, float]  # C -> accuracy on the held-out part of the training images

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, C) logits."""
        return features.to(self.weight) @ self.weight.T + self.bias


def minimise(
    features: Tensor, labels: Tensor, classes: int, c: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Fit one logistic regression: (classes, D + 1) float64, the last column the bias.

    features: (N, D) on the device that computes; labels: (N,) int64 there.
    """
    count, dim = features.shape

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.from_numpy(flat.reshape(classes, dim + 1)).to(features)
        weight, bias = values[:, :-1], values[:, -1]
        logits = features @ weight.T + bias
        loss = F.cross_entropy(logits, labels, reduction="sum").cpu().double()  # not on MPS
        slope = logits.softmax(1)
        slope[torch.arange(count, device=labels.device), labels] -= 1
        gradient = torch.cat([slope.T @ features, slope.sum(0)[:, None]], dim=1) * c
        gradient[:, :-1] += weight
        total = c * loss + weight.cpu().double().square().sum() / 2
        # divided by C N, so that the solver's tolerances mean the same for every C and N
        scale = c * count
        return float(total) / scale, gradient.cpu().double().numpy().ravel() / scale

    if start is None:
        start = np.zeros((classes, dim + 1))
    options = {"maxiter": 1000, "maxfun": 2000, "ftol": 1e-9, "gtol": 1e-6}
    result = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return result.x.reshape(classes, dim + 1)


def _is_past(accuracies: list[float], count: int) -> bool:
    """Whether accuracies on `count` images, of one C after the other, are past their maximum.

    Before they have risen by more than two standard errors, falls are those of chance.
    """
    best = max(accuracies)
    risen = best - accuracies[0] > 2 * (best * (1 - best) / count) ** 0.5
    last = accuracies[-PATIENCE - 1 :]
    falls = all(after < before for before, after in itertools.pairwise(last))
    return risen and falls


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> LogisticRegression:
    """Choose C on a held-out tenth of the training images, and fit to all of them.

    The grid is walked from strong regularisation to weak, each fit starting from the one before,
    until the held-out accuracy has risen and then fallen twice in a row.

    features : (N, D) float; labels : (N,) int64 in [0, classes)
    """
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    scaled = ((features - mean) / deviation).to(device, torch.float32)
    labels = labels.to(device)
    kept, held = (torch.from_numpy(rows).to(device) for rows in _split(labels, seed))
    tried: dict[float, float] = {}
    starts: dict[float, np.ndarray] = {}
    coefficients = None
    with tqdm(total=len(GRID) + 1, desc="fit", unit="fit", disable=None) as bar:
        for c in GRID:
            coefficients = minimise(scaled[kept], labels[kept], classes, c, coefficients)
            weight, bias = torch.from_numpy(coefficients).to(scaled).split(scaled.shape[1], dim=1)
            accuracy = top_k(scaled[held] @ weight.T + bias[:, 0], labels[held], 1)
            tried[c], starts[c] = accuracy, coefficients
            bar.update()
            bar.set_postfix_str(f"C {c:g}: {100 * accuracy:.2f} %")
            if _is_past(list(tried.values()), len(held)):
                break
        best = max(tried, key=lambda c: (tried[c], -c))
        coefficients = minimise(scaled, labels, classes, best, starts[best])
        bar.update()
    weight = torch.from_numpy(coefficients[:, :-1]).float() / deviation
    bias = torch.from_numpy(coefficients[:, -1]).float() - weight @ mean
    return LogisticRegression(weight, bias, best, tried)


def _split(labels: Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows to choose C on; a class of a single image stays with the first."""
    values = labels.cpu().numpy()
    counts = np.bincount(values)
    several = np.flatnonzero(counts[values] > 1)
    if not len(several):
        return np.arange(len(values)), np.arange(len(values))
    _, held = hold_out(values[several], HOLDOUT, seed)
    held = several[held]
    return np.setdiff1d(np.arange(len(values)), held), held


def train_classifier(
    kind: str, features: Tensor, labels: Tensor, classes: int, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], dict]:
    """Train a classifier, "linear" or "knn", on features (N, D) and labels (N,) int64.

    Returns features (M, D) -> scores (M, C) in host memory, and what a result says about it.
    """
    if kind == "linear":
        regression = fit(features, labels, classes, device=device)
        return regression, {"kind": "linear", "protocol": "fast", "c": regression.c}
    k = min(K, len(labels))

    def vote(queries: Tensor) -> Tensor:
        return weighted_knn(features, labels, queries, k, TEMPERATURE, classes, device=device).cpu()

    return vote, {"kind": "knn", "k": k, "temperature": TEMPERATURE}

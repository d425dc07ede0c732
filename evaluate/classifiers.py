"""Classifiers that are trained on features in moments: logistic regression, and weighted kNN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from data.knn import weighted_knn
from evaluate.fast_linear import LogisticRegression, fit

K, TEMPERATURE = 200, 0.07


@dataclass
class LinearClassifier:
    """Logistic regression on the features: see `evaluate.fast_linear`."""

    regression: LogisticRegression

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, C) logits."""
        return self.regression(features)

    def describe(self) -> dict:
        """What a result says about it."""
        return {"kind": "linear", "protocol": "fast", "c": self.regression.c}


@dataclass
class KnnClassifier:
    """Weighted kNN in the training features: see `data.knn`."""

    bank: Tensor
    labels: Tensor
    classes: int
    k: int
    device: torch.device

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, C) votes."""
        return weighted_knn(
            self.bank,
            self.labels,
            features,
            self.k,
            TEMPERATURE,
            self.classes,
            device=self.device,
        ).cpu()

    def describe(self) -> dict:
        """What a result says about it."""
        return {"kind": "knn", "k": self.k, "temperature": TEMPERATURE}


def train_classifier(
    kind: str, features: Tensor, labels: Tensor, classes: int, device: torch.device
) -> LinearClassifier | KnnClassifier:
    """Train a classifier on features (N, D) and labels (N,) int64; k is at most N."""
    if kind == "linear":
        return LinearClassifier(fit(features, labels, classes, device=device))
    return KnnClassifier(features, labels, classes, min(K, len(labels)), device)

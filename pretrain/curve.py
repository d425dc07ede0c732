"""The picture of a run: its loss, and its kNN accuracy where there are labels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from data.gallery.plots import plot
from data.metrics import read_metrics


def draw_curve(metrics: Path, picture: Path, title: str, chance_loss: float | None = None) -> None:
    """Draw metrics.jsonl as a PNG.

    chance_loss : the loss of a network that knows nothing; a dashed line.
    """
    lines = read_metrics(metrics)
    steps = np.array([line["step"] for line in lines if "loss" in line])
    losses = np.array([line["loss"] for line in lines if "loss" in line])
    if not len(steps):
        return
    with plot(picture, 8, 4.5, dpi=120) as (axes,):
        axes.plot(steps, losses, color="#9ecae1", linewidth=0.6)
        width = max(1, len(losses) // 50)
        label = "loss" if width == 1 else f"loss, mean of {width} steps"
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color="#08519c", label=label)
        if chance_loss is not None:
            label = f"a network that knows nothing: {chance_loss:.2f}"
            axes.axhline(chance_loss, color="gray", linestyle="--", linewidth=1, label=label)
        axes.set(xlabel="step", ylabel="loss [nats]", title=title)
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        knn = [(line["step"], 100 * line["knn"]) for line in lines if "knn" in line]
        if knn:
            right = axes.twinx()
            right.plot(
                *zip(*knn, strict=True), "o-", color="#d94801", markersize=4, label="kNN top-1"
            )
            right.set(
                ylabel="kNN top-1 [%]", ylim=(0, max(10, math.ceil(max(y for _, y in knn) * 1.2)))
            )
            more, names = right.get_legend_handles_labels()
            handles, labels = handles + more, labels + names
        below = {"loc": "outside lower center", "ncols": len(handles)}  # off the lines
        axes.figure.legend(handles, labels, **below)

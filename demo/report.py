"""The end of the journey: one small table, as text, Markdown and JSON, and one page of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from data.gallery import Figure, Gallery

FIGURES = (  # the path is below the folder
    Figure(
        "The pictures and their masks",
        "objects.png",
        "Image, RBD's mask, and the foreground on gray.",
        "objects.html",
    ),
    Figure(
        "What the model with copy-paste is shown",
        "runs/with/views.png",
        "Half of the views have another background, so that it cannot tell images by it.",
    ),
    Figure(
        "Nearest neighbours",
        "probes/neighbors/neighbors.png",
        "Queries on backgrounds that were never seen, and the nearest training images. Green: the "
        "same class.",
        "probes/neighbors/index.html",
    ),
    Figure(
        "Where the models look",
        "probes/gradients/gradients.png",
        "Bright: a small change of the pixel moves the score of the image's class.",
        "probes/gradients/index.html",
    ),
    Figure(
        "How much of it falls on the object",
        "probes/gradients/shares.png",
        "The share of the gradient's energy inside the true mask, over the test images.",
    ),
    Figure(
        "Accuracy with the background swapped",
        "probes/robustness/accuracies.png",
        "The classifier learnt on original images, where each class has a usual background.",
    ),
    Figure(
        "The swapped backgrounds",
        "probes/robustness/variants.png",
        "One row an image, one column a variant.",
    ),
    Figure(
        "Training without copy-paste", "runs/without/curve.png", "Loss, and kNN on training images."
    ),
    Figure("Training with copy-paste", "runs/with/curve.png", "The same."),
)


def write_report(out: Path, models: Sequence[str], images: tuple[int, int]) -> str:
    """Write results.json, results.md and index.html of the probes below `out`; return the table.

    Parameters
    ----------
    models : their names, as the probes know them.
    images : so many to train on, and to be judged on.
    """
    rows = read_figures(out / "probes", models)
    titles = [f"{name} copy-paste" for name in models]
    cells = [
        [row["figure"], *("" if row[name] is None else f"{100 * row[name]:.1f}" for name in models)]
        for row in rows
    ]
    heads = ["%", *titles]
    align = {"headers": heads, "disable_numparse": True, "colalign": ("left", "right", "right")}
    (out / "results.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n", "utf-8")
    markdown = tabulate(cells, tablefmt="github", **align)
    (out / "results.md").write_text(markdown + "\n", "utf-8")
    _page(out, heads, cells, images).save_html(out / "index.html")
    return tabulate(cells, **align)


def read_figures(probes: Path, models: Sequence[str]) -> list[dict]:
    """Return the table's rows: what was measured, and each model's share of 1."""

    def read(name: str) -> dict:
        return json.loads((probes / name / "results.json").read_text("utf-8"))

    knn = read("knn")["rows"]
    nearest = {result["label"]: result for result in knn}
    swapped = {result["label"]: result for result in read("robustness")["rows"]}
    looked = {model["label"]: model["ground_truth"] for model in read("gradients")["models"]}
    near = {model["label"]: model["right_share"] for model in read("neighbors")["models"]}
    linear = {name: read(f"linear-{name}")["top1"] for name in models}

    def row(figure: str, values: dict[str, float]) -> dict:
        return {"figure": figure, **{name: values[name] for name in models}}

    def column(source: dict, *path: str) -> dict[str, float]:
        values = {}
        for name in models:
            value = source[name]
            for step in path:
                value = value[step]
            values[name] = value
        return values

    k = knn[0]["k"]
    return [
        row(f"kNN top-1 on unseen backgrounds (k {k})", column(nearest, "top1")),
        row("linear top-1 on unseen backgrounds", linear),
        row("five nearest neighbours of the right class", near),
        row("top-1, background of the same class (a)", column(swapped, "accuracy", "mixed_same")),
        row("top-1, background of a random class (b)", column(swapped, "accuracy", "mixed_rand")),
        row("background gap, a - b: less is better", column(swapped, "background_gap")),
        row("gradient energy on the object", column(looked, "share_inside")),
    ]


def _page(
    out: Path, heads: Sequence[str], cells: Sequence[Sequence[str]], images: tuple[int, int]
) -> Gallery:
    """Return the page; it shows pictures below `out` by their paths."""
    text = (
        f"Two networks learnt from the same {images[0]} pictures, without labels, from the same "
        "seed and with the same settings, but that one was shown half of its views with the "
        "foreground pasted on another background. In the training pictures each class has a usual "
        f"background. The {images[1]} test pictures lie on backgrounds from photographs that were "
        "never seen, and these say nothing about the class."
    )
    table = [dict(zip(heads, row, strict=True)) for row in cells]
    figures = [figure for figure in FIGURES if (out / figure.png).exists()]
    return Gallery("Does it look at the object?", [text], [], table=table, figures=figures)

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
        "What explains the features",
        "probes/foreground/fractions.png",
        "Every object of some test images was pasted on every background of others. Bars: what the "
        "background, the object and their combination explain of the features' variance. Points: "
        "how often the same object elsewhere is nearer than another object on the same background.",
        "probes/foreground/index.html",
    ),
    Figure(
        "Nearest neighbours",
        "probes/neighbors/neighbors.png",
        "Queries on backgrounds that were never seen, and the nearest training images. Green: the "
        "same class.",
        "probes/neighbors/index.html",
    ),
    Figure(
        "Class gradients",
        "probes/gradients/gradients.png",
        "Bright: a small change of the pixel moves the score of the image's class. An untrained "
        "network's lie on the object, too: these pictures rank no models.",
        "probes/gradients/index.html",
    ),
    Figure(
        "Accuracy with the background swapped",
        "probes/robustness/accuracies.png",
        "Here each class has a usual background, in the images the classifier learns from and is "
        "tested on; the gap is what it is worth.",
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


COLUMNS = {
    "without": "without copy-paste", "with": "with copy-paste", "untrained": "untrained network"
}  # fmt: skip


def write_report(out: Path, images: tuple[int, int]) -> str:
    """Write results.json, results.md and index.html of the probes below `out`.

    images : so many to train on, and to be judged on.

    Returns what the terminal shows: the headline and the table.
    """
    rows = read_figures(out / "probes")
    headline = _headline(rows[0])
    cells = [
        [row["figure"], *(_cell(row[name], row["intervals"].get(name)) for name in COLUMNS)]
        for row in rows
    ]
    heads = ["%", *COLUMNS.values()]
    align = {"headers": heads, "disable_numparse": True, "colalign": ("left", *["right"] * 3)}
    content = {"headline": headline, "rows": rows}
    (out / "results.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    markdown = tabulate(cells, tablefmt="github", **align)
    (out / "results.md").write_text(f"{headline}\n\n{markdown}\n", "utf-8")
    _page(headline, out, heads, cells, images).save_html(out / "index.html")
    return f"{headline}\n\n{tabulate(cells, **align)}"


def _headline(row: dict) -> str:
    shares = {name: f"{100 * row[name]:.1f}%" for name in COLUMNS}
    return (
        f"The background explains {shares['without']} of the features without copy-paste, "
        f"{shares['with']} with it, and {shares['untrained']} of an untrained network's."
    )


def _cell(value: float, interval: list[float] | None) -> str:
    shown = f"{100 * value:.1f}"
    return shown + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def read_figures(probes: Path) -> list[dict]:
    """Return the table's rows: what was measured, each network's share of 1, and intervals."""

    def read(name: str) -> dict:
        return json.loads((probes / name / "results.json").read_text("utf-8"))

    def row(figure: str, results: dict[str, dict], key: str) -> dict:
        values = {name: results[name][key] for name in COLUMNS}
        intervals = {name: results[name][f"{key}_interval"] for name in COLUMNS}
        return {"figure": figure, **values, "intervals": intervals}

    explained = {
        result["label"]: {
            key: part
            for name in ("background", "object", "abx")
            for key, part in (
                (name, result[name]["value"]),
                (f"{name}_interval", [result[name]["low"], result[name]["high"]]),
            )
        }
        for result in read("foreground")["rows"]
    }
    linear, nearest, swapped = (
        {result["label"]: result for result in read(name)["rows"]}
        for name in ("linear", "knn", "robustness")
    )
    return [
        row("of the features, what the background explains", explained, "background"),
        row("of the features, what the object explains", explained, "object"),
        row("ABX: the same object is nearer than the same background", explained, "abx"),
        row("linear top-1 on unseen backgrounds", linear, "top1"),
        row(f"kNN top-1 on unseen backgrounds (k {nearest['with']['k']})", nearest, "top1"),
        row("background gap where classes have usual backgrounds", swapped, "background_gap"),
    ]


def _page(
    headline: str,
    out: Path,
    heads: Sequence[str],
    cells: Sequence[Sequence[str]],
    images: tuple[int, int],
) -> Gallery:
    """Return the page; it shows pictures below `out` by their paths."""
    text = (
        f"Two networks learnt from the same {images[0]} pictures, without labels, from the same "
        "seed and with the same settings, but that one was shown half of its views with the "
        "foreground pasted on another background. All classes share the same backgrounds in the "
        f"training pictures; the {images[1]} test pictures lie on backgrounds from photographs "
        "that were never seen. Brackets: 95 % intervals over test images. One seed of the "
        "training: docs/results.md has several."
    )
    table = [dict(zip(heads, row, strict=True)) for row in cells]
    figures = [figure for figure in FIGURES if (out / figure.png).exists()]
    return Gallery(
        "Does it look at the object?", [headline, text], [], table=table, figures=figures
    )

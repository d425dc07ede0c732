"""The end of the journey: one small table, as text, Markdown and JSON, and one page of pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

PICTURES = (  # path below the folder, its heading, and what to see in it; {} is the second model
    (
        "objects.png",
        "The pictures and their masks",
        "Image, RBD's mask, and the foreground on gray.",
    ),
    (
        "runs/with/views.png",
        "What the model with copy-paste is shown",
        "Half of the views have another background, so that it cannot tell images by it.",
    ),
    (
        "probes/neighbors/neighbors.png",
        "Nearest neighbours",
        "Queries on backgrounds that were never seen, and the nearest training images. Green: the "
        'same class. <a href="probes/neighbors/index.html">More of them</a>',
    ),
    (
        "probes/gradients/gradients.png",
        "Where the models look",
        "Bright: a small change of the pixel moves the score of the image's class. "
        '<a href="probes/gradients/index.html">More of them</a>',
    ),
    (
        "probes/gradients/shares.png",
        "How much of it falls on the object",
        "The share of the gradient's energy inside the true mask, over the test images.",
    ),
    (
        "probes/robustness/accuracies.png",
        "Accuracy with the background swapped",
        "The classifier learnt on original images, where each class has a usual background.",
    ),
    (
        "probes/robustness/variants.png",
        "The swapped backgrounds",
        "One row an image, one column a variant.",
    ),
    ("runs/without/curve.png", "Training without copy-paste", "Loss, and kNN on training images."),
    ("runs/with/curve.png", "Training with copy-paste", "The same."),
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
    (out / "index.html").write_text(_page(out, heads, cells, images), "utf-8")
    return tabulate(cells, **align)


def read_figures(probes: Path, models: Sequence[str]) -> list[dict]:
    """Return the table's rows: what was measured, and each model's share of 1."""

    def read(name: str) -> dict:
        return json.loads((probes / name / "results.json").read_text("utf-8"))

    knn = read("knn")["rows"]
    found = {one["label"]: one for one in knn}
    swapped = {one["label"]: one for one in read("robustness")["rows"]}
    looked = {one["label"]: one["ground_truth"] for one in read("gradients")["models"]}
    near = {one["label"]: one["right_share"] for one in read("neighbors")["models"]}
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
        row(f"kNN top-1 on unseen backgrounds (k {k})", column(found, "top1")),
        row("linear top-1 on unseen backgrounds", linear),
        row("five nearest neighbours of the right class", near),
        row("top-1, background of the same class (a)", column(swapped, "accuracy", "mixed_same")),
        row("top-1, background of a random class (b)", column(swapped, "accuracy", "mixed_rand")),
        row("background gap, a - b: less is better", column(swapped, "background_gap")),
        row("gradient energy on the object", column(looked, "share_inside")),
    ]


def _page(
    out: Path, heads: Sequence[str], cells: Sequence[Sequence[str]], images: tuple[int, int]
) -> str:
    """Return the page's text; it shows pictures below `out` by their paths."""
    pictures = "".join(
        f'<h2>{title}</h2><p>{text}</p><a href="{path}"><img src="{path}" alt="{title}"></a>'
        for path, title, text in PICTURES
        if (out / path).exists()
    )
    table = "".join(
        "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row) + "</tr>"
        for kind, row in [("th", heads), *(("td", row) for row in cells)]
    )
    return _PAGE.format(table=table, pictures=pictures, train=images[0], val=images[1])


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Does it look at the object?</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
  color: #222; background: #fff; }}
p {{ max-width: 46rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .25rem 1.5rem .25rem 0; text-align: right;
  font-variant-numeric: tabular-nums; }}
td:first-child, th:first-child {{ text-align: left; }}
img {{ max-width: 100%; height: auto; border: 1px solid #eee; }}
</style></head><body>
<h1>Does it look at the object?</h1>
<p>Two networks learnt from the same {train} pictures, without labels, from the same seed and with
the same settings, but that one was shown half of its views with the foreground pasted on another
background. In the training pictures each class has a usual background. The {val} test pictures lie
on backgrounds from photographs that were never seen, and these say nothing about the class.</p>
<table>{table}</table>
{pictures}
</body></html>
"""

"""What detectors see: images with boxes, curves of precision and recall, bars of AP, losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from data.gallery import Cell, Figure, Row
from data.gallery.plots import add_legend, plot
from data.images.decode import decode
from data.metrics import read_metrics
from evaluate.detection.annotated import Annotated, Detections, Objects
from evaluate.detection.coco import draw_outline
from evaluate.detection.scores import Scores
from evaluate.results import Results

SHOWN = 12  # images
LONG_SIDE = 500  # of a picture that boxes are drawn into
TRUE, RIGHT, WRONG = (255, 214, 10), (48, 209, 88), (255, 69, 58)  # RGB
A_ROW = 5  # classes in a row of curves


def rows(images: Annotated, answers: Mapping[str, Sequence[Detections]]) -> list[Row]:
    """Rows of the truth and of each detector's answers, spread over the images with objects."""
    with_objects = [row for row, objects in enumerate(images.objects) if len(objects)]
    chosen = np.linspace(0, len(with_objects) - 1, min(SHOWN, len(with_objects))).round()
    shown = []
    for row in (with_objects[int(number)] for number in chosen):
        picture, objects = decode(images.paths[row], LONG_SIDE).image, images.objects[row]
        scale = picture.shape[1] / images.sizes[row][1]
        names = [images.classes[label - 1] for label in objects.labels]
        colours, size = [TRUE] * len(names), images.sizes[row]
        tinted = _tinted(picture, objects.outlines, size, colours)
        cells = [
            Cell(_drawn(tinted, objects.boxes * scale, names, colours), f"objects: {len(names)}")
        ]
        for found in answers.values():
            cells.append(_answer(picture, size, found[row], objects, images.classes))
        shown.append(Row(images.names[row], cells))
    return shown


def _answer(
    picture: np.ndarray,
    size: tuple[int, int],
    found: Detections,
    objects: Objects,
    classes: Sequence[str],
) -> Cell:
    best = np.argsort(-found.scores, kind="stable")[: len(objects)]
    right = meets(found, objects)[best]
    names = [
        f"{classes[label - 1]} {score:.2f}"
        for label, score in zip(found.labels[best], found.scores[best], strict=True)
    ]
    colours = [RIGHT if hit else WRONG for hit in right]
    outlines = [found.outlines[row] for row in best] if found.outlines else []
    tinted = _tinted(picture, outlines, size, colours)
    drawn = _drawn(tinted, found.boxes[best] * picture.shape[1] / size[1], names, colours)
    return Cell(drawn, f"{int(right.sum())} of {len(objects)}")


def meets(found: Detections, objects: Objects) -> np.ndarray:
    """Return which detections overlap an object of their class with an IoU over .5, bool (N,)."""
    ious = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(objects.boxes)).numpy()
    return ((ious > 0.5) & (found.labels[:, None] == objects.labels[None])).any(1)


def _tinted(
    picture: np.ndarray, outlines: Sequence, size: tuple[int, int], colours: Sequence[tuple]
) -> np.ndarray:
    """Return a copy with masks in colours; `size` is of the image that they outline."""
    picture = picture.copy()
    for outline, colour in zip(outlines, colours, strict=False):
        if not outline:
            continue
        mask = draw_outline(outline, size, picture.shape[:2]) > 0
        picture[mask] = (0.6 * picture[mask] + 0.4 * np.array(colour)).astype(np.uint8)
    return picture


def _drawn(
    picture: np.ndarray, boxes: np.ndarray, names: Sequence[str], colours: Sequence[tuple]
) -> np.ndarray:
    """Return a copy with boxes (N, 4) and their names."""
    picture = picture.copy()
    for box, name, colour in reversed(list(zip(boxes, names, colours, strict=True))):
        x1, y1, x2, y2 = (int(side) for side in box.round())
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, 2)
        (width, height), _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        x1, y1 = min(x1, picture.shape[1] - width - 3), min(y1, picture.shape[0] - height - 7)
        cv2.rectangle(picture, (x1, y1), (x1 + width + 3, y1 + height + 6), colour, -1)
        at = (x1 + 2, y1 + height + 3)
        cv2.putText(picture, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def figures(
    scores: Mapping[str, Sequence[Scores]], folders: Mapping[str, Sequence[Path]], results: Results
) -> list[Figure]:
    """Plots of all networks: AP of each class (means over runs), curves of the first run, losses.

    scores, folders : of each network, of each of its runs
    results : whose folder gets the plots, too
    """
    first = {label: runs[0] for label, runs in scores.items()}
    names = list(next(iter(first.values())).classes)
    bars, losses = results.path("classes.png"), results.path("losses.png")
    _bars(bars, scores, names)
    _losses(losses, folders)
    plots = [("AP50 of each class", bars), ("Loss of training, first run", losses)]
    for start in range(0, len(names), A_ROW):
        curves = results.path(f"curves-{start // A_ROW + 1}.png")
        _curves(curves, first, names[start : start + A_ROW])
        plots.append(("" if start else "Precision over recall at an IoU of .5", curves))
    return [Figure(title, path.read_bytes()) for title, path in plots]


def _bars(path: Path, scores: Mapping[str, Sequence[Scores]], names: Sequence[str]) -> None:
    width = 0.8 / len(scores)
    with plot(path, min(24, max(6, 0.55 * len(names))), 4, dpi=110) as (axes,):
        for number, (label, runs) in enumerate(scores.items()):
            at = np.arange(len(names)) + (number - (len(scores) - 1) / 2) * width
            values = [[100 * run.classes[name]["ap50"] for run in runs] for name in names]
            axes.bar(at, np.mean(values, axis=1), width, yerr=np.std(values, axis=1), label=label)
        axes.set_xticks(np.arange(len(names)), names, fontsize=8, rotation=45, ha="right")
        axes.set(ylabel="AP50 %", ylim=(0, None))
        add_legend(axes, 8)


def _losses(path: Path, folders: Mapping[str, Sequence[Path]]) -> None:
    with plot(path, 7, 3.5, dpi=110) as (axes,):
        for label, of_label in folders.items():
            lines = read_metrics(of_label[0] / "metrics.jsonl")
            size = max(1, len(lines) // 50)  # means over parts, of which there are about fifty
            parts = [lines[start : start + size] for start in range(0, len(lines), size)]
            steps = [np.mean([line["step"] for line in part]) for part in parts]
            axes.plot(
                steps, [np.mean([line["loss"] for line in part]) for part in parts], label=label
            )
        axes.set(xlabel="step", ylabel="loss")
        add_legend(axes, 8)


def _curves(path: Path, scores: Mapping[str, Scores], names: Sequence[str]) -> None:
    with plot(path, 2.3 * A_ROW, 2.3, A_ROW, dpi=110) as axes:
        for name, own in zip(names, axes, strict=False):
            for label, score in scores.items():
                recall, precision = score.curves[name]
                own.plot(recall, precision, label=label)
            own.set_title(name, fontsize=9)
            own.set(xlim=(0, 1), ylim=(0, 1.02))
        for own in axes[len(names) :]:
            own.set_axis_off()
        add_legend(axes[0], 6)

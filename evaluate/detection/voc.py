"""PASCAL VOC as it is unpacked: JPEGImages, Annotations, ImageSets/Main."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np

from data.errors import UserError
from evaluate.detection.annotated import (
    Annotated,
    Objects,
    check_box,
    check_images,
    read_annotations,
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
LARGEST = 1 << 20  # bytes of an annotation; VOC's have some thousands
LARGEST_LIST = 1 << 26


def read_voc(root: Path, years: tuple[str, ...], split: str) -> Annotated:
    """Read a split, such as ("2007", "2012") and "trainval".

    root : VOCdevkit with a folder VOC<year> for each, or such a folder itself, for any one year.

    UserError: a file is missing or malformed, an image is not there, a class is none of the twenty,
    a box lies outside its picture.
    """
    own = root / "ImageSets" / "Main"
    if own.is_dir() and len(years) > 1:
        raise UserError(
            f"DATA {root} is one year of VOC; for {' and '.join(years)} give VOCdevkit, which "
            "holds both."
        )
    folders = [root] if own.is_dir() else [root / f"VOC{year}" for year in years]
    names, paths, ids, sizes, objects = [], [], [], [], []
    for folder in folders:
        listed = folder / "ImageSets" / "Main" / f"{split}.txt"
        if not listed.is_file():
            raise UserError(
                f"DATA {root} has no {listed.relative_to(root)}; give VOCdevkit, or a folder with "
                "JPEGImages, Annotations and ImageSets/Main."
            )
        for name in _names(listed):
            size, own_objects = read_annotation(folder / "Annotations" / f"{name}.xml")
            ids.append(name)
            names.append(f"{folder.name}/{name}" if len(folders) > 1 else name)
            paths.append(folder / "JPEGImages" / f"{name}.jpg")
            sizes.append(size)
            objects.append(own_objects)
        check_images(paths, listed)
    numbers = tuple(range(1, len(CLASSES) + 1))
    return Annotated(names, paths, ids, sizes, objects, CLASSES, listed, numbers)


def _names(listed: Path) -> list[str]:
    try:
        text = read_annotations(listed, LARGEST_LIST).decode("utf-8-sig")
        names = [line.split()[0] for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError:
        names = []
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"{listed} lists the image {twice!r} twice; mend it.")
    for name in names:
        if "/" in name or name.startswith("."):
            raise UserError(f"{listed}: {name!r} is no name of an image; VOC's are as 000005.")
    if not names:
        raise UserError(f"{listed} names no image; VOC's has one a line, as 000005.")
    return names


class _Builder(ET.TreeBuilder):
    """Refuses declarations of entities, of which a small file can make gigabytes."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, as no annotation of VOC does")


def read_annotation(path: Path) -> tuple[tuple[int, int], Objects]:
    """Return height and width of the image, and its objects; as detectron2, x1 and y1 less by 1."""
    try:
        tree = ET.fromstring(read_annotations(path, LARGEST), ET.XMLParser(target=_Builder()))
        width, height = (int(_text(tree, f"size/{side}")) for side in ("width", "height"))
        if min(width, height) < 1:
            raise ValueError(f"its size is {width} x {height}")
        rows = [_object(element, (height, width), path) for element in tree.iter("object")]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; each image of a list has an annotation.") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path} is no annotation of VOC: {error}; mend or replace it.") from None
    boxes = np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4)
    labels = np.array([label for _, label, _ in rows], np.int64)
    return (height, width), Objects(boxes, labels, np.array([hard for *_, hard in rows], bool))


def _object(element: ET.Element, size: tuple[int, int], path: Path) -> tuple[np.ndarray, int, bool]:
    name = _text(element, "name").strip()
    if name not in CLASSES:
        raise UserError(f"{path}: {name!r} is none of VOC's classes, {', '.join(CLASSES)}.")
    sides = [float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
    box = check_box(np.array(sides) - (1, 1, 0, 0), size, str(path))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"the box {', '.join(f'{side:g}' for side in sides)} is empty")
    difficult = element.findtext("difficult", "0").strip()
    return box, CLASSES.index(name) + 1, difficult not in ("", "0")


def _text(element: ET.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"it lacks <{path.replace('/', '><')}>")
    return text

"""COCO as it is unpacked: annotations/instances_*.json, and folders of images; its masks."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from evaluate.detection.annotated import (
    Annotated,
    Objects,
    check_box,
    check_images,
    read_annotations,
)

LARGEST = 2 << 30  # bytes; train2017's has 450 million

FOLDERS = (
    "{split}",
    "images/{split}",
    "JPEGImages",
    "images",
)  # of images, the first that is there


def read_coco(root: Path, split: str, masks: bool = True) -> Annotated:
    """Read a split, such as "train2017".

    Crowds are `ignored`. Boxes without an area, of which COCO has a few, are left out and noted.

    masks : refuse objects that have none

    UserError: a file is missing or malformed, an image is not there, an annotation names an image
    or a class that is not listed, a box lies outside its picture.
    """
    path = root / "annotations" / f"instances_{split}.json"
    if not path.is_file():
        raise UserError(f"DATA {root} has no {path.relative_to(root)}; give COCO's folder.")
    content = _content(path)
    folders = [root / name.format(split=split) for name in FOLDERS]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    try:
        images = sorted(content["images"], key=lambda image: image["id"])
        categories = sorted(content["categories"], key=lambda category: category["id"])
        numbers = {category["id"]: row for row, category in enumerate(categories, start=1)}
        classes = tuple(str(category["name"]) for category in categories)
        names = [str(image["file_name"]) for image in images]
        ids = [int(image["id"]) for image in images]
        sizes = [(int(image["height"]), int(image["width"])) for image in images]
        _check_listed(path, image=ids, category=[c["id"] for c in categories], name=classes)
        objects, empty = _objects(content["annotations"], ids, sizes, numbers, path, masks)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is no file of COCO's instances: {_reason(error)}.") from None
    paths = [folder / name for name in names]
    for name in names:
        if not (parts := Path(name).parts) or parts[0] == "/" or ".." in parts:
            raise UserError(f"{path}: the image {name!r} lies outside {folder}; mend it.")
    check_images(paths, path)
    notes = [f"{path}: {empty} boxes without an area are left out."] if empty else []
    return Annotated(names, paths, ids, sizes, objects, classes, path, tuple(numbers), notes)


def _check_listed(path: Path, **columns: Sequence) -> None:
    """Refuse a file that lists nothing of a kind, or the same twice."""
    for what, values in columns.items():
        if len(set(values)) != len(values) or not values:
            text = f"the same {what} twice" if values else f"no {what}"
            raise UserError(f"{path} lists {text}; mend it.")


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_annotations(path, LARGEST).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}; unpack it again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no file of COCO's instances: it holds no object.")
    return content


def _reason(error: Exception) -> str:
    return f"it lacks {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def _objects(
    annotations: list[dict], ids: list[int], sizes: list, numbers: dict, path: Path, masks: bool
) -> tuple[list[Objects], int]:
    """Return the objects of each image, and how many boxes have no area."""
    row_of = {number: row for row, number in enumerate(ids)}
    rows, empty = defaultdict(list), 0
    for annotation in annotations:
        where = f"{path}: annotation {annotation['id']}"
        if annotation["image_id"] not in row_of:
            raise UserError(f"{where} is of image {annotation['image_id']!r}, which is not listed.")
        if annotation["category_id"] not in numbers:
            raise UserError(
                f"{where} is of class {annotation['category_id']!r}, which is not listed."
            )
        row, crowd = row_of[annotation["image_id"]], annotation.get("iscrowd", 0)
        if crowd not in (0, 1) or not math.isfinite(annotation["area"]):
            raise UserError(f"{where}: iscrowd is 0 or 1, and area a number; mend it.")
        x, y, width, height = map(float, annotation["bbox"])
        box = check_box(np.array([x, y, x + width, y + height]), sizes[row], where)
        if min(box[2] - box[0], box[3] - box[1]) <= 0:
            empty += 1
            continue
        outline = annotation.get("segmentation")
        if masks and not outline and not crowd:
            raise UserError(f"{where} has no segmentation, which Mask R-CNN learns from.")
        if masks and not is_outline(outline, sizes[row]):
            raise UserError(f"{where} has a segmentation that is none of its image; mend it.")
        rows[row].append((box, numbers[annotation["category_id"]], bool(crowd), outline))
    return [_of_image(rows[row]) for row in range(len(ids))], empty


def _of_image(rows: list[tuple]) -> Objects:
    boxes = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
    labels = np.array([row[1] for row in rows], np.int64)
    return Objects(boxes, labels, np.array([row[2] for row in rows], bool), [r[3] for r in rows])


def load_truth(path: Path) -> Any:
    """Return a file that `read_coco` took as pycocotools' `COCO`, which by itself is stricter.

    Annotations are numbered anew, from 1 on: to it, 0 means none.
    """
    from pycocotools.coco import COCO

    truth, content = COCO(), _content(path)
    rows = enumerate(content["annotations"], start=1)
    content["annotations"] = [{"iscrowd": 0, **row, "id": number} for number, row in rows]
    truth.dataset = content
    truth.createIndex()
    return truth


# ---- masks ---------------------------------------------------------------------------------------


def is_outline(outline: Any, size: tuple[int, int]) -> bool:
    """Whether a segmentation is one of an image of this height and width.

    pycocotools trusts polygons and run lengths, and writes beyond its memory by others.
    """
    height, width = size
    if isinstance(outline, dict):
        counts = outline.get("counts")
        counts = _run_lengths(counts) if isinstance(counts, str) else counts
        whole = isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts)
        return whole and outline.get("size") == [height, width] and sum(counts) == height * width
    if not isinstance(outline, list) or not outline:
        return False
    for polygon in outline:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return False
        if not all(type(value) in (int, float) for value in polygon):
            return False
        limits = (width, height) * (len(polygon) // 2)  # drawn by hand, they exceed it somewhat
        if not all(-side <= v <= 2 * side for v, side in zip(polygon, limits, strict=True)):
            return False
    return True


def _run_lengths(text: str) -> list[int]:
    """Decode COCO's run lengths: base 32 with a sign, and from the fourth on differences."""
    counts, value, shift = [], 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            return [-1]
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) and 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return [-1] if shift else counts


def draw_outline(outline: Any, size: tuple[int, int], scaled: tuple[int, int]) -> np.ndarray:
    """Return a segmentation as a mask, uint8 (h, w) in {0, 1}.

    outline : polygons, run lengths or encoded run lengths, of an image of `size`
    scaled : height and width of the mask
    """
    import cv2
    from pycocotools import mask

    (height, width), (h, w) = size, scaled
    if isinstance(outline, list):
        factors = np.tile([w / width, h / height], 2 * len(max(outline, key=len)))
        polygons = [(np.array(p) * factors[: len(p)]).tolist() for p in outline]
        return mask.decode(mask.merge(mask.frPyObjects(polygons, h, w)))
    if isinstance(outline["counts"], list):
        outline = mask.frPyObjects(outline, height, width)
    return cv2.resize(mask.decode(outline), (w, h), interpolation=cv2.INTER_NEAREST)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask, bool (h, w), run-length encoded in COCO's form, for JSON."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode("ascii")}

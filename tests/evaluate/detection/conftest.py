"""A small VOCdevkit and a small COCO: coloured squares on gray noise."""

import json

import numpy as np
import pytest

COLOURS = {"bird": (220, 60, 40), "car": (40, 90, 220), "dog": (60, 200, 70)}
XML = """<annotation><filename>{name}.jpg</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>
<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"""


def draw(rng, size=(48, 64)):
    """A picture and its objects (name, x, y, w, h): one or two squares, which may overlap."""
    picture = rng.integers(90, 150, (*size, 3)).astype(np.uint8)
    objects = []
    for _ in range(rng.integers(1, 3)):
        name = str(rng.choice(list(COLOURS)))
        side = int(rng.integers(16, 30))
        x, y = (int(rng.integers(0, limit - side)) for limit in size[::-1])
        picture[y : y + side, x : x + side] = COLOURS[name]
        objects.append((name, x, y, side, side))
    return picture, objects


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """VOCdevkit/VOC2007 with 8 images to train on and 4 to test."""
    from PIL import Image

    root = tmp_path_factory.mktemp("voc") / "VOCdevkit"
    folder = root / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("trainval", 8), ("test", 4)):
        names = [f"{split[0]}{number:05d}" for number in range(count)]
        for name in names:
            picture, objects = draw(rng)
            Image.fromarray(picture).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            text = "".join(
                OBJECT.format(name=n, difficult=0, x1=x + 1, y1=y + 1, x2=x + w, y2=y + h)
                for n, x, y, w, h in objects
            )
            xml = XML.format(name=name, width=64, height=48, objects=text)
            (folder / "Annotations" / f"{name}.xml").write_text(xml)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    """annotations/instances_*2017.json, train2017 (8 images) and val2017 (4), with a crowd."""
    from PIL import Image

    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    rng, number = np.random.default_rng(1), 1
    categories = [{"id": 3 * i + 1, "name": name} for i, name in enumerate(COLOURS)]
    ids = {category["name"]: category["id"] for category in categories}
    for split, count in (("train2017", 8), ("val2017", 4)):
        (root / split).mkdir()
        images, annotations = [], []
        for row in range(count):
            picture, objects = draw(rng)
            name = f"{number:012d}.png"
            Image.fromarray(picture).save(root / split / name)
            images.append({"id": number, "file_name": name, "width": 64, "height": 48})
            for n, x, y, w, h in objects:
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": ids[n],
                    "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": [polygon],
                })  # fmt: skip
            if row == 0:
                runs = {"size": [48, 64], "counts": [0, 48 * 8, 48 * 56]}
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": ids["car"],
                    "bbox": [0, 0, 8, 48], "area": 8 * 48, "iscrowd": 1, "segmentation": runs,
                })  # fmt: skip
            number += 1
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root

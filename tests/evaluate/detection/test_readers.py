"""Readers of VOC and COCO: what they give, and what they refuse in a sentence."""

import json
import os
import shutil

import numpy as np
import pytest

from data.errors import UserError
from data.images.decode import UnreadableImage, decode
from evaluate.detection.coco import draw_outline, is_outline, read_coco
from evaluate.detection.voc import CLASSES, read_annotation, read_voc


def test_voc(voc):
    images = read_voc(voc, ("2007",), "trainval")
    assert len(images) == 8 and images.classes == CLASSES and images.sizes[0] == (48, 64)
    assert images.paths[0].is_file() and images.names[0] == "t00000"
    again = read_voc(voc / "VOC2007", ("2007",), "trainval")  # a year's folder itself
    assert again.ids == images.ids


def test_vocs_pixels_begin_at_1(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        "<annotation><size><width>50</width><height>40</height></size><object><name>dog</name>"
        "<difficult>1</difficult><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>50</xmax>"
        "<ymax>40</ymax></bndbox><part><bndbox><xmin>2</xmin></bndbox></part></object></annotation>"
    )
    size, objects = read_annotation(path)
    assert size == (40, 50) and objects.boxes.tolist() == [[0, 10, 50, 40]]
    assert objects.ignored.tolist() == [True] and objects.labels.tolist() == [12]


BOMB = (
    '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx">'
    + "".join(f'<!ENTITY x{i} "{f"&x{i - 1};" * 10}">' for i in range(1, 12)).replace("&x0;", "&x;")
    + "]>\n<annotation>&x11;</annotation>"
)
GOOD = "<size><width>50</width><height>40</height></size>"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "document type"),
        ("<annotation>" + GOOD, "no element found"),
        ("<annotation/>", "lacks <size><width>"),
        ("<annotation>" + " " * (1 << 20) + "</annotation>", "larger than"),
        ("not xml", "syntax error"),
        ("DOG:cat2", "'cat2' is none of VOC's classes"),
        ("BOX:1 1 60 20", "not within the picture of 50 x 40"),
        ("BOX:-9 1 20 20", "not within the picture"),
        ("BOX:nan 1 20 20", "not within the picture"),
        ("BOX:30 1 20 20", "is empty"),
        ("BOX:x 1 20 20", "could not convert"),
    ],
)
def test_malformed_annotations_of_voc(tmp_path, text, reason):
    kind, _, value = text.partition(":")
    if kind in ("DOG", "BOX"):
        name = value if kind == "DOG" else "dog"
        sides = (value if kind == "BOX" else "1 1 20 20").split()
        names = ("xmin", "ymin", "xmax", "ymax")
        box = "".join(f"<{n}>{v}</{n}>" for n, v in zip(names, sides, strict=True))
        text = f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
        text = f"<annotation>{GOOD}{text}</annotation>"
    path = tmp_path / "000005.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        read_annotation(path)
    assert "000005.xml" in caught.value.message and "\n" not in caught.value.message


def test_voc_folders_that_lack_something(voc, tmp_path):
    with pytest.raises(UserError, match="holds both"):
        read_voc(voc / "VOC2007", ("2007", "2012"), "trainval")
    with pytest.raises(UserError, match=r"VOC2012/ImageSets/Main/trainval\.txt"):
        read_voc(voc, ("2007", "2012"), "trainval")
    root = shutil.copytree(voc / "VOC2007", tmp_path / "voc")
    (root / "JPEGImages" / "t00003.jpg").unlink()
    with pytest.raises(UserError, match=r"names .*t00003\.jpg, which is not there"):
        read_voc(root, ("2007",), "trainval")
    (root / "Annotations" / "t00002.xml").unlink()
    with pytest.raises(UserError, match=r"t00002\.xml is missing"):
        read_voc(root, ("2007",), "trainval")
    for text, reason in (("../../etc\n", "no name of an"), ("a\nb\na\n", "lists .*'a' twice")):
        (root / "ImageSets" / "Main" / "trainval.txt").write_text(text)
        with pytest.raises(UserError, match=reason):
            read_voc(root, ("2007",), "trainval")


def test_what_is_no_file_is_not_waited_for(voc, tmp_path):
    root = shutil.copytree(voc / "VOC2007", tmp_path / "voc")
    for path in ("JPEGImages/t00000.jpg", "Annotations/t00000.xml"):
        (root / path).unlink()
        os.mkfifo(root / path)
    with pytest.raises(OSError, match=r"Not a regular file: '.*t00000.xml'"):
        read_voc(root, ("2007",), "trainval")
    for path in (root / "JPEGImages/t00000.jpg", "/dev/zero"):
        with pytest.raises(UnreadableImage, match="not a regular file"):
            decode(path)


def test_coco(coco):
    images = read_coco(coco, "train2017")
    assert len(images) == 8 and images.classes == ("bird", "car", "dog")
    assert images.numbers == (1, 4, 7) and images.objects[0].ignored.tolist()[-1]
    assert images.paths[0].parent.name == "train2017"


def mended(coco, tmp_path, change):
    """COCO with its training annotations changed."""
    root = shutil.copytree(coco, tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content, root)
    path.write_text(json.dumps(content))
    return root


def first(name, value):
    return lambda content, root: content["annotations"][0].__setitem__(name, value)


def runs(counts, size=(48, 64)):
    return {"size": list(size), "counts": counts}


NO_OUTLINES = (
    *("x", [[1, 2, 3]], [[1, 2, 3, 4, 5, float("nan")]], [[1e9, 0, 5, 1e9, -1e9, 9]], [["a"] * 6]),
    *({"size": [48, 64]}, runs([48 * 64], (64, 48)), runs([5]), runs([-5, 48 * 64 + 5])),
    *(runs([10**10], (10**5, 10**5)), runs("z" * 20), runs("o" * 9), runs("\u4444"), runs([1.5])),
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (first("image_id", 999), "annotation 1 is of image 999, which is not listed"),
        (first("category_id", 2), "annotation 1 is of class 2, which is not listed"),
        (first("bbox", [50, 0, 30, 10]), "not within the picture of 64 x 48"),
        (first("bbox", [1, 2, 3]), "not enough values"),
        (first("bbox", "x"), "could not convert"),
        (first("segmentation", None), "no segmentation"),
        (lambda c, root: c.pop("images"), "lacks 'images'"),
        (lambda c, root: c["images"].append(c["images"][0]), "the same image twice"),
        (
            lambda c, root: c["images"][0].__setitem__("width", float("inf")),
            "infinity to int",
        ),
        (first("bbox", [10**400, 0, 1, 1]), "int too large"),
        (first("iscrowd", "no"), "annotation 1: iscrowd is 0 or 1"),
        (first("area", float("nan")), "area a number"),
        (lambda c, root: c["categories"][1].__setitem__("id", 1), "the same category twice"),
        (lambda c, root: c["images"][0].__setitem__("file_name", ""), "lies outside"),
        (lambda c, root: c["images"][0].__setitem__("file_name", "a\n"), r"names .*/a\\n, which"),
        *((first("segmentation", outline), "segmentation that is none") for outline in NO_OUTLINES),
        (lambda c, root: c["images"][0].__setitem__("file_name", "../x.png"), "lies outside"),
        (lambda c, root: (root / "train2017" / "000000000003.png").unlink(), "which is not there"),
    ],
)
def test_malformed_coco(coco, tmp_path, change, reason):
    root = mended(coco, tmp_path, change)
    with pytest.raises(UserError, match=reason) as caught:
        read_coco(root, "train2017")
    assert "instances_train2017.json" in caught.value.message


def test_damaged_coco(tmp_path):
    with pytest.raises(UserError, match=r"has no annotations/instances_val2017\.json"):
        read_coco(tmp_path, "val2017")
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_val2017.json"
    for text, reason in (
        ('{"images": [', "damaged"),
        ("[]", "holds no object"),
        ("[" * 9999, "damaged|no file"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=reason):
            read_coco(tmp_path, "val2017")


def test_byte_order_marks_and_windows_lines(voc, coco, tmp_path):
    wholes = {}
    for kind, root in (("voc", voc), ("coco", coco)):
        copy = shutil.copytree(root, tmp_path / kind)
        for path in [*copy.rglob("*.txt"), *copy.rglob("*.json")]:
            text = path.read_bytes().replace(b"\n", b"\r\n")
            path.write_bytes(b"\xef\xbb\xbf" + text)
        wholes[kind] = copy
    assert read_coco(wholes["coco"], "train2017").names == read_coco(coco, "train2017").names
    years = ("2007",)
    assert read_voc(wholes["voc"], years, "test").names == read_voc(voc, years, "test").names


def test_a_box_without_area_is_left_out_and_told(coco, tmp_path):
    root = mended(coco, tmp_path, first("bbox", [5, 5, 10, 0]))
    images = read_coco(root, "train2017")
    assert "1 boxes without an area" in images.notes[0]
    whole = read_coco(coco, "train2017")
    assert sum(map(len, images.objects)) == sum(map(len, whole.objects)) - 1


def test_outlines_become_masks():
    pytest.importorskip("pycocotools")
    polygon = [[10, 5, 30, 5, 30, 25, 10, 25]]
    mask = draw_outline(polygon, (40, 60), (80, 120))
    assert mask.shape == (80, 120) and mask.dtype == np.uint8
    assert mask[12:48, 22:58].all() and mask.sum() == pytest.approx(40 * 40, rel=0.06)
    runs = {"size": [40, 60], "counts": [0, 40 * 30, 40 * 30]}  # column by column: the left half
    mask = draw_outline(runs, (40, 60), (20, 30))
    assert mask[:, :15].all() and not mask[:, 15:].any()


def test_run_lengths_of_any_mask_are_outlines():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 90, (40, 2)).tolist():
        drawn = np.asfortranarray(rng.random(size) < rng.random(), np.uint8)
        text = mask.encode(drawn)["counts"].decode()
        assert is_outline(runs(text, size), tuple(size))
        assert not is_outline(runs(text[:-1], size), tuple(size))


def test_real_data(shared_data):
    images = read_voc(shared_data / "voc", ("2007",), "trainval")
    assert len(images) == 425
    images = read_coco(shared_data / "coco_tiny", "val2017")
    assert len(images) == 50 and len(images.classes) == 80

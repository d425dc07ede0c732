"""A gallery: one valid page that needs nothing else, and a PNG, both with all that was given."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageDraw

from data.gallery import Cell, Figure, Gallery, Row
from data.gallery.png import RIGHT, WRONG
from data.gallery.rows import fit

RED = np.full((60, 80, 3), (250, 0, 0), np.uint8)
GREEN = np.full((60, 80, 3), (0, 250, 0), np.uint8)
GRAY = np.full((60, 80), 77, np.uint8)
IMAGE = np.arange(30 * 40 * 3, dtype=np.uint32).reshape(30, 40, 3).astype(np.uint8)
MASK = np.arange(30 * 40, dtype=np.uint32).reshape(30, 40).astype(np.uint8)
HOSTILE = "<script>alert('x')</script>\"&\n\udcff.jpg"


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.images, self.text = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_is_valid_and_carries_its_pictures(tmp_path):
    rows = [
        Row(HOSTILE, [Cell(IMAGE, "40 x 30"), Cell(MASK, "covers 9%", True), Cell(None, "<no>")]),
        Row("b.jpg", [Cell(None, "empty file"), Cell(MASK, "", False), Cell(MASK)]),
    ]
    figures = [Figure("P & Q", b"png", "what it shows", "more.html"), Figure("R", "below/r.png")]
    table = [{"model": "m & n", "%": "1.00"}]
    gallery = Gallery("T & T", ["one <line>"], ["image", "m<c", ""], rows, table, figures)
    gallery.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert not reader.open and "script" not in reader.tags
    for text in ("T & T", "one <line>", "m<c", "<no>", "empty file", "m & n", "P & Q", "what it"):
        assert text in reader.text
    assert "<script>alert('x')</script>\"&\\n\\udcff.jpg" in reader.text
    assert re.findall(r'(?:src|href)="(?!data:)([^"]*)', page) == ["more.html", "below/r.png"]
    assert "http" not in page
    assert page.count('class="right"') == page.count('class="wrong"') == 1
    kinds = []
    for image in reader.images[2:]:
        kind, code = re.fullmatch(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
        kinds.append(kind)
        if kind == "png":
            assert np.array_equal(picture, MASK)
        else:
            assert picture.shape == IMAGE.shape
    assert kinds == ["jpeg", "png", "png", "png"]


def test_pictures_keep_their_shape():
    tall = np.zeros((900, 300, 3), np.uint8)
    (image,) = Reader(Gallery("", [], ["a"], [Row("", [Cell(tall)])]).html()).images
    assert (image["width"], image["height"]) == ("100", "300")
    small = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(fit(small, 19), np.kron(small, np.ones((4, 4), np.uint8)))
    assert fit(np.zeros((300, 1, 3), np.uint8), 100).shape == (100, 1, 3)


def pixels(picture, color):
    return np.argwhere((np.asarray(picture) == color).all(-1))


def test_pictures_stand_in_their_columns():
    row = Row("a.jpg", [Cell(RED, "80 x 60"), Cell(GRAY, "covers 30%"), Cell(GREEN)])
    sheet = Gallery("", [], ["image", "rbd", ""], [row] * 3).draw(side=100)
    red, gray, green = (pixels(sheet, c) for c in ((250, 0, 0), (77, 77, 77), (0, 250, 0)))
    assert len(red) == len(green) == 3 * 60 * 80
    assert len(gray) >= 3 * 60 * 80
    assert red[:, 1].max() < gray[:, 1].min() and np.median(gray[:, 1]) < green[:, 1].min()
    assert np.asarray(sheet).min() < 60  # ink


def test_png_shows_the_asked_rows_with_coloured_frames(tmp_path):
    cells = [Cell(GRAY), Cell(RED, "b", True), Cell(RED, "c", False)]
    gallery = Gallery("", [], ["query", "m & n", ""], [Row("", cells)] * 3)
    sizes = []
    for rows in (1, 3):
        gallery.save_png(tmp_path / "g.png", rows)
        picture = Image.open(tmp_path / "g.png")
        sizes.append(picture.height)
        assert len(pixels(picture, RIGHT)) and len(pixels(picture, WRONG))
    assert sizes[1] > 2 * sizes[0]


def test_what_is_missing_is_said():
    row = Row("x" * 500 + "\n\udcff", [Cell(None, "no such file " * 30), Cell(None)])
    sheet = Gallery("", [], ["image", "mask"], [row]).draw(side=240)
    assert (np.asarray(sheet)[-150:, 30:250] < 150).any()  # the reason is written in the cell


@pytest.mark.parametrize("side", [96, 240])
def test_long_texts_are_whole(monkeypatch, side):
    """All that is given is drawn, and on the sheet."""
    drawn = []
    write = ImageDraw.ImageDraw.text

    def note(self, corner, text, *arguments, **options):
        box = self.textbbox(corner, text, arguments[1])
        assert box[0] >= 0 and box[2] <= self.im.size[0] and box[3] <= self.im.size[1]
        drawn.append(text)
        return write(self, corner, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    texts = [
        "n02093428_American_Staffordshire_terrier/" * 3 + "1.jpg",
        "the file ends before its last line " * 20,
        "soft-coated wheaten terrier, Irish wheaten 0.91",
        "Pneumonoultramicroscopicsilicovolcanoconiosis",
        "a-method-of-a-very-long-name (its-folder-of-a-long-name)",
    ]
    key, reason, label, word, method = texts
    rows = [Row(key, [Cell(RED, word), Cell(None, reason), Cell(GREEN, label, True)])] * 2
    Gallery("", [], ["image", method, ""], rows).draw(side=side)
    text = "".join(drawn).replace(" ", "")
    assert all(part.replace(" ", "") in text for part in texts)


def test_names_that_are_no_text_can_be_shown(tmp_path):
    name = "b\udcffar\n"  # of a folder, as the system gives it
    rows = [Row(name, [Cell(MASK, name)])]
    gallery = Gallery(name, [name], [name], rows, [{name: name}])
    gallery.save_png(tmp_path / "g.png", 1)
    gallery.save_html(tmp_path / "g.html")
    assert "b\\udcffar" in (tmp_path / "g.html").read_text(encoding="utf-8")

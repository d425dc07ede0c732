"""A page is one valid file that needs nothing else and escapes what it shows."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from data.gallery.page import make_page
from data.gallery.panels import Panel, Row

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


def test_page():
    rows = [
        Row(
            HOSTILE, IMAGE, "40 x 30", [Panel(MASK, IMAGE, "covers 9%"), Panel(None, None, "<no>")]
        ),
        Row("b.jpg", None, "empty file", [Panel(MASK, None, "covers 9%")] * 2),
    ]
    page = make_page(rows, ["rbd", "m<c"], "T & T", ["one <line>"])
    page.encode("utf-8")  # whatever a key holds
    reader = Reader(page)
    assert not reader.open and "script" not in reader.tags
    for text in ("T & T", "one <line>", "rbd: mask", "m<c: mask", "<no>", "empty file"):
        assert text in reader.text
    assert "<script>alert('x')</script>\"&\\n\\udcff.jpg" in reader.text
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page
    assert len(reader.images) == 5
    kinds = []
    for image in reader.images:
        kind, code = re.fullmatch(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(code))))
        kinds.append(kind)
        if kind == "png":
            assert np.array_equal(picture, MASK)
        else:
            assert picture.shape == IMAGE.shape
    assert kinds == ["jpeg", "png", "jpeg", "png", "png"]


def test_pictures_keep_their_shape():
    tall = np.zeros((900, 300, 3), np.uint8)
    (image,) = Reader(make_page([Row("a", tall, "", [])], [], "")).images
    assert (image["width"], image["height"]) == ("100", "300")

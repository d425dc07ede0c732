"""The gallery: a page that needs nothing else, and a PNG."""

import numpy as np
from PIL import Image, ImageDraw

from evaluate.gallery import RIGHT, WRONG, Gallery, Picture, Row


def gallery():
    gray = np.full((30, 40), 128, np.uint8)
    colour = np.zeros((30, 30, 3), np.uint8)
    rows = [
        Row(
            [
                [Picture(gray, "a <query>")],
                [Picture(colour, "b", True), Picture(colour, "c", False)],
            ]
        )
    ]
    table = [{"model": "m & n", "%": "1.00"}]
    return Gallery("A <title>", ["One sentence."], ["query", "m & n"], rows * 3, table)


def test_page_escapes_and_carries_its_pictures():
    page = gallery().html()
    assert "A &lt;title&gt;" in page and "a &lt;query&gt;" in page and "m &amp; n" in page
    assert page.count("data:image/jpeg;base64,") == 9
    assert page.count('class="right"') == page.count('class="wrong"') == 3


def test_long_names_of_models_are_told_apart_in_the_png(tmp_path):
    pixels = []
    for name in ("resnet18-imagenette-with-paste", "resnet18-imagenette-without-paste"):
        one = Gallery("", [], [name], [Row([[Picture(np.zeros((8, 8), np.uint8))]])])
        one.save_png(tmp_path / "g.png", 1)
        pixels.append(np.asarray(Image.open(tmp_path / "g.png")))
    assert pixels[0].shape != pixels[1].shape or (pixels[0] != pixels[1]).any()


def test_png_shows_the_asked_rows_with_coloured_frames(tmp_path):
    sizes = []
    for rows in (1, 3):
        gallery().save_png(tmp_path / "g.png", rows)
        picture = Image.open(tmp_path / "g.png")
        sizes.append(picture.height)
        colours = {colour for _, colour in picture.getcolors(100000)}
        assert RIGHT in colours and WRONG in colours
    assert sizes[1] > 2 * sizes[0]


def test_long_names_of_classes_are_whole_in_the_png(tmp_path, monkeypatch):
    drawn = []
    write = ImageDraw.ImageDraw.text

    def note(self, place, text, *arguments, **options):
        box = self.textbbox(place, text, options["font"])
        assert box[2] <= self.im.size[0] and box[3] <= self.im.size[1]
        drawn.append(text)
        return write(self, place, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    names = [
        "n02093428_American_Staffordshire_terrier 0.97",
        "soft-coated wheaten terrier, Irish wheaten 0.91",
        "Pneumonoultramicroscopicsilicovolcanoconiosis",
    ]
    black = np.zeros((8, 8), np.uint8)
    row = Row([[Picture(black, "query")], [Picture(black, name, True) for name in names]])
    Gallery("", [], ["query", "model"], [row, row]).save_png(tmp_path / "g.png", 2)
    text = "".join(drawn).replace(" ", "")
    assert all(text.count(name.replace(" ", "")) == 2 for name in names)


def test_names_that_are_no_text_can_be_shown(tmp_path):
    name = "b\udcffar\n"  # of a folder, as the system gives it
    black = np.zeros((8, 8), np.uint8)
    one = Gallery(name, [name], [name], [Row([[Picture(black, name)]], name)], [{name: name}])
    one.save_png(tmp_path / "g.png", 1)
    one.save_html(tmp_path / "g.html")
    assert "b\\udcffar" in (tmp_path / "g.html").read_text(encoding="utf-8")

"""A sheet shows each picture once, where its heading says."""

import numpy as np
from PIL import ImageDraw

from data.gallery.panels import Panel, Row
from data.gallery.sheet import draw_sheet

RED = np.full((60, 80, 3), (250, 0, 0), np.uint8)
GREEN = np.full((60, 80, 3), (0, 250, 0), np.uint8)
MASK = np.full((60, 80), 77, np.uint8)


def pixels(sheet, color):
    return np.argwhere((np.asarray(sheet) == color).all(-1))


def test_pictures_stand_in_their_columns():
    row = Row("a.jpg", RED, "80 x 60", [Panel(MASK, GREEN, "covers 30%")])
    sheet = draw_sheet([row], ["rbd"], side=100)
    red, mask, green = (pixels(sheet, c) for c in ((250, 0, 0), (77, 77, 77), (0, 250, 0)))
    assert len(red) == len(green) == 60 * 80
    assert len(mask) >= 60 * 80
    assert red[:, 1].max() < mask[:, 1].min() and np.median(mask[:, 1]) < green[:, 1].min()


def test_rows_fill_the_sheet_and_captions_are_written():
    rows = [Row(f"{i}.jpg", RED, "", [Panel(MASK, GREEN, "")]) for i in range(5)]
    sheet = draw_sheet(rows, ["rbd"], side=100)
    assert len(pixels(sheet, (250, 0, 0))) == 5 * 60 * 80
    several = draw_sheet(rows, ["rbd", "mc"], side=100)
    assert several.height > 1.5 * sheet.height  # one row beside another only for one method
    assert np.asarray(sheet).min() < 60  # ink


def test_what_is_missing_is_said():
    nothing = Row("x" * 500 + "\n\udcff", None, "no such file " * 30, [Panel(None, None, "failed")])
    sheet = draw_sheet([nothing], ["rbd"])
    cell = np.asarray(sheet)[60:150, 30:250]
    assert (cell < 150).any()  # the reason is written in the cell


def test_extreme_shapes():
    line = np.zeros((300, 1, 3), np.uint8)
    assert draw_sheet([Row("a", line, "", [Panel(line[..., 0], line, "")])] * 2, ["m"]).width > 700


def test_long_names_and_reasons_are_whole(monkeypatch):
    """All that is given is drawn, and on the sheet."""
    drawn = []
    write = ImageDraw.ImageDraw.text

    def note(self, place, text, *arguments, **options):
        box = self.textbbox(place, text, arguments[1])
        assert box[0] >= 0 and box[2] <= self.im.size[0] and box[3] <= self.im.size[1]
        drawn.append(text)
        return write(self, place, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    key = "n02093428_American_Staffordshire_terrier/" * 3 + "1.jpg"
    reason = "the file ends before its last line " * 20
    row = Row(key, RED, "80 x 60", [Panel(None, None, reason)])
    method = "a-method-of-a-very-long-name (its-folder-of-a-long-name)"
    draw_sheet([row, Row("b.jpg", RED, "", [Panel(MASK, GREEN, "")])], [method], side=100)
    text = "".join(drawn).replace(" ", "")
    assert all(part.replace(" ", "") in text for part in (key, reason, f"{method}: mask"))


def test_rows_beside_each_other_have_room_for_both():
    """One has a long name, the other a long reason."""
    named = Row("name/" * 60, RED, "", [Panel(MASK, GREEN, "")])
    lost = Row("b.jpg", RED, "", [Panel(None, None, "no reason " * 90)])
    alone = [draw_sheet([row], ["rbd"], side=100).height for row in (named, lost)]
    assert draw_sheet([named, lost], ["rbd"], side=100).height > max(alone)

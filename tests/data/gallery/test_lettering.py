"""Lines of text fit, and hold all of it."""

import pytest

from data.gallery.png import load_font, wrap

FONT = load_font(10)


@pytest.mark.parametrize(
    "text",
    [
        "n02093428_American_Staffordshire_terrier 0.97",
        "soft-coated wheaten terrier, Irish wheaten",
        "Pneumonoultramicroscopicsilicovolcanoconiosis",
        "медведь/бурый медведь/00000001.jpg",
        "  a  b ",
        "x" * 300,
    ],
)
@pytest.mark.parametrize("width", [1, 30, 96, 1000])
def test_nothing_is_lost(text, width):
    lines = wrap(text, width, FONT)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(FONT.getlength(line) <= width or len(line) == 1 for line in lines)
    assert len(lines) == 1 or width < 1000 or text == "x" * 300


def test_lines_end_between_words_where_they_can():
    assert wrap("n02093428_American_Staffordshire_terrier 0.97", 96, FONT) == [
        "n02093428_",
        "American_",
        "Staffordshire_",
        "terrier 0.97",
    ]
    width = FONT.getlength("golden")
    assert wrap("golden retriever", width, FONT)[0] == "golden"


def test_no_text_is_no_line():
    assert wrap("", 50, FONT) == wrap("  ", 50, FONT) == []

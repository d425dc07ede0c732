"""Text in pictures: a font that knows most of the world's letters, and lines of a given width."""

from pathlib import Path

from PIL import ImageFont

_BREAKS = frozenset(" _-/,.")  # a line may end after these


def load_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib carries, in pixels."""
    import matplotlib  # a fifth of the start of `mask-shards`, were it at the top

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text into lines of at most `width` pixels; nothing but spaces at their ends goes.

    Lines end after a space or one of `_-/,.` where one fits, else after any letter, so that a name
    without any is whole, too. A line has at least one letter, however narrow the width.
    """
    lines = []
    rest = text.strip()
    while rest:
        count = _fitting(rest, width, font)
        if count < len(rest) and rest[count] != " ":
            ends = (at + 1 for at in range(count - 1, 0, -1) if rest[at] in _BREAKS)
            count = next(ends, count)
        lines.append(rest[:count].rstrip())
        rest = rest[count:].lstrip()
    return lines


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont) -> int:
    """Return how many letters fit, at least 1."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low

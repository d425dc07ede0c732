"""What the libraries can read is read, and gives the pixels of the same picture saved plainly."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from data.images.decode import UnreadableImage, decode


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return np.sort(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), axis=1)


def png(picture, **options):
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "PNG", **options)
    return memory.getvalue()


def noted(picture, text="hello"):
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text, zip=len(text) > 100)
    return png(picture, pnginfo=info)


def spoiled(data, kind, before_pixels=True):
    """A PNG with a bit flipped in one of its notes, which may come after its pixels."""
    at = data.index(kind) - 4
    length = int.from_bytes(data[at : at + 4], "big") + 12
    note = bytearray(data[at : at + length])
    note[10] ^= 1
    rest = data[:at] + data[at + length :]
    to = rest.index(b"IDAT") - 4 if before_pixels else rest.index(b"IEND") - 4
    return rest[:to] + bytes(note) + rest[to:]


PNGS = {
    "a profile above 1 MB": lambda p: png(p, icc_profile=b"\0" * 1_500_000),
    "a note above 1 MB": lambda p: noted(p, "x" * 2_000_000),
    "a damaged note": lambda p: spoiled(noted(p), b"tEXt"),
    "a damaged note at the end": lambda p: spoiled(noted(p), b"tEXt", before_pixels=False),
    "a damaged profile": lambda p: spoiled(png(p, icc_profile=b"profile" * 9), b"iCCP"),
    "a damaged resolution": lambda p: spoiled(png(p, dpi=(72, 72)), b"pHYs"),
}


@pytest.mark.parametrize("case", PNGS)
def test_side_notes_of_a_png(tmp_path, picture, case):
    (tmp_path / "a.png").write_bytes(PNGS[case](picture))
    assert np.array_equal(decode(tmp_path / "a.png").image, picture)


COLOURS = {
    "float32": lambda p: p.astype(np.float32) / 255,
    "float64": lambda p: p / 255,
    "float32 up to 255": lambda p: p.astype(np.float32),
    "uint16": lambda p: p.astype(np.uint16) * 257,
    "uint32": lambda p: p.astype(np.uint32) * 16843009,
}


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("case", COLOURS)
def test_tiffs_of_colours(tmp_path, picture, case, planar):
    values = COLOURS[case](picture)
    values = np.moveaxis(values, 2, 0).copy() if planar == "separate" else values
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", planarconfig=planar)
    try:
        image = decode(tmp_path / "a.tif").image.astype(int)
    except UnreadableImage as error:  # said, if it is not read
        assert planar == "separate" and "is not read" in str(error)
        return
    assert np.abs(image - picture).max() <= 1


@pytest.mark.parametrize("white", ["miniswhite", "minisblack"])
@pytest.mark.parametrize("case", ["uint8", "uint16", "uint32", "float32", "float64"])
def test_tiffs_of_grays(tmp_path, picture, case, white):
    gray = picture[..., 0]
    shown = 255 - gray if white == "miniswhite" else gray
    scale = {"uint8": 1, "uint16": 257, "uint32": 16843009}.get(case, 1 / 255)
    tifffile.imwrite(tmp_path / "a.tif", (shown * np.array(scale)).astype(case), photometric=white)
    image = decode(tmp_path / "a.tif").image.astype(int)
    assert np.abs(image - gray[..., None]).max() <= 1


def test_what_is_not_read_says_what_it_is(tmp_path, picture, capfd):
    tifffile.imwrite(tmp_path / "a.tif", (picture / 255).astype(np.float16), photometric="rgb")
    with pytest.raises(UnreadableImage, match=r"TIFF of 3 x 16-bit floating-point numbers is not"):
        decode(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""

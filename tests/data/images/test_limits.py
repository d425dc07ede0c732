"""What an image may cost: memory by its header, time by a clock; a reason in its place."""

import io
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from data.images import limits
from data.images.decode import UnreadableImage, decode, open_image, read_size
from data.images.modes import to_rgb


def webp(width, height):
    """A lossless WebP of one colour, which has the same few bytes at any size."""
    memory = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 99, 199)).save(memory, "WEBP", lossless=True)
    data = bytearray(memory.getvalue())
    start = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[start : start + 4], "little") >> 28 << 28
    data[start : start + 4] = (bits | (height - 1) << 14 | (width - 1)).to_bytes(4, "little")
    return bytes(data)


def png(width, height, mode=2):
    header = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def resized(kind, width, height, **options):
    """A small picture whose header declares another size."""
    memory = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(memory, kind, **options)
    data = memory.getvalue()
    for layout in (">HH", ">II", "<HH", "<II"):
        for old, new in (((48, 64), (height, width)), ((64, 48), (width, height))):
            data = data.replace(struct.pack(layout, *old), struct.pack(layout, *new))
    return data


BOMBS = {
    "webp": webp(16000, 15000),
    "tall.png": png(1, 249_000_000, mode=0),
    "wide.png": png(249_000_000, 1, mode=0),
    "square.png": png(15800, 15800),
    "jp2": resized("JPEG2000", 15800, 15800),
    "progressive.jpg": resized("JPEG", 15800, 15800, progressive=True, subsampling=0),
    "huge.jpg": resized("JPEG", 65000, 65000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header(tmp_path, name):
    (tmp_path / name).write_bytes(BOMBS[name])
    begun = time.monotonic()
    with pytest.raises(UnreadableImage, match=r"pixels.*more than the limit of"):
        decode(tmp_path / name, 400)
    assert time.monotonic() - begun < 5


def test_a_sparse_file_is_not_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    os.truncate(tmp_path / "a.jpg", 3 << 30)
    with pytest.raises(UnreadableImage, match=r"a file of 3.2 GB, more than the limit"):
        decode(tmp_path / "a.jpg")
    (tmp_path / "a.png").write_bytes(png(64, 64))  # of which Pillow copies its notes
    os.truncate(tmp_path / "a.png", 400_000_000)
    with pytest.raises(UnreadableImage, match=r"a file of 0.4 GB, more than the limit"):
        decode(tmp_path / "a.png")


@pytest.mark.parametrize("case", ["webp", "progressive"])
def test_a_worker_stays_below_1_gb_up_to_the_limit(tmp_path, case):
    path = tmp_path / "a"
    if case == "webp":
        path.write_bytes(webp(6300, 6300))
    else:
        Image.new("RGB", (9800, 9800), (9, 99, 199)).save(path, "JPEG", progressive=True)
    program = (
        "import sys\nfrom data.images.decode import decode\n"
        "print(decode(sys.argv[1], 400).image.shape)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    shape, peak = done.stdout.splitlines()
    assert shape == "(400, 400, 3)"
    assert int(peak) * 1024 < 1e9


def test_whole_images_count_as_what_they_become(tmp_path, monkeypatch):
    """A plain JPEG that is too large is reduced while it is decoded."""
    monkeypatch.setattr(limits, "most_bytes", lambda: 30_000_000)
    Image.new("RGB", (3000, 3000)).save(tmp_path / "a.jpg")
    assert open_image(tmp_path / "a.jpg").decode()[1] == 2
    assert decode(tmp_path / "a.jpg").image_size == (3000, 3000)
    Image.new("L", (3000, 3000)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match=r"take 0.04 GB to decode, more than the limit"):
        decode(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", 400).image.shape == (400, 400, 3)


@pytest.mark.parametrize("name, mode", [("a.png", "L"), ("a.jpg", "L"), ("a.tif", "1")])
def test_an_image_that_cannot_be_reduced_counts_whole(tmp_path, monkeypatch, name, mode):
    """Loaders ask for an eighth of a large image, and get all of most formats."""
    monkeypatch.setattr(limits, "most_bytes", lambda: 30_000_000)
    Image.new(mode, (3000, 3000)).save(tmp_path / name)
    with pytest.raises(UnreadableImage, match=r"take 0.04 GB to decode, more than the limit"):
        open_image(tmp_path / name).decode(8)


def test_no_copy_of_a_whole_image_is_converted():
    image = Image.new("F", (2000, 2000))
    tracemalloc.start()
    to_rgb(image, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14_000_000


def test_a_jpeg_of_empty_scans(tmp_path):
    memory = io.BytesIO()
    Image.effect_noise((3000, 3000), 50).save(memory, "JPEG", progressive=True)
    data = memory.getvalue()
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x00\x00"  # of nothing
    (tmp_path / "a.jpg").write_bytes(data[:-2] + scan * 5000 + data[-2:])
    begun = time.monotonic()
    with pytest.raises(UnreadableImage, match=r"3000x3000 pixels in 5,0\d\d scans would take long"):
        decode(tmp_path / "a.jpg", 400)
    assert time.monotonic() - begun < 5


def test_decoding_ends_by_the_clock(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (3000, 3000, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(limits, "SECONDS", 0.02)
    theirs = signal.getsignal(signal.SIGALRM)
    with pytest.raises(UnreadableImage, match=r"decoding took longer than 0.02 s"):
        decode(tmp_path / "a.png", 400)
    assert signal.getsignal(signal.SIGALRM) is theirs
    monkeypatch.setattr(limits, "SECONDS", 60)
    assert decode(tmp_path / "a.png", 400).image.shape == (400, 400, 3)


@pytest.mark.parametrize("side", [13_500, 15_000])
def test_tiffs_up_to_the_limit_are_read(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "a.tif", compression="group4")
    assert decode(tmp_path / "a.tif", 400).image_size == (side, side)
    assert read_size(tmp_path / "a.tif") == (side, side)

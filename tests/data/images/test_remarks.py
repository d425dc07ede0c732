"""A JPEG that is damaged inside is named, whoever decodes it; no library prints on the terminal."""

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from data.images.decode import open_image
from data.images.limits import remarks_caught
from data.images.listing import UnreadableImage

EXIF = Image.Exif()
EXIF[274] = 6
KINDS = {
    "plain": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "turned": {"exif": EXIF},
    "gray": {},
    "cmyk": {},
    "mpo": {"save_all": True},
}


def picture(kind):
    x = np.linspace(0, 12, 320)
    wave = np.sin(x)[:, None] * np.cos(1.7 * x) * 90 + 128
    image = Image.fromarray(np.stack([wave, wave.T, wave[::-1]], 2).astype(np.uint8))
    image = image.convert({"gray": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
    memory = io.BytesIO()
    image.save(memory, "MPO" if kind == "mpo" else "JPEG", quality=90, **KINDS[kind])
    return memory.getvalue()


def cut_inside(data):
    return data[: len(data) // 2] + b"\xff\xd9"


def zeroed(data):
    return data[: len(data) // 2] + bytes(300) + data[len(data) // 2 + 300 :]


@pytest.mark.parametrize("max_side", [0, 200, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_at_every_scale(kind, max_side, tmp_path, capfd):
    sound = picture(kind)
    for name, harm in (("cut", cut_inside), ("zeros", zeroed), ("sound", lambda data: data)):
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(harm(sound))
        image = open_image(path)
        pixels, _ = image.decode(max_side=max_side)
        assert max(pixels.shape) == (max_side or 320)
        assert bool(image.remark) == (name != "sound"), (name, image.remark)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16", "RGBA"])
def test_other_pixels_of_a_png_are_named_or_refused(mode, tmp_path):
    """Decoders of PNG go by neither of its checksums."""
    image = Image.open(io.BytesIO(picture("plain"))).resize((60, 60))
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    image.save(path := tmp_path / "a.png")
    data = path.read_bytes()
    sound = open_image(path)
    pixels, _ = sound.decode()
    assert not sound.remark
    told = 0
    for at in range(data.index(b"IDAT") + 4, len(data) - 12, 97):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            image = open_image(path)
            other, _ = image.decode()
        except UnreadableImage:
            continue
        assert image.remark or (other == pixels).all(), at
        told += bool(image.remark)
    assert told


@pytest.mark.parametrize("kind", ["plain", "progressive", "turned"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_fractions_are_those_of_pillow(kind, scale, tmp_path):
    """A large JPEG is decoded at a fraction by OpenCV, which names damage; Pillow does not."""
    data = picture(kind)
    (tmp_path / "a.jpg").write_bytes(data)
    side = 320 // scale // 2
    ours, _ = open_image(tmp_path / "a.jpg").decode(max_side=side)
    image = Image.open(io.BytesIO(data))
    image.draft(None, (2 * side, 2 * side))
    assert max(image.size) == 320 // scale
    expected = np.asarray(image)
    turned = np.rot90(expected, -1) if kind == "turned" else expected
    averaged = turned.reshape(side, 2, side, 2, 3).astype(float).mean((1, 3))
    assert np.abs(ours - averaged).max() <= 0.5


def test_what_is_caught():
    remarks: list[str] = []
    with remarks_caught(remarks):
        os.write(2, b"one  line\n\nand another\n")
        os.write(2, b"x" * 200_000)  # more than a pipe holds: nobody waits
    assert remarks[:2] == ["one line", "and another"]
    with pytest.raises(ValueError), remarks_caught(remarks):
        raise ValueError
    with remarks_caught(quiet := []):
        pass
    assert quiet == []


def test_threads_take_turns_and_standard_error_stays(capfd):
    def work(number):
        for _ in range(50):
            with remarks_caught(caught[number]):
                os.write(2, b"%d\n" % number)

    caught: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caught == [[str(n)] * 50 for n in range(4)]
    os.write(2, b"to the terminal")
    assert capfd.readouterr().err == "to the terminal"


def test_without_a_standard_error_nothing_is_caught():
    saved = os.dup(2)
    os.close(2)
    try:
        with remarks_caught([]):
            pass
    finally:
        os.dup2(saved, 2)
        os.close(saved)

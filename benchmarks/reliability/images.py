"""Mutated images of every format, and bombs, through saliency-compute and pretrain.

    python -m benchmarks.reliability.images [--count 3600] [--pretrain 450] [--bombs]

Nothing may abort or hang the run; every image is a row, every failure has a reason. A worker may
hold 1 GB.
"""

import contextlib
import io
import os
import random
import re
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import click
import psutil
from PIL import Image

from benchmarks.reliability.common import (
    Table,
    command,
    contents,
    losses,
    make_images,
    photographs,
    run,
    scratch,
)
from data.masks.format import Status

LIMIT_MB = 1000
_SIZES = [(0, 0), (1, 2**31 - 1), (2**31 - 1, 1), (65535, 65535), (15800, 15800), (40000, 6000)]
_SIZES += [(250_000_000, 1), (1, 250_000_000), (2**32 - 1, 2**32 - 1), (5000, 5000), (1, 1)]
_SAVED = {  # ending, format, mode: options
    ("jpg", "JPEG", "RGB"): [{"quality": 80}, {"progressive": True}, {"restart_marker_blocks": 4}],
    ("jpe", "JPEG", "L"): [{}],
    ("jpg", "JPEG", "CMYK"): [{}],
    ("jpg", "MPO", "RGB"): [{"save_all": True}],
    **{("png", "PNG", mode): [{}] for mode in ("RGB", "P", "LA", "RGBA", "1", "I;16")},
    ("gif", "GIF", "RGB"): [{}],
    **{("bmp", kind, "RGB"): [{}] for kind in ("BMP", "DIB", "TGA")},
    ("tif", "TIFF", "RGB"): [
        {"compression": name} for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits", "raw")
    ],
    ("tiff", "TIFF", "1"): [{"compression": "group4"}],
    ("tiff", "TIFF", "F"): [{}],
    ("tiff", "TIFF", "I"): [{}],
    ("webp", "WEBP", "RGB"): [{}, {"lossless": True}],
    ("ppm", "PPM", "RGB"): [{}],
    ("pgm", "PPM", "L"): [{}],
    ("jp2", "JPEG2000", "RGB"): [{}],
    ("avif", "AVIF", "RGB"): [{}],
    ("png", "ICO", "RGB"): [{}],
}


def seeds(source: Path | None) -> list[tuple[str, bytes]]:
    """Return small sound images of every format: ending and bytes."""
    made = []
    for number, pixels in enumerate(photographs(source)[:8]):
        image = Image.fromarray(pixels)
        image.thumbnail((110 + 7 * number, 110 + 7 * number))
        for (ending, kind, mode), choices in _SAVED.items():
            for options in choices:
                if mode == "I;16":
                    image16 = image.convert("L").point(lambda v: v * 257, "I")
                    converted = image16.convert("I;16")
                else:
                    converted = image.convert(mode)
                memory = io.BytesIO()
                converted.save(memory, kind, **options)
                made.append((ending, memory.getvalue()))
    return made


def resized(data: bytes, rng: random.Random) -> bytes:
    """Put another size wherever the header may hold one; of a PNG with the right checksum."""
    width, height = rng.choice(_SIZES)
    raw = bytearray(data)
    if data.startswith(b"\x89PNG"):
        raw[16:24] = struct.pack(">II", width, height)
        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
        return bytes(raw)
    for layout, most in ((">HH", 65535), ("<HH", 65535), (">II", 2**32 - 1), ("<II", 2**32 - 1)):
        size = Image.open(io.BytesIO(data)).size
        for order in (size, size[::-1]):
            at = data[:700].find(struct.pack(layout, *order))
            if at >= 0:
                values = (width, height) if order == size else (height, width)
                packed = struct.pack(layout, *(min(value, most) for value in values))
                raw[at : at + len(packed)] = packed
    return bytes(raw)


def mutant(made: list[tuple[str, bytes]], rng: random.Random) -> tuple[str, str, bytes]:
    """Return the kind of mutation, an ending and the bytes."""
    ending, data = rng.choice(made)
    kinds = ("bit", "bits", "head", "cut", "splice", "head of another", "size", "ones", "zeros")
    kind = rng.choice((*kinds, "doubled", "noise", "inserted", "other ending", "field"))
    raw, at, other = bytearray(data), rng.randrange(len(data)), rng.choice(made)[1]
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else rng.choice([3, 10, 60, 400])):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "head":
        for _ in range(rng.choice([1, 3, 8])):
            raw[rng.randrange(min(len(raw), 600))] = rng.randrange(256)
    elif kind == "cut":
        del raw[at:]
    elif kind == "splice":
        raw[at:] = other[rng.randrange(len(other)) :]
    elif kind == "head of another":
        length = rng.choice([2, 8, 16, 64])
        raw[:length] = other[:length]
    elif kind == "size":
        raw = bytearray(resized(data, rng))
    elif kind in ("ones", "zeros"):
        length = min(rng.choice([2, 16, 256]), len(raw) - at)
        raw[at : at + length] = (b"\xff" if kind == "ones" else b"\0") * length
    elif kind == "doubled":
        raw[at:at] = raw[rng.randrange(at + 1) : at]
    elif kind == "noise":
        raw = bytearray(rng.randbytes(rng.choice([0, 1, 10, 1000, 20_000])))
    elif kind == "inserted":
        raw[at:at] = rng.randbytes(rng.choice([1, 7, 4096]))
    elif kind == "other ending":
        ending = rng.choice(["jpg", "png", "gif", "bmp", "tiff", "webp", "ppm", "jp2", "avif"])
    else:
        at = rng.randrange(min(len(raw), 900))
        value = rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**16, 255])
        raw[at : at + 4] = struct.pack(rng.choice("<>") + "I", value)
    return kind, ending, bytes(raw)


def write_mutants(folder: Path, count: int, options: dict) -> Path:
    rng, made = random.Random(options["seed"]), seeds(options["images"])
    for number in range(count):
        kind, ending, data = mutant(made, rng)
        path = folder / kind.replace(" ", "-") / f"{number:05d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


# Bombs --------------------------------------------------------------------------------------------


def png(width: int, height: int, kind: int, depth: int, notes: bytes = b"") -> bytes:
    """A PNG of one colour, its chunks of notes before the pixels."""

    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] * depth
    compressor = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    many = max(1, (1 << 22) // len(row))
    parts = [compressor.compress(row * min(many, height - top)) for top in range(0, height, many)]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(3)) if kind == 3 else b""
    pixels = chunk(b"IDAT", b"".join(parts) + compressor.flush())
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return head + notes + palette + pixels + chunk(b"IEND", b"")


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG's chunk."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG of many scans that say nothing: a decoder goes over all of it for each."""
    memory = io.BytesIO()
    Image.new("L", (64, 64), 128).save(memory, "JPEG", progressive=True)
    data = bytearray(memory.getvalue())
    frame, last = data.find(b"\xff\xc2"), data.rfind(b"\xff\xda")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data[:-2]) + bytes(data[last:-2]) * count + b"\xff\xd9"


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of small files that declare, or grow to, much."""
    for name, kind, depth in (("gray", 0, 8), ("rgb", 2, 8), ("rgba", 6, 8), ("gray16", 0, 16)):
        yield f"{name}.png", png(15800, 15800, kind, depth)
    for name, kind, depth in (("rgba16", 6, 16), ("bit", 0, 1), ("la", 4, 8), ("palette", 3, 8)):
        yield f"{name}.png", png(15800, 15800, kind, depth)
    yield "more.png", png(20_000, 20_000, 0, 1)
    yield "wide.png", png(250_000_000, 1, 0, 1)
    yield "tall.png", png(1, 249_000_000, 0, 1)
    much = zlib.compress(b"A" * (1 << 29), 9)
    for name, body in ((b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")):
        yield f"{name.decode()}.png", png(64, 64, 2, 8, chunk(name, body + much))
    yield "notes.png", png(64, 64, 2, 8, chunk(b"tEXt", b"a\0b") * 400_000)
    for name, mode, side, kind, options in (
        ("gray.jpg", "L", 15800, "JPEG", {"quality": 30}),
        ("rgb.jpg", "RGB", 15000, "JPEG", {"quality": 30}),
        ("progressive.jpg", "RGB", 12000, "JPEG", {"progressive": True}),
        ("cmyk.jpg", "CMYK", 14000, "JPEG", {}),
        ("float.tif", "F", 15000, "TIFF", {"compression": "tiff_deflate"}),
        ("int.tif", "I", 15000, "TIFF", {"compression": "tiff_deflate"}),
        ("lzw.tif", "RGB", 15000, "TIFF", {"compression": "tiff_lzw"}),
        ("group4.tif", "1", 15800, "TIFF", {"compression": "group4"}),
        ("palette.gif", "P", 15800, "GIF", {}),
        ("lossless.webp", "RGB", 15000, "WEBP", {"lossless": True, "quality": 0, "method": 0}),
    ):
        memory = io.BytesIO()
        Image.new(mode, (side, side)).save(memory, kind, **options)
        yield name, memory.getvalue()
    yield "scans-4k.jpg", scans(4000, 4000, 20_000)
    yield "scans-15k.jpg", scans(15800, 15800, 1500)
    yield "short.ppm", b"P6\n15800 15800\n255\n" + bytes(1000)
    yield "ascii.pbm", b"P1\n5000 5000\n" + b"0 " * 1000


def write_bombs(folder: Path) -> Path:
    folder.mkdir()
    for name, data in bombs():
        (folder / name).write_bytes(data)
    for name, begin, size in (("3GB.jpg", b"", 3 << 30), ("2GB.png", png(64, 64, 2, 8), 2 << 30)):
        (folder / name).write_bytes(begin)
        os.truncate(folder / name, size)  # sparse
    for name, target in (("none", "/nonexistent"), ("zero", "/dev/zero"), ("text", "/etc/passwd")):
        (folder / f"{name}.png").symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    Image.new("RGB", (60, 60), "red").save(folder / "sound.png")
    return folder


# Running ------------------------------------------------------------------------------------------


def watched(line: list[str], seconds: float) -> tuple[int | None, str, int]:
    """Run a command; return its exit code, None where it hangs, its words, and its workers' MB.

    Without what is mapped of libraries' files, which all processes share: of a CUDA build of
    PyTorch alone more than half a GB.
    """
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    end, peak = time.monotonic() + seconds, 0
    while process.poll() is None and time.monotonic() < end:
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(OSError):  # it has ended
                facts = Path(f"/proc/{child.pid}/status").read_text()
                sizes = dict(re.findall(r"(VmHWM|RssFile):\s+(\d+)", facts))  # a zombie has none
                peak = max(peak, int(sizes.get("VmHWM", 0)) - int(sizes.get("RssFile", 0)))
        time.sleep(0.05)
    hangs = process.poll() is None
    if hangs:
        process.kill()
    said = process.communicate()[0]
    return None if hangs else process.returncode, said, peak // 1024


def through_saliency(what: str, images: Path, out: Path, options: dict, table: Table) -> None:
    jobs, begun = options["jobs"], time.monotonic()
    line = command("saliency_compute", images, out, "--jobs", jobs, "--max-failures", 1)
    code, said, peak = watched([*line, "--method", "gs"], options["seconds"])
    if code != 0 or "Traceback" in said:
        table.note(what, "HANG" if code is None else "TRACEBACK", said[-600:])
        return
    rows = contents(out)
    for key, (status, *_, error, _mask, _shard) in rows.items():
        kind = Status(int(status))
        without_reason = kind > Status.FLAT and error in ("b''", "")
        remark = kind <= Status.FLAT and error not in ("b''", "")
        outcome = "a mask, and a remark" if remark else kind.name
        table.note(what, "SILENT" if without_reason else outcome, key)
    code, said = run(*command("mask_shards", "verify", out, "--images", images))
    table.note(f"{what}: verify", "sound" if code == 0 else "WRONG", said[-300:])
    seconds = time.monotonic() - begun
    told = f"{peak} MB the largest worker"
    table.note(f"{what}: memory", "MEMORY" if peak > LIMIT_MB else told, told)
    table.note(f"{what}: time", f"{seconds:.0f} s with {jobs} workers")


def through_pretrain(what: str, paths: list[Path], out: Path, options: dict, table: Table) -> None:
    """Train on odd images among 150 sound ones, by one loading process."""
    images = make_images(out / "training/good", 150, 80, options["images"]).parent
    for number, path in enumerate(paths):
        (images / f"{number:04d}{path.suffix}").symlink_to(path.absolute())
    line = command("pretrain", images, "--out", out / "run", "--paste-probability", 0)
    line += ["--arch", "resnet18", "--image-size", "32", "--batch-size", "32", "--epochs", "1"]
    line += ["--negatives", "64", "--workers", "1", "--device", "cpu", "--set", "knn_every=0"]
    code, said, peak = watched(line, options["seconds"])
    outcome = "HANG" if code is None else "TRACEBACK" if code or "Traceback" in said else ""
    table.note(f"{what} through pretrain", outcome or "trained to its end", said[-600:])
    if not outcome:
        told = [row for row in said.splitlines() if " images " in row and "  " in row[:2]]
        steps = len(losses(out / "run"))
        table.note(f"{what} through pretrain: {steps} losses", "; ".join(r[:60] for r in told))
        told = f"{peak} MB the loading process"
        table.note(f"{what} through pretrain: memory", "MEMORY" if peak > LIMIT_MB else told, told)


@click.command()
@click.option("--count", default=3600, help="Mutants.")
@click.option("--pretrain", default=450, help="How many of them go through pretrain.")
@click.option("--bombs", "with_bombs", is_flag=True)
@click.option("--jobs", default=2)
@click.option("--seconds", default=1800.0, help="What takes longer hangs.")
@click.option("--images", type=Path, help="Photographs to take.")
@click.option("--scratch", "where", type=Path, help="Where files are made.")
@click.option("--seed", default=0)
def main(**options) -> None:
    """Print the table."""
    with Table() as table, scratch(options["where"]) as folder:
        if options["with_bombs"]:
            images = write_bombs(folder / "bombs")
            through_saliency("bombs", images, folder / "bombs-out", options, table)
            paths = sorted(images.iterdir())
            through_pretrain("bombs", paths, folder / "bombs-pretrain", options, table)
        if options["count"]:
            mutants = write_mutants(folder / "mutants", options["count"], options)
            through_saliency("mutants", mutants, folder / "mutants-out", options, table)
            paths = sorted(path for path in mutants.rglob("*.*") if path.is_file())
            paths = random.Random(options["seed"]).sample(paths, options["pretrain"])
            if paths:
                through_pretrain("mutants", paths, folder / "pretrain", options, table)


if __name__ == "__main__":
    main()

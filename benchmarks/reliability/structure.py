"""Shards and indices that are whole HDF5 files and not what the format says, made by h5py."""

import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import zstandard

Harm = Callable[[Path], None]
_DATASETS = ("masks", "keys", "status", "error", "mask_size", "image_size", "checks")
_TABLE = ("keys", "status", "mask_size", "image_size", "checks")
_TABLE += ("chunk_offset", "chunk_bytes", "chunk_filters")
_ATTRIBUTES = ("format", "format_version", "complete", "method", "parameters", "software")
_ATTRIBUTES += ("shard_number", "shard_count", "image_count", "keys_digest", "listing_digest")
_ATTRIBUTES += ("content_digest", "error_digest", "header_digest")
_VALUES = {
    "a negative number": -1,
    "an array": np.arange(5),
    "nothing": h5py.Empty("f"),
    "a text": "x",
    "bytes": np.bytes_(b"\xff\xfe"),
    "a huge number": 2**62,
    "NaN": float("nan"),
    "a JSON list": "[1,2]",
    "deep JSON": "[" * 60_000,
}


def edited(name: str, change: Callable[[h5py.File], object]) -> Harm:
    """Return harm done to a file that h5py has open for writing."""

    def harm(folder: Path) -> None:
        with h5py.File(folder / name, "r+", libver=("v110", "v110")) as file:
            change(file)

    return harm


def of_shards(names: list[str]) -> Iterator[tuple[str, Harm]]:
    """Yield what is done to the second of the shards, and the harm."""
    other, name = names[:2]
    for attribute in _ATTRIBUTES:
        yield f"no {attribute}", edited(name, lambda f, a=attribute: f.attrs.__delitem__(a))
        for what, value in _VALUES.items():
            change = lambda f, a=attribute, v=value: f.attrs.__setitem__(a, v)  # noqa: E731
            yield f"{attribute} is {what}", edited(name, change)
    for dataset in _DATASETS:
        yield f"no {dataset}", edited(name, lambda f, d=dataset: f.__delitem__(d))
        for what, make in _replacements(other, name).items():
            yield f"{dataset} is {what}", edited(name, _replaced(dataset, make))
    for what, make in _MASKS.items():
        yield f"masks {what}", edited(name, _replaced("masks", make))
    for what, change in _ROWS.items():
        yield what, edited(name, change)
    for (what, data), skipped in product(_chunks().items(), range(4)):
        change = lambda f, d=data, s=skipped: _store(f, d, s)  # noqa: E731
        yield f"chunk {what}, filters skipped {skipped}", edited(name, change)
    for what, harm in _files(other, name).items():
        yield f"the file is {what}", harm


def of_index() -> Iterator[tuple[str, Harm]]:
    """Yield what is done to the index, and the harm."""
    changes = {
        "all ones": lambda a: np.full_like(a, np.iinfo(a.dtype).max if a.dtype.kind == "u" else 1),
        "all zero": np.zeros_like,
        "reversed": lambda a: a[::-1],
        "the next row's": lambda a: np.roll(a, 1, 0),
    }
    for column in _TABLE:
        for what, change in changes.items():
            if not (column == "keys" and what == "all ones"):
                yield (
                    f"{column} {what}",
                    edited(
                        "index.h5",
                        lambda f, c=column, g=change: f["table"][c].write_direct(
                            np.ascontiguousarray(g(f["table"][c][:]))
                        ),
                    ),
                )
        for what, make in {
            "text": lambda f, n, s, d: f.create_dataset(n, data=["a", "b"]),
            "three rows": lambda f, n, s, d: f.create_dataset(n, data=np.zeros(3, d)),
            "another file": _external,
            "chunked": lambda f, n, s, d: f.create_dataset(n, s, d, chunks=True),
        }.items():
            replace = _replaced(column, make)
            yield f"{column} is {what}", edited("index.h5", lambda f, r=replace: r(f["table"]))
    for part, value in {
        "shards/first_row": lambda a: a + 1,
        "shards/bytes": lambda a: a + 1,
        "shards/name": lambda a: a[::-1],
        "shards/content_digest": lambda a: a[::-1],
    }.items():
        change = lambda f, p=part, v=value: f[p].__setitem__(slice(None), v(f[p][:]))  # noqa: E731
        yield f"{part} changed", edited("index.h5", change)
    for what in ("method", "parameters", "format_version", "listing_digest", "table_digest"):
        change = lambda f, a=what: f.attrs.__setitem__(a, "[" * 9)  # noqa: E731
        yield f"{what} changed", edited("index.h5", change)
    for what, harm in _files("shard-00000.h5", "index.h5").items():
        yield f"the file is {what}", harm


def _replaced(name: str, make: Callable) -> Callable[[h5py.Group], None]:
    def change(group: h5py.Group) -> None:
        shape, kind = group[name].shape, group[name].dtype
        del group[name]
        make(group, name, shape, kind)

    return change


def _external(f: h5py.Group, name: str, shape: tuple, kind: np.dtype) -> None:
    kind = "S40" if kind.hasobject else kind
    shape = shape if name != "masks" else (shape[0], 8, 8)
    f.create_dataset(name, shape, kind, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _replacements(other: str, name: str) -> dict[str, Callable]:
    """What a dataset may be instead, by its description."""

    def virtual(source: str) -> Callable:
        def make(f: h5py.File, n: str, s: tuple, d: np.dtype) -> None:
            layout = h5py.VirtualLayout(s, d)
            layout[...] = h5py.VirtualSource(source, n, s, d)
            f.create_virtual_dataset(n, layout)

        return make

    def of_shape(shape: Callable, kind: object = None, **options) -> Callable:
        return lambda f, n, s, d: f.create_dataset(n, shape(s), kind or d, **options)

    def many(rows: int) -> Callable:
        def make(f: h5py.File, n: str, s: tuple, d: np.dtype) -> None:
            chunks = (1 if n == "masks" else 1024, *s[1:])
            f.create_dataset(n, (rows, *s[1:]), d, chunks=chunks)

        return make

    return {
        "a group": lambda f, n, s, d: f.create_group(n),
        "a link to itself": lambda f, n, s, d: f.__setitem__(n, h5py.SoftLink("/" + n)),
        "a link to /etc/passwd": lambda f, n, s, d: f.__setitem__(
            n, h5py.ExternalLink("/etc/passwd", "/" + n)
        ),
        "a link to /dev/zero": lambda f, n, s, d: f.__setitem__(
            n, h5py.ExternalLink("/dev/zero", "/" + n)
        ),
        "a link to another shard": lambda f, n, s, d: f.__setitem__(n, h5py.ExternalLink(other, n)),
        "raw bytes of /etc/passwd": _external,
        "virtual, of another shard": virtual(other),
        "virtual, of no file": virtual("gone.h5"),
        "virtual, of itself": virtual(name),
        "a scalar": lambda f, n, s, d: f.create_dataset(n, data=np.uint8(3)),
        "null": lambda f, n, s, d: f.create_dataset(n, data=h5py.Empty("u1")),
        "floats": of_shape(lambda s: s, "f4"),
        "negative": of_shape(lambda s: s, "i4", fillvalue=-1),
        "compound": of_shape(lambda s: s, [("a", "u1"), ("b", "f4")]),
        "references": of_shape(lambda s: s, h5py.ref_dtype),
        "lists": of_shape(lambda s: s, h5py.vlen_dtype("u1")),
        "without rows": of_shape(lambda s: (0, *s[1:])),
        "a row short": of_shape(lambda s: (s[0] - 1, *s[1:])),
        "of five dimensions": of_shape(lambda s: (s[0], 1, 1, 1, 1)),
        "of 10^9 rows": many(10**9),
        "of 2^40 rows": many(2**40),
    }


def _filled(shape: Callable, chunks: Callable | None, **options) -> Callable:
    def make(f: h5py.File, n: str, s: tuple, d: np.dtype) -> None:
        more = {"chunks": chunks(s)} if chunks else {}
        f.create_dataset(n, data=np.full(shape(s), 7, "u1"), **more, **options)

    return make


_SEALED = {"fletcher32": True, **hdf5plugin.Zstd(clevel=3)}
_MASKS = {
    "of a huge canvas": lambda f, n, s, d: f.create_dataset(
        n, (s[0], 65535, 65535), "u1", chunks=(1, 65535, 65535), **_SEALED
    ),
    "of a canvas of 2^31": lambda f, n, s, d: f.create_dataset(
        n, (s[0], 2**31, 2**31), "u1", chunks=(1, 256, 256)
    ),
    "in other chunks": _filled(lambda s: s, lambda s: (2, 30, 30)),
    "contiguous": _filled(lambda s: s, None),
    "without a checksum": _filled(lambda s: s, lambda s: (1, *s[1:])),
    "shuffled": _filled(
        lambda s: s, lambda s: (1, *s[1:]), shuffle=True, compression="gzip", fletcher32=True
    ),
    "of rectangles": _filled(
        lambda s: (s[0], s[1], 2 * s[2]), lambda s: (1, s[1], 2 * s[2]), **_SEALED
    ),
    "of a small canvas": _filled(lambda s: (s[0], 8, 8), lambda s: (1, 8, 8), **_SEALED),
}


def _set(name: str, row: int | slice, value: object) -> Callable[[h5py.File], None]:
    return lambda f: f[name].__setitem__(row, value)


def _swap(f: h5py.File) -> None:
    masks = f["masks"].id
    chunks = [masks.read_direct_chunk((row, 0, 0)) for row in (1, 2)]
    for row, (skipped, data) in zip((2, 1), chunks, strict=True):
        masks.write_direct_chunk((row, 0, 0), data, skipped)


def _paint(f: h5py.File, where: tuple[int, int]) -> None:
    mask = f["masks"][1]
    mask[where] ^= 1
    f["masks"][1] = mask


_ROWS = {
    "two masks exchanged": _swap,
    "a pixel changed": lambda f: _paint(f, (0, 0)),
    "a pixel outside of its mask": lambda f: _paint(f, (-1, -1)),
    "sizes turned": lambda f: f["mask_size"].write_direct(f["mask_size"][:, ::-1].copy()),
    "keys reversed": lambda f: f["keys"].__setitem__(slice(None), f["keys"][:][::-1]),
    "a key ../../x": _set("keys", 0, "../../x"),
    "an error text": _set("error", 0, "nothing is wrong"),
    "a group that holds the root": lambda f: f.create_group("g").__setitem__("up", f["/"]),
    **{
        f"{name} {value}": _set(name, 1, value)
        for name in ("mask_size", "image_size")
        for value in ((1, 1), (0, 0), (5000, 5000), (2**32 - 1, 2**32 - 1))
    },
    **{
        f"status {value}": lambda f, v=value: f["status"].id.write(
            h5py.h5s.ALL,
            h5py.h5s.ALL,
            np.full(f["status"].shape, v, "u1"),
            mtype=f["status"].id.get_type(),
        )
        for value in (1, 2, 3, 77)
    },
}


def _chunks() -> dict[str, bytes]:
    """Bytes of a mask's chunk, the checksum of HDF5 at their end, by their description."""
    compressor = zstandard.ZstdCompressor().compressobj()
    endless = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(64)) + compressor.flush()
    return {
        "empty": b"",
        "of one byte": b"a",
        "of four bytes": b"aaaa",
        "of five bytes": b"aaaaa",
        "of garbage": b"garbage!" * 9,
        "that grows to 2 GB": zstandard.compress(bytes(2**31 - 64)),
        "that grows to 1 GB, and does not say so": endless,
        "of zlib, that grows to 1 GB": zlib.compress(bytes(2**30)),
        "too short": zstandard.compress(b"abc"),
        "too long": zstandard.compress(bytes(90 * 90 + 1)),
    }


def _store(f: h5py.File, data: bytes, skipped: int) -> None:
    """Write a chunk of the second row, its Fletcher-32 at the end as HDF5 computes it."""
    if 5 < len(data) < 1000:
        low = high = 0
        for word in np.frombuffer(data.ljust(len(data) + len(data) % 2, b"\0"), ">u2").tolist():
            low = (low + word) % 65535
            high = (high + low) % 65535
        data += (high << 16 | low).to_bytes(4, "little")
    f["masks"].id.write_direct_chunk((1, 0, 0), data, skipped)


def _files(other: str, name: str) -> dict[str, Harm]:
    """What may lie in a shard's place."""

    def instead(make: Callable[[Path], object]) -> Harm:
        def harm(folder: Path) -> None:
            (folder / name).unlink()
            make(folder / name)

        return harm

    return {
        "a folder": instead(Path.mkdir),
        "empty": instead(Path.touch),
        "gone": instead(lambda path: None),
        "a pipe": instead(os.mkfifo),
        "another shard's": instead(lambda path: shutil.copy(path.with_name(other), path)),
        "noise": instead(lambda path: path.write_bytes(np.random.default_rng(0).bytes(20_000))),
        "another HDF5 file": instead(lambda path: h5py.File(path, "w").close()),
        **{
            f"a link to {target}": instead(lambda path, t=target: path.symlink_to(t))
            for target in ("/etc/passwd", "/dev/zero", "/dev/null", "/nonexistent", other, name)
        },
    }

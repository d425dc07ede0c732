"""The batch stage from Python: what it writes, what it keeps, what it computes again."""

import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

import saliency
from data.errors import UserError
from data.images.decode import decode, open_image
from data.images.listing import list_images
from data.masks.format import INDEX_NAME, ChunkEncoder, Status, read_header, shard_name, shard_paths
from data.masks.read import MaskShards
from saliency import batch, workers
from saliency.batch import Plan, make_shards
from saliency.maps import choose, compute_maps
from saliency.workers import Row, Workers, to_uint8

METHODS = ("rbd", "mc", "gs")


def make_plan(images: Path, out: Path, methods=("rbd",), limit=None, **options) -> Plan:
    max_side = options.get("max_side", 128)
    return Plan(
        **{
            "images": images,
            "keys": list_images(images)[:limit],
            "folders": {name: out / name if len(methods) > 1 else out for name in methods},
            "parameters": {name: {"max_side": max_side} for name in methods},
            "map_function": partial(
                compute_maps, chosen=choose(set(methods) & set(METHODS), {"superpixels": "authors"})
            ),
            "max_side": max_side,
            "shard_size": 3,
            **options,
        }
    )


def make(*arguments, compute=None, **options) -> batch.Summary:
    plan = make_plan(*arguments, **options)
    return make_shards(plan, compute or Workers(jobs=1).compute)


def contents(folder: Path) -> list[tuple]:
    """All that a set of shards says, row by row, the compressed bytes included."""
    entries = []
    for path in shard_paths(folder):
        header = read_header(path)
        with h5py.File(path, "r") as file:
            masks = file["masks"]
            for row in range(header.images):
                stored = file["status"][row] < Status.UNREADABLE
                entries.append(
                    (
                        header.number,
                        header.content_digest,
                        file["keys"][row],
                        int(file["status"][row]),
                        file["error"][row],
                        tuple(file["mask_size"][row]),
                        tuple(file["image_size"][row]),
                        masks.id.read_direct_chunk((row, 0, 0)) if stored else None,
                    )
                )
    return entries


@pytest.fixture(scope="module")
def rbd_shards(photographs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rbd")
    make(photographs, out)
    return out


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_masks_are_those_of_the_single_images(photographs, tmp_path, compression):
    summary = make(photographs, tmp_path, compression=compression)
    assert (summary.images, summary.masks, summary.rows, summary.shards_written) == (8, 7, 8, 3)
    assert summary.failures == [("torn.jpg", "empty file")]
    shards = MaskShards(tmp_path)
    assert list(shards.keys) == list(list_images(photographs))
    assert (tmp_path / INDEX_NAME).exists()
    for key in shards.keys:
        row = shards.find(key)
        if key == "torn.jpg":
            assert shards.status(row) == Status.UNREADABLE
            assert shards.error(row) == "empty file"
            continue
        image, size = decode(photographs / key, 128)
        assert shards.image_size(row) == size
        assert np.array_equal(shards.read(row), to_uint8(saliency.rbd(image)))
        assert shards.status(row) == (Status.FLAT if key == "flat.png" else Status.OK)


def test_quantisation_rounds_halves_up():
    values = np.array([[0, 0.5 / 255, 1.49 / 255, 2.5 / 255, 1]])
    assert to_uint8(values).tolist() == [[0, 1, 1, 3, 255]]


def test_several_methods_in_one_pass_equal_the_single_ones(photographs, rbd_shards, tmp_path):
    summary = make(photographs, tmp_path, METHODS)
    assert (summary.images, summary.masks) == (8, 21)
    assert contents(tmp_path / "rbd") == contents(rbd_shards)
    for method in ("mc", "gs"):
        make(photographs, tmp_path / "single" / method, (method,))
        assert contents(tmp_path / method) == contents(tmp_path / "single" / method)
        assert MaskShards(tmp_path / method).method == method


@pytest.mark.parametrize("parts", [2, 5])
def test_all_parts_equal_one_run(photographs, rbd_shards, tmp_path, parts):
    for part in range(parts, 0, -1):
        assert not (tmp_path / INDEX_NAME).exists()
        summary = make(photographs, tmp_path, part=part, parts=parts)
        assert summary.shards_written == len(range(part - 1, 3, parts))
    assert summary.shards_missing == 0
    assert (tmp_path / INDEX_NAME).exists()
    assert contents(tmp_path) == contents(rbd_shards)


def test_worker_processes_equal_one_process(photographs, rbd_shards, tmp_path):
    workers = Workers(jobs=2)
    try:
        make_shards(make_plan(photographs, tmp_path), workers.compute)
    finally:
        workers.close()
    assert contents(tmp_path) == contents(rbd_shards)


def test_limit_and_shard_size(photographs, rbd_shards, tmp_path):
    make(photographs, tmp_path, limit=5, shard_size=4)
    assert [read_header(path).images for path in shard_paths(tmp_path)] == [4, 1]
    assert [row[2:] for row in contents(tmp_path)] == [row[2:] for row in contents(rbd_shards)[:5]]


def test_without_a_cap_each_shard_has_its_own_canvas(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_BLOCK", 2)
    make(photographs, tmp_path, max_side=0)
    shards = MaskShards(tmp_path)
    for number, path in enumerate(shard_paths(tmp_path)):
        sides = [
            max(*shards.image_size(row), 1) for row in range(3 * number, min(3 * number + 3, 8))
        ]
        assert read_header(path).canvas == max(sides)
    assert shards.mask_size(0) == shards.image_size(0)
    assert len({read_header(path).canvas for path in shard_paths(tmp_path)}) > 1


# Going on --------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The images that are decoded, as they are."""
    names = []

    def count(path):
        names.append(os.path.basename(path))
        return open_image(path)

    monkeypatch.setattr(workers, "open_image", count)
    return names


def test_a_second_run_decodes_only_what_was_unreadable_and_says_the_same(
    photographs, tmp_path, decoded
):
    first = make(photographs, tmp_path)
    before = contents(tmp_path)
    decoded.clear()
    second = make(photographs, tmp_path)
    assert decoded == ["torn.jpg"]
    assert (second.images, second.shards_kept, second.shards_written) == (0, 3, 0)
    assert second.statuses == first.statuses and second.failures == first.failures
    assert contents(tmp_path) == before


def test_only_what_is_missing_is_computed(photographs, rbd_shards, tmp_path, decoded):
    make(photographs, tmp_path)
    (tmp_path / shard_name(1)).unlink()
    (tmp_path / INDEX_NAME).unlink()
    (tmp_path / f".{shard_name(1)}.0123abcd.tmp").write_bytes(b"half of it")
    decoded.clear()
    make(photographs, tmp_path)
    assert decoded == ["torn.jpg", "disc-3.png", "disc-4.png", "disc-5.png"]
    assert contents(tmp_path) == contents(rbd_shards)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        INDEX_NAME,
        *(shard_name(i) for i in range(3)),
    ]


def test_a_method_that_lacks_a_shard_does_not_touch_the_others(photographs, tmp_path):
    make(photographs, tmp_path, METHODS)
    before = contents(tmp_path / "gs")
    (tmp_path / "gs" / shard_name(2)).unlink()
    kept = {path: path.stat().st_ino for path in tmp_path.glob("*/shard-*.h5")}
    summary = make(photographs, tmp_path, METHODS)
    assert summary.masks == 1  # the third shard has two rows, one of them unreadable
    assert contents(tmp_path / "gs") == before
    assert kept == {path: path.stat().st_ino for path in kept}


def test_overwriting_replaces_own_shards_only(photographs, tmp_path):
    make(photographs, tmp_path)
    summary = make(photographs, tmp_path, part=2, parts=3, max_side=64, overwrite=True)
    assert summary.shards_written == 1
    sides = [read_header(path).parameters["max_side"] for path in shard_paths(tmp_path)]
    assert sides == [128, 64, 128]
    assert summary.shards_missing == 2 and not (tmp_path / INDEX_NAME).exists()
    for part in (1, 3):
        summary = make(photographs, tmp_path, part=part, parts=3, max_side=64, overwrite=True)
    assert summary.shards_missing == 0 and (tmp_path / INDEX_NAME).exists()
    make(photographs, tmp_path, limit=2, overwrite=True)
    assert len(shard_paths(tmp_path)) == 1


@pytest.fixture
def stop_after(monkeypatch):
    """Ctrl-C after so many images."""

    def stop(images):
        done = 0

        def count(path):
            nonlocal done
            done += 1
            if done > images:
                raise KeyboardInterrupt
            return open_image(path)

        monkeypatch.setattr(workers, "open_image", count)

    return stop


def test_overwriting_deletes_and_then_resumes_like_any_run(photographs, tmp_path, stop_after):
    make(photographs, tmp_path)
    (tmp_path / "notes.txt").write_text("not ours")
    stop_after(4)
    with pytest.raises(KeyboardInterrupt):
        make(photographs, tmp_path, max_side=64, overwrite=True)
    assert len(shard_paths(tmp_path)) == 1  # the old ones are gone, the first new one is there
    stop_after(8)
    summary = make(photographs, tmp_path, max_side=64)
    assert (summary.shards_kept, summary.shards_written, summary.images) == (1, 2, 5)
    assert {read_header(path).parameters["max_side"] for path in shard_paths(tmp_path)} == {64}
    assert (tmp_path / "notes.txt").read_text() == "not ours"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"methods": ("gs",)}, "of method 'rbd', not 'gs'"),
        ({"limit": 7}, "of other images than the 7 in .*"),
        ({"max_side": 64}, "made with max_side 128, not 64"),
        ({"shard_size": 4}, r"of another --shard-size \(3 shards, not 2\)"),
    ],
)
def test_shards_of_another_run_are_refused(photographs, rbd_shards, change, sentence):
    before = contents(rbd_shards)
    with pytest.raises(UserError, match=f"already holds shards {sentence}; .*--overwrite"):
        make(photographs, rbd_shards, **change)
    assert contents(rbd_shards) == before


def test_an_image_that_breaks_a_method_is_a_row(photographs, tmp_path):
    def break_at_once(image):
        raise RuntimeError("one\nreason")

    summary = make(photographs, tmp_path, map_function=break_at_once)
    assert summary.statuses[Status.FAILED] == 7
    assert MaskShards(tmp_path).error("flat.png") == "RuntimeError: one reason"


def test_a_folder_that_fills_the_disk_leaves_whole_shards(photographs, tmp_path, monkeypatch):
    """The sentence comes from `data.files`; here, what remains of a run."""
    write_bytes = Path.write_bytes
    written = 0

    def fill(path, data):
        nonlocal written
        written += len(data)
        if written > 60_000:
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match=r"No space left on device: .*shard-"):
        make(photographs, tmp_path, shard_size=1)
    monkeypatch.undo()
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == [shard_name(i) for i in range(len(there))] and 0 < len(there) < 8
    assert make(photographs, tmp_path, shard_size=1).shards_kept == len(there)


def test_maps_may_be_computed_in_other_ways(photographs, tmp_path):
    """What a method on an accelerator does: its own way from blocks to rows."""

    def compute(plan, blocks):
        for block in blocks:
            encoder = ChunkEncoder(plan.canvas(block.shard))
            mask = np.full((4, 5), 7, np.uint8)
            masks = {"net": (encoder.encode(mask), Status.OK)}
            yield [Row(masks, (8, 10), (4, 5)) for _ in block.keys]

    make(photographs, tmp_path, ("net",), compute=compute)
    shards = MaskShards(tmp_path)
    assert len(shards) == 8
    assert np.array_equal(shards.read(5), np.full((4, 5), 7))

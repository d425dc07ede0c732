"""Whatever is wrong with shards is found and named."""

import shutil

import h5py
import numpy as np
import pytest

from data.errors import UserError
from data.masks.format import Status, shard_name
from data.masks.verify import verify


def problems(folder, **options):
    report = verify(folder, **options)
    assert report.sound == (not report.problems)
    return " ".join(report.problems)


@pytest.mark.parametrize("jobs", [1, 2])
def test_sound_shards(tmp_path, write_shards, masks, jobs):
    write_shards(tmp_path, masks, size=3)
    report = verify(tmp_path, jobs=jobs)
    assert report.sound and not report.notes
    assert (report.shards, report.images) == (4, 11)
    assert report.counts == {
        Status.OK: 9,
        Status.FLAT: 1,
        Status.UNREADABLE: 1,
        Status.FAILED: 0,
    }


def test_every_flipped_byte_of_a_mask_is_found(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=50)
    path = tmp_path / shard_name(0)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    with h5py.File(path, "r") as file:
        chunks = [
            (row, file["masks"].id.get_chunk_info_by_coord((row, 0, 0)))
            for row, status in enumerate(file["status"])
            if status <= Status.FLAT
        ]
    for row, chunk in chunks:
        for place in rng.integers(0, chunk.size, 3).tolist():
            raw = bytearray(good)
            raw[chunk.byte_offset + place] ^= 1 << int(rng.integers(8))
            path.write_bytes(raw)
            assert f"row {row} (" in problems(tmp_path)


def test_a_chunk_without_room_for_a_checksum_is_a_problem(tmp_path, write_shards):
    write_shards(tmp_path, {"a.jpg": np.ones((5, 5), np.uint8)})
    with h5py.File(tmp_path / shard_name(0), "r+") as file:
        file["masks"].id.write_direct_chunk((0, 0, 0), b"123")
    assert "3 bytes cannot be a mask" in problems(tmp_path)


def test_exchanged_masks_are_found(tmp_path, write_shards, masks):
    """Each with a right checksum, in the wrong place."""
    write_shards(tmp_path, {"a.jpg": np.ones((5, 5), np.uint8), "b.jpg": np.eye(5, dtype=np.uint8)})
    with h5py.File(tmp_path / shard_name(0), "r+") as file:
        stored = [file["masks"].id.read_direct_chunk((row, 0, 0)) for row in (0, 1)]
        for row, (skipped, data) in enumerate(reversed(stored)):
            file["masks"].id.write_direct_chunk((row, 0, 0), data, skipped)
    assert "row 0 ('a.jpg'): the mask is damaged (its checksum differs)" in problems(tmp_path)


def change(path, column, row, value):
    with h5py.File(path, "r+") as file:
        file[column][row] = value


@pytest.mark.parametrize(
    ("column", "row", "value", "sentence"),
    [
        ("status", 0, 3, "its status is FAILED, but a mask is stored"),
        ("status", 9, 0, "its status is OK, but no mask is stored"),
        ("status", 0, 9, "a status is not one of [0, 1, 2, 3]"),
        ("status", 0, 1, "its status is FLAT, which its mask is not"),
        ("status", 2, 0, "its status is OK, which its mask is not"),
        ("mask_size", 0, (41, 1), "its mask size 41x1 does not fit a canvas of 40"),
        ("mask_size", 0, (0, 0), "does not fit a canvas"),
        ("mask_size", 1, (39, 40), "something outside of its mask"),
        ("mask_size", 9, (1, 1), "it has no mask, but a mask size of 1x1"),
        ("image_size", 0, (7, 7), "their digest differs"),
        ("keys", 0, "b", "its keys are not sorted and unique"),
        ("keys", 0, "a/0000", "its keys are not those it was made with"),
        ("masks", 0, np.full((40, 40), 7), "row 0 ('a/000.JPEG')"),
    ],
)
def test_every_changed_column_is_found(tmp_path, write_shards, masks, column, row, value, sentence):
    keys = write_shards(tmp_path, masks, size=50)
    assert keys.find("m.jpg") == 9
    change(tmp_path / shard_name(0), column, row, value)
    assert sentence in problems(tmp_path)


def test_columns_of_the_wrong_length_or_missing(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=50)
    path = tmp_path / shard_name(0)
    with h5py.File(path, "r+") as file:
        del file["error"]
        file["error"] = np.zeros(5)
    assert "error is (5,), it should be (11,)" in problems(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["error"]
    assert "shard-00000.h5' is damaged (there is no dataset 'error')" in problems(tmp_path)


def test_missing_doubled_and_foreign_shards(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=3)
    shutil.copy(tmp_path / shard_name(0), tmp_path / "kept")
    (tmp_path / shard_name(0)).unlink()
    found = problems(tmp_path)
    assert "has 3 of 4 shards, missing: 0" in found
    assert "index.h5: it does not fit the shards" in found

    shutil.copy(tmp_path / shard_name(2), tmp_path / shard_name(0))
    found = problems(tmp_path)
    assert "shard-00000.h5' is shard 2 of its set; give it back its name 'shard-00002.h5'" in found
    assert "not sorted and unique over the whole set" in found

    (tmp_path / shard_name(0)).write_text("hello")
    assert "cannot be opened as HDF5" in problems(tmp_path)

    shutil.move(tmp_path / "kept", tmp_path / shard_name(0))
    write_shards(tmp_path, masks, size=3, method="mc", only=(3,), index=False)
    assert (
        "shard-00003.h5' and 'shard-00000.h5' are not of one set (they differ in method)"
        in problems(tmp_path)
    )


def test_keys_that_are_not_the_listing(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, size=50, listing_digest="0" * 64)
    assert "not the listing that the masks were made for" in problems(tmp_path)


def test_a_wrong_table_in_the_index_is_found(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks)
    with h5py.File(tmp_path / "index.h5", "r+") as file:
        file["table/chunk_offset"][3] += 1
    assert "index.h5: it does not fit the shards" in problems(tmp_path)


def test_without_an_index_there_is_a_note(tmp_path, write_shards, masks):
    write_shards(tmp_path, masks, index=False)
    report = verify(tmp_path)
    assert report.sound and "There is no index.h5" in report.notes[0]


def test_images_without_a_mask_and_masks_without_an_image(tmp_path, write_shards):
    mask = np.ones((4, 4), np.uint8)
    write_shards(tmp_path / "out", {"a.jpg": mask, "b.jpg": mask, "d/c.jpg": mask})
    images = tmp_path / "images"
    (images / "d").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "d/c.jpg"):
        (images / name).touch()
    assert verify(tmp_path / "out", images).sound
    (images / "b.jpg").unlink()
    (images / "d" / "new.png").touch()
    report = verify(tmp_path / "out", images)
    assert not report.sound and not report.problems
    assert (report.without_mask, report.without_image) == (["d/new.png"], ["b.jpg"])


def test_a_folder_without_shards(tmp_path):
    with pytest.raises(UserError, match="there are no mask shards"):
        verify(tmp_path)

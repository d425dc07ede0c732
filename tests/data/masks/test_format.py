"""A reader refuses what is not a whole shard of its version, in one sentence."""

import h5py
import numpy as np
import pytest

from data.errors import UserError
from data.masks.format import Status, read_header, shard_name, software_versions, status_of
from data.masks.opening import open_shard


def test_header(tmp_path, write_shards, masks):
    keys = write_shards(tmp_path, masks, size=5)
    header = read_header(tmp_path / shard_name(2))
    assert (header.number, header.count, header.images, header.canvas) == (2, 3, 1, 40)
    assert (header.method, header.parameters, header.software) == (
        "rbd",
        {"max_side": 40},
        {"dilo": "0"},
    )
    assert header.keys_digest == keys[10:].digest()
    assert header.listing_digest == keys.digest()


@pytest.mark.parametrize(
    ("attribute", "value", "sentence"),
    [
        ("format", "other", "is not a mask shard of DiLo"),
        ("format", None, "is not a mask shard of DiLo"),
        ("format_version", 3, "has version 3 of the shard format, this program reads 1 to 2"),
        ("format_version", "\x1b[" * 9000, r"has version '(\\x1b\[){7}\\x1b of the shard format"),
        ("complete", 0, "is not complete"),
        ("complete", None, "is not complete"),
        ("complete", 2, "is not complete"),
        ("complete", [1, 1], "is not complete"),
        ("parameters", "{", "its attributes are not those it was made with"),
        ("method", None, "its attributes are not those it was made with"),
        ("method", "mc", "its attributes are not those it was made with"),
        ("software", '{"dilo": "1"}', "its attributes are not those it was made with"),
        ("more", "of somebody", "its attributes are not those it was made with"),
        ("shard_number", [1, 2], "'shard_number' is neither text nor a whole number"),
        ("header_digest", None, "its attributes are not those it was made with"),
    ],
)
def test_foreign_and_incomplete_files(tmp_path, write_shards, masks, attribute, value, sentence):
    write_shards(tmp_path, masks, size=50)
    path = tmp_path / shard_name(0)
    with h5py.File(path, "r+") as file:
        if value is None:
            del file.attrs[attribute]
        else:
            file.attrs[attribute] = value
    with pytest.raises(UserError, match=sentence) as caught:
        read_header(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_no_hdf5(tmp_path):
    (tmp_path / "a.h5").write_text("hello")
    with pytest.raises(UserError, match=r"a.h5' is damaged \(cannot be opened as HDF5.*; delete"):
        open_shard(tmp_path / "a.h5")
    with pytest.raises(FileNotFoundError) as caught:
        open_shard(tmp_path / "b.h5")
    assert caught.value.filename == str(tmp_path / "b.h5")


def test_what_the_system_refuses_is_not_to_be_deleted(tmp_path):
    (tmp_path / "a.h5").symlink_to("a.h5")
    with pytest.raises(OSError, match=r"symbolic links: .*a\.h5"):
        open_shard(tmp_path / "a.h5")


def test_a_shard_is_read_without_locks(tmp_path, write_shards, masks):
    """As on network file systems that have none: another process's lock does not matter."""
    import fcntl

    write_shards(tmp_path, masks, size=50)
    path = tmp_path / shard_name(0)
    with open(path, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError), h5py.File(path, "r", locking=True):
            pass
        assert read_header(path).images == len(masks)


def test_status_of():
    assert status_of(np.zeros((3, 3), np.uint8)) is Status.FLAT
    assert status_of(np.eye(3, dtype=np.uint8)) is Status.OK


def test_versions():
    versions = software_versions()
    assert versions["numpy"] == np.__version__ and versions["h5py"] == h5py.__version__
    assert all(isinstance(version, str) and version for version in versions.values())
    assert {"dilo", "python", "opencv", "pillow", "hdf5"} <= set(versions)

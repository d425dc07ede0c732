"""Archives give what their folder gives, read at random without unpacking."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from data.images import archives
from data.images.decode import UnreadableImage, decode, read_size
from data.images.labels import labels_from_folders
from data.images.listing import OddEndings, key_path, list_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("archives") / "photos"
    rng = np.random.default_rng(0)
    for name in ("cats/1.png", "cats/ü 2.jpg", "dogs/big/3.jpg", "dogs/4.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        size = rng.integers(8, 40, 2)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / name)
    (root / "dogs/torn.jpg").write_bytes((root / "dogs/4.jpg").read_bytes()[:200])
    (root / "dogs/.hidden.jpg").touch()
    (root / "readme.txt").write_text("no image")
    return root


def make_tar(folder: Path, path: Path, top: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=top or ".")
    return path


def make_tar_of_tars(folder: Path, path: Path) -> Path:
    """As ImageNet's: a tar for each class, in one."""
    with tarfile.open(path, "w") as outer:
        for inner in ("cats", "dogs"):
            data = make_tar(folder / inner, path.with_name(f"{inner}.part")).read_bytes()
            member = tarfile.TarInfo(f"{inner}.tar")
            member.size = len(data)
            outer.addfile(member, io.BytesIO(data))
    return path


def make_zip(folder: Path, path: Path, how: int) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))  # below photos/
    return path


MAKERS = {
    "tar": lambda folder, path: make_tar(folder, path / "a.tar"),
    "tar-below-a-folder": lambda folder, path: make_tar(folder, path / "a.TAR", "x/photos"),
    "tar-of-tars": lambda folder, path: make_tar_of_tars(folder, path / "a.tar"),
    "zip": lambda folder, path: make_zip(folder, path / "a.zip", zipfile.ZIP_DEFLATED),
    "zip-stored": lambda folder, path: make_zip(folder, path / "a.zip", zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_keys_labels_and_pixels_are_the_folders(folder, tmp_path, kind):
    archive = MAKERS[kind](folder, tmp_path)
    keys = list_images(folder)
    assert list_images(archive) == keys and len(keys) == 5
    ours, theirs = labels_from_folders(list_images(archive)), labels_from_folders(keys)
    assert ours.class_names == theirs.class_names == ["cats", "dogs"]
    assert (ours.labels == theirs.labels).all()
    for key in reversed(keys):
        if "torn" in key:
            continue
        assert (decode(key_path(archive, key)).image == decode(key_path(folder, key)).image).all()
        assert read_size(key_path(archive, key)) == read_size(key_path(folder, key))
    assert list_images(archive / "dogs") == list_images(folder / "dogs")
    for path in (folder, archive):
        with pytest.raises(UnreadableImage):
            decode(key_path(path, "dogs/torn.jpg"))
        with pytest.raises(UnreadableImage, match="no such file or folder"):
            decode(key_path(path, "dogs/5.jpg"))


def test_what_is_no_image_is_counted(folder, tmp_path):
    odd = OddEndings()
    list_images(make_tar(folder, tmp_path / "a.tar"), odd)
    assert odd.skipped == {".txt": 1}


def test_folder_of_tars(folder, tmp_path):
    for name in ("cats", "dogs"):
        make_tar(folder / name, tmp_path / f"{name}.tar")
    keys = list_images(tmp_path)
    assert keys[0] == "cats.tar/1.png" and len(keys) == 5
    assert (decode(key_path(tmp_path, keys[0])).image == decode(folder / "cats/1.png").image).all()
    Image.new("RGB", (3, 3)).save(tmp_path / "beside.png")  # then they are somebody's backup
    assert list(list_images(tmp_path)) == ["beside.png"]


def test_index_is_made_once_and_anew_when_the_archive_changes(folder, tmp_path, monkeypatch):
    archive = make_tar(folder, tmp_path / "a.tar")
    scans = []
    scan = archives._scan
    monkeypatch.setattr(archives, "_scan", lambda path: scans.append(path) or scan(path))
    keys = list_images(archive)
    archives._index.cache_clear()  # as another process
    assert list_images(archive) == keys and len(scans) == 1
    assert (tmp_path / ".a.tar.index.npz").exists()
    make_tar(folder / "cats", archive)
    os.utime(archive, (0, 0))
    assert list(list_images(archive)) == ["1.png", "ü 2.jpg"] and len(scans) == 2
    (tmp_path / ".a.tar.index.npz").write_bytes(b"PK\3\4 torn")
    archives._index.cache_clear()
    assert len(list_images(archive)) == 2 and len(scans) == 3


def test_a_folder_that_cannot_be_written_to(folder, tmp_path, monkeypatch):
    archive = make_tar(folder, tmp_path / "a.tar")
    monkeypatch.setattr(archives.tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    write = archives.write_whole

    def refuse(path: Path, data: bytes) -> None:
        if path.parent == tmp_path:
            raise PermissionError
        write(path, data)

    monkeypatch.setattr(archives, "write_whole", refuse)
    (tmp_path / "elsewhere").mkdir()
    assert len(list_images(archive)) == 5
    assert len(list((tmp_path / "elsewhere").rglob("*.npz"))) == 1


@pytest.mark.parametrize("ending", archives.FORMATS)
def test_no_archive_is_a_sentence(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"nothing of the kind" * 60)
    with pytest.raises(UserError, match=r"cannot be read .*; make it anew"):
        list_images(path)


def test_archive_cut_off_behind_its_index(folder, tmp_path):
    archive = make_zip(folder, tmp_path / "a.zip", zipfile.ZIP_STORED)
    (key, *_) = list_images(archive)
    facts = archive.stat()
    data = bytearray(archive.read_bytes())
    data[100:] = bytes(len(data) - 100)
    archive.write_bytes(data)
    os.utime(archive, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(UnreadableImage):
        decode(key_path(archive, key))

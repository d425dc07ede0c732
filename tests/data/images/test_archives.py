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
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "elsewhere"))
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


# Odd and hostile archives -----------------------------------------------------------------------


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", link: str = "", kind: bytes = b"0"):
    member = tarfile.TarInfo(name)
    member.size, member.linkname, member.type = len(data), link, kind
    tar.addfile(member, io.BytesIO(data))


def test_links_are_followed_within_a_tar_and_never_out_of_it(folder, tmp_path):
    image, secret = (folder / "dogs/4.jpg").read_bytes(), tmp_path / "secret.jpg"
    secret.write_bytes(image)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a/1.jpg", image)
        add(tar, "a/hard.jpg", link="a/1.jpg", kind=tarfile.LNKTYPE)
        add(tar, "b/soft.jpg", link="../a/hard.jpg", kind=tarfile.SYMTYPE)
        add(tar, "b/lost.jpg", link="secret.jpg", kind=tarfile.SYMTYPE)
        add(tar, "b/out.jpg", link=str(secret), kind=tarfile.SYMTYPE)
        add(tar, "b/self.jpg", link="self.jpg", kind=tarfile.SYMTYPE)
        add(tar, "../../c/up.jpg", image)
    keys = list_images(tmp_path / "a.tar")
    lost = ["b/lost.jpg", "b/out.jpg", "b/self.jpg"]
    assert list(keys) == ["a/1.jpg", "a/hard.jpg", *lost, "b/soft.jpg", "c/up.jpg"]
    for key in keys:
        if key in lost:  # an image that is missing, as in a folder
            with pytest.raises(UnreadableImage, match="no image behind this name"):
                decode(key_path(tmp_path / "a.tar", key))
        else:
            assert archives.open_file(key_path(tmp_path / "a.tar", key)).read() == image


def test_tars_in_tars_end(tmp_path):
    data = b""
    for _ in range(60):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            add(tar, "a.tar", data)
        data = buffer.getvalue()
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"a.tar' cannot be read \(tar files in tar files, more"):
        list_images(tmp_path / "a.tar")


def test_zips_of_all_kinds_of_programs(folder, tmp_path):
    image = (folder / "dogs/4.jpg").read_bytes()
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mac/Zuerich.jpg", image)
        archive.writestr("net+1.jpg", image)
        archive.writestr("x/secret.jpg", image)
        archive.writestr("x/small.jpg", image, zipfile.ZIP_BZIP2)
    data = path.read_bytes()
    data = data.replace(b"Zuerich", "Zürich".encode())  # undeclared
    data = data.replace(b"net+1", b"net\\1")
    at = data.index(b"x/secret.jpg", data.index(b"PK\1\2")) - 46
    path.write_bytes(data[: at + 8] + b"\1" + data[at + 9 :])
    keys = list_images(path)
    assert list(keys) == ["mac/Zürich.jpg", "net/1.jpg", "x/secret.jpg", "x/small.jpg"]
    for key in keys[:2]:
        assert archives.open_file(key_path(path, key)).read() == image
    for key, reason in (("x/secret.jpg", "is encrypted"), ("x/small.jpg", "compressed it in a wa")):
        with pytest.raises(UnreadableImage, match=reason):
            read_size(key_path(path, key))


def mutants(data: bytes, count: int):
    rng = np.random.default_rng(0)
    for number in range(count):
        raw = bytearray(data)
        at = int(rng.integers(len(raw)))
        if number % 4 == 3:
            del raw[at:]
        elif number % 4 == 2:
            raw[at : at + 64] = bytes(rng.integers(0, 256, 64, np.uint8))
        else:
            for _ in range(1 + 7 * (number % 2)):
                raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        yield bytes(raw)


@pytest.mark.parametrize("kind", MAKERS)
def test_damage_of_an_archive_is_a_sentence_or_an_unreadable_image(folder, tmp_path, kind):
    archive = MAKERS[kind](folder, tmp_path)
    for data in mutants(archive.read_bytes(), 24):
        archives._index.cache_clear()
        archive.write_bytes(data)
        try:
            for key in list_images(archive):
                decode(key_path(archive, key))
        except (UserError, UnreadableImage):
            pass


def listed(archive: Path, data: bytes) -> list[str] | str:
    """Return the keys of an archive of these bytes, or the sentence that refuses it."""
    archives._index.cache_clear()
    archive.write_bytes(data)
    try:
        return list(list_images(archive))
    except UserError as error:
        return error.message


@pytest.mark.parametrize("kind", ["tar", "tar-of-tars", "zip", "zip-stored"])
def test_damaged_names_and_ends_leave_no_image_out(folder, tmp_path, kind):
    """tarfile ends at a header that is damaged, as if nothing followed."""
    archive = MAKERS[kind](folder, tmp_path)
    data, keys = archive.read_bytes(), list(list_images(archive))
    assert len(keys) == 5
    names = [at for at in range(len(data)) if data.startswith((b"1.png", b"4.jpg"), at)]
    assert len(names) >= 2
    for at in names:
        told = listed(archive, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert "cannot be read" in told and "make it anew" in told
    for end in range(512, len(data) - 1, 512):
        told = listed(archive, data[:end])
        whole = told == keys and not data[end:].strip(b"\0")  # of the zeros at a tar's end
        assert whole or "cannot be read" in told, (end, told)
    assert listed(archive, data) == keys


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_in_a_zip_is_told(tmp_path, how):
    """Of an uncompressed format, no decoder would notice."""
    path, memory = tmp_path / "a.zip", io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(memory, "BMP")
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("a.bmp", memory.getvalue())
        archive.writestr("b.bmp", memory.getvalue())
    data = bytearray(path.read_bytes())
    data[data.index(b"b.bmp") - 40] ^= 1  # in the last bytes of a
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match=r"not those that its archive was made of|damaged"):
        decode(key_path(path, "a.bmp"))
    assert decode(key_path(path, "b.bmp")).image.shape == (20, 30, 3)


def test_a_damaged_or_planted_index_is_made_anew(folder, tmp_path):
    archive = make_tar(folder, tmp_path / "a.tar")
    keys, index = list_images(archive), tmp_path / ".a.tar.index.npz"
    good = archives.index_of(str(archive))
    for data in mutants(index.read_bytes(), 40):
        archives._index.cache_clear()
        index.write_bytes(data)
        assert list_images(archive) == keys
        assert (archives.index_of(str(archive)).places == good.places).all()
    with np.load(index) as file:
        arrays = dict(file)
    arrays["files"] = np.array([b"../../etc/passwd"])
    np.savez(index, **arrays)
    archives._index.cache_clear()
    assert archives.index_of(str(archive)).files.tolist() == [b""]
    index.unlink()
    os.mkfifo(index)
    archives._index.cache_clear()
    assert list_images(archive) == keys


def test_somebody_elses_temporary_folder_is_not_believed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert archives.private_folder("dilo-archives") is not None
    (tmp_path / f"dilo-archives-{os.getuid()}").chmod(0o777)
    assert archives.private_folder("dilo-archives") is None


def test_a_state_json_of_another_program_makes_no_dataset(folder, tmp_path):
    (tmp_path / "1.jpg").write_bytes((folder / "dogs/4.jpg").read_bytes())
    for text in ("{}", "[" * 100_000, '{"_data_files": 3}'):
        (tmp_path / "state.json").write_text(text)
        os.utime(tmp_path, ns=(0, len(text)))
        if "_data" in text:
            with pytest.raises(UserError, match="cannot be read"):
                list_images(tmp_path)
        else:
            assert list(list_images(tmp_path)) == ["1.jpg"]

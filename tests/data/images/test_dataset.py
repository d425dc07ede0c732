"""A Hugging Face dataset gives the images that were put in it, with its splits and classes."""

import faulthandler
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import UserError
from data.images import archives
from data.images.archives import open_file
from data.images.decode import UnreadableImage, decode
from data.images.labels import labels_from_folders
from data.images.listing import key_path, list_images
from tests.data.images.test_archives import mutants

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
parquet_file = pytest.importorskip("data.images.archives.parquet_file")

NAMES = ["cat", "dog/wolf", ".other"]
FOLDERS = ["%2Eother", "cat", "dog%2Fwolf"]
FEATURES = {"label": {"_type": "ClassLabel", "names": NAMES}, "image": {"_type": "Image"}}
ROWS = 40


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[bytes]:
    """Pictures' files; two of them are equal."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    files = []
    for row in range(ROWS - 1):
        pixels = rng.integers(0, 256, (*rng.integers(8, 60, 2), 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        files.append((folder / f"{row}.png").read_bytes())
    return [*files, files[3]]


def table(images: list, features: dict | None = FEATURES, **columns: list) -> "pa.Table":
    """A table with these images and labels 0, 1, 2, 0, ..."""
    if isinstance(images[0], bytes):
        images = [{"bytes": image, "path": "somewhere.jpg"} for image in images]
    if not isinstance(images[0], str):
        images = pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    labels = [row % 3 for row in range(len(images))]
    made = pa.table({"image": images, "label": labels} | columns)
    info = {"huggingface": json.dumps({"info": {"features": features}})}
    return made.replace_schema_metadata(info if features else None)


def write_arrow(table: "pa.Table", path: Path, stream: bool = True, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = pa.ipc.new_stream if stream else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.OSFile(str(path), "wb") as file, writer(file, table.schema, options=options) as out:
        out.write_table(table, max_chunksize=7)
    return path


def save_to_disk(table: "pa.Table", folder: Path) -> Path:
    """As `Dataset.save_to_disk`, with what `map` may leave beside."""
    write_arrow(table, folder / "data-00000-of-00001.arrow")
    for stale in ("cache-1.arrow", "data-00001-of-00002.arrow"):
        write_arrow(table, folder / stale)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def write_parquet(table: "pa.Table", path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **({"row_group_size": 15} | options))
    return path


PLAIN = {"use_dictionary": False}
WRITERS = {
    "save_to_disk": save_to_disk,
    "arrow": lambda t, p: write_arrow(t, p / "a.arrow", stream=False),
    "hub": lambda t, p: write_parquet(t, p / "data/x.parquet", compression="none").parent.parent,
    "snappy": lambda t, p: write_parquet(t, p / "x.parquet", data_page_size=9999),
    "pages": lambda t, p: write_parquet(t, p / "x.parquet", **PLAIN, write_batch_size=2),
    "zstd": lambda t, p: write_parquet(
        t, p / "x.parquet", compression="zstd", data_page_version="2.0", **PLAIN
    ),
    "lz4": lambda t, p: write_parquet(t, p / "x.parquet", compression="lz4"),
    "lengths": lambda t, p: write_parquet(
        t, p / "x.parquet", **PLAIN, column_encoding={"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_rows_are_the_files_that_were_put_in(pictures, tmp_path, kind):
    images = [{"bytes": data, "path": None} for data in pictures]
    images[5] = None
    path = WRITERS[kind](table(images), tmp_path / "set")
    keys = list_images(path)
    assert len(keys) == ROWS and labels_from_folders(keys).class_names == FOLDERS
    for key in np.random.default_rng(0).permutation(list(keys)):
        folder, row = key.partition("/")[0], int(key.rpartition("-")[2].removesuffix(".image"))
        assert folder == FOLDERS[(row + 1) % 3]
        if row == 5:
            with pytest.raises(UnreadableImage, match="its row has no image"):
                decode(key_path(path, key))
        else:
            assert open_file(key_path(path, key)).read() == pictures[row]


def test_checksums_of_pages_are_compared(pictures, tmp_path):
    """Of Parquet they are optional, and seldom there."""
    images = [{"bytes": data, "path": None} for data in pictures]
    options = {"compression": "none", "write_page_checksum": True}
    path = write_parquet(table(images), tmp_path / "x.parquet", **PLAIN, **options)
    data = bytearray(path.read_bytes())
    data[data.index(pictures[3]) + len(pictures[3]) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.parquet' cannot be read .*CRC"):
        list_images(path)


def test_it_is_what_datasets_writes(pictures, tmp_path):
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    rows = {"image": [{"bytes": p, "path": None} for p in pictures], "label": [1] * ROWS}
    made = datasets.Dataset.from_dict(rows, features=kinds)
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": made, "test": made.select([4])}).save_to_disk(tmp_path / "a")
    made.to_parquet(tmp_path / "p/data/train-00000-of-00001.parquet")
    keys = list_images(tmp_path / "a/train")
    assert keys[4] == "data-00000-of-00001-0000004.image" and len(keys) == ROWS
    assert open_file(key_path(tmp_path / "a/train", keys[4])).read() == pictures[4]
    assert (
        list_images(tmp_path / "a")[0].startswith("test/")
        and len(list_images(tmp_path / "a")) == 41
    )
    (*_, last) = list_images(tmp_path / "p")
    assert open_file(key_path(tmp_path / "p", last)).read() == pictures[-1]


@pytest.mark.parametrize(
    "files",
    [
        (
            "data/train-00000-of-00002",
            "data/train-00001-of-00002",
            "data/validation-00000-of-00001",
        ),
        ("default/partial-train/0000", "default/partial-train/0001", "default/val/0000"),
        ("train/a", "train/b", "valid/c"),
    ],
)
def test_splits_are_folders(pictures, tmp_path, files):
    for number, name in enumerate(files):
        rows = table(pictures[number * 6 : number * 6 + 6])
        write_parquet(rows, tmp_path / f"{name}.parquet")
    train, stem = list_images(tmp_path / "train"), Path(files[2]).name
    assert list_images(tmp_path)[0].startswith("train/%2Eother/") and len(train) == 12
    val = tmp_path / "validation"
    assert list_images(val)[2] == f"cat/{stem}-0000000.image"
    assert open_file(key_path(val, f"cat/{stem}-0000000.image")).read() == pictures[12]


def test_files_may_be_links_as_in_the_hubs_cache(pictures, tmp_path):
    blob = write_parquet(table(pictures), tmp_path / "blobs/0a1b.parquet")
    folder = tmp_path / "snapshots/0"
    folder.mkdir(parents=True)
    (folder / "train.parquet").symlink_to(blob)
    keys = list_images(folder)
    assert open_file(key_path(folder, keys[-1])).read() == pictures[37]


def test_a_missing_file_is_a_sentence(pictures, tmp_path):
    path = save_to_disk(table(pictures), tmp_path / "set")
    (path / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"set. lacks the file data-00000-of-00001\.arrow; copy"):
        list_images(path)


def test_paths_are_followed_within_the_folder(pictures, tmp_path):
    (tmp_path / "secret.png").write_bytes(pictures[0])
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "images/1.png").write_bytes(pictures[1])
    (folder / "images/link.png").symlink_to(tmp_path / "secret.png")
    out = ["../secret.png", str(tmp_path / "secret.png"), "images/link.png"]
    paths = ["images/1.png", str(folder / "images/1.png"), "images/none.png", *out]
    for images in ([{"bytes": None, "path": path} for path in paths], paths):
        path = save_to_disk(table(images, None), folder)
        keys = sorted(list_images(path), key=lambda key: key.rpartition("-")[2])
        for key in keys[:2]:
            assert open_file(key_path(path, key)).read() == pictures[1]
        with pytest.raises(UnreadableImage, match="no such file"):
            decode(key_path(path, keys[2]))
        for key in keys[3:]:
            with pytest.raises(UnreadableImage, match="leads out of the dataset's folder"):
                decode(key_path(path, key))


def test_labels_by_type_and_none(pictures, tmp_path):
    rows = table(pictures[:4], None).set_column(1, "label", [["b", None, "a", "b"]])
    keys = list_images(write_parquet(rows, tmp_path / "text.parquet"))
    assert [key.rpartition("/")[0] for key in keys] == ["a", "b", "b", ""]
    rows = table(pictures[:4]).set_column(1, "label", [[-1, -1, -1, -1]])  # as of a hidden test set
    assert (
        labels_from_folders(list_images(write_parquet(rows, tmp_path / "hidden.parquet"))) is None
    )
    binary = pa.table({"jpg": pictures[:4], "text": ["a"] * 4})
    keys = list_images(write_parquet(binary, tmp_path / "binary.parquet"))
    assert open_file(tmp_path / "binary.parquet" / keys[2]).read() == pictures[2]


def test_several_columns_are_to_be_chosen_from(pictures, tmp_path):
    other = [{"bytes": picture, "path": None} for picture in reversed(pictures)]
    features = FEATURES | {"other": {"_type": "Image"}}
    path = write_parquet(table(pictures, features, other=other), tmp_path / "a/x.parquet").parent
    with pytest.raises(UserError, match=r"\(column=image, column=other\); name one, such as '.*a/"):
        list_images(path)
    keys = list_images(path / "column=other")
    assert open_file(key_path(path / "column=other", keys[0])).read() == pictures[-3]


def test_what_cannot_be_read_is_a_sentence(pictures, tmp_path, monkeypatch):
    whole = table(pictures)
    cases = {
        "torn.parquet": "cannot be read",
        "torn.arrow": "cannot be read",
        "packed.arrow": "compressed: write it without",
        "parts.parquet": "write them as plain",
        "text.parquet": "no column of images, but: label",
    }
    for name in ("torn.parquet", "text.parquet"):
        write_parquet(whole if "torn" in name else whole.select(["label"]), tmp_path / name)
    encoding = {"image.bytes": "DELTA_BYTE_ARRAY"}
    write_parquet(whole, tmp_path / "parts.parquet", **PLAIN, column_encoding=encoding)
    write_arrow(whole, tmp_path / "torn.arrow")
    write_arrow(whole, tmp_path / "packed.arrow", compression="zstd")
    for name in ("torn.parquet", "torn.arrow"):
        os.truncate(tmp_path / name, 3000)
    for name, text in cases.items():
        with pytest.raises(UserError, match=f"{name}.*{text}"):
            list_images(tmp_path / name)
    for folder in ("one", "two"):
        write_parquet(whole, tmp_path / f"sets/{folder}/train.parquet")
    with pytest.raises(UserError, match=r"holds several datasets \(one, two\); name one"):
        list_images(tmp_path / "sets")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'dilo\[huggingface\]'"):
        list_images(tmp_path / "sets/one")


def test_a_damaged_page_is_an_unreadable_image(pictures, tmp_path):
    path = write_parquet(table(pictures), tmp_path / "x.parquet")
    keys, facts = list_images(path), path.stat()
    data = bytearray(path.read_bytes())
    data[9:-4000] = bytes(len(data) - 4009)
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    archives._page.cache_clear()
    with pytest.raises(UnreadableImage):
        decode(key_path(path, keys[-1]))


def test_damage_is_a_sentence_or_an_unreadable_image(pictures, tmp_path):
    for path in (
        write_parquet(table(pictures), tmp_path / "x.parquet"),
        write_parquet(table(pictures), tmp_path / "y.parquet", compression="zstd"),
        write_arrow(table(pictures), tmp_path / "z.arrow"),
    ):
        for data in mutants(path.read_bytes(), 24):
            archives._index.cache_clear()
            archives._page.cache_clear()
            path.write_bytes(data)
            try:
                for key in list_images(path):
                    decode(key_path(path, key))
            except (UserError, UnreadableImage):
                pass


def test_an_abort_in_pyarrow_is_a_sentence(pictures, tmp_path, monkeypatch):
    path = write_parquet(table(pictures), tmp_path / "x.parquet")

    def abort(*_):
        faulthandler.disable()  # pytest's would print every thread's stack
        os.abort()

    monkeypatch.setattr(parquet_file.ParquetFile, "batches", abort)
    with pytest.raises(UserError, match=r"x.parquet' cannot be read .*died \(SIGABRT\)"):
        list_images(path)


def test_page_headers_end():
    for header in (b"\x1c" * 5000, b"\x15" + b"\x80" * 5000 + b"\1\0", b"\x1f\0"):
        with pytest.raises(ValueError, match="a page's header"):
            parquet_file._read_struct(header, 0)


def test_a_folder_of_images_with_a_table_beside_is_a_folder(pictures, tmp_path):
    (tmp_path / "1.png").write_bytes(pictures[0])
    write_parquet(table(pictures), tmp_path / "metadata.parquet")
    assert list(list_images(tmp_path)) == ["1.png"]

"""Images in a Hugging Face dataset on disk: a folder of Parquet or Arrow files, or one such file.

Its rows are named as files of the folder that it stands for: `split/class/file-row.image`. Where
all are of one split, or there are no classes, there are no such folders.
"""

import json
import os
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from data.errors import UserError, damage_told, import_extra
from data.images.archives import ANEW, COLUMN, ROW, Block, Member, Place, has_rows, read_json

_READERS = {
    ".arrow": "data.images.archives.arrow_file:ArrowFile",
    ".parquet": "data.images.archives.parquet_file:ParquetFile",
}
_CLASSES = ("label", "labels", "class", "fine_label")
"""Columns that name classes where none is declared as one."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words in names, and the split that they mean on the Hub."""


class DataFile(NamedTuple):
    """A file of rows: its path relative to the dataset, with `/`, its split or "", its stem."""

    path: str
    split: str
    stem: str


def members(path: str) -> Iterator[Member]:
    """Yield the rows of a dataset.

    UserError: it is damaged, has no images, or pyarrow is missing.
    """
    import_extra("pyarrow", "huggingface", f"{path!r}, a Hugging Face dataset,")
    for file in data_files(path):
        whole = f"{path}/{file.path}" if file.path else path
        with damage_told(whole, ANEW):
            yield from _rows(whole, file)


def _rows(path: str, file: DataFile) -> Iterator[Member]:
    """Yield the rows of a file, once for each column of images."""
    ending = next(ending for ending in _READERS if path.lower().endswith(ending))
    reader = pkgutil.resolve_name(_READERS[ending])
    schema = reader(path, file.path).schema
    features = _features(schema)
    images, label = _image_columns(schema, features), _label_column(schema, features)
    if not images:
        raise UserError(
            f"{path!r} has no column of images, but: {', '.join(schema.names)}; give one that has."
        )
    names = features.get(label, {}).get("names") or ()
    for image in images:
        column = [COLUMN + _folder(image)] if len(images) > 1 else []
        folders = column + [file.split] * bool(file.split)
        values = _values(reader(path, file.path), image, label)
        for row, (place, value) in enumerate(values):
            if names and value is not None:  # -1 is none
                value = names[value] if 0 <= value < len(names) else None
            inside = [] if value is None else [_folder(str(value))]
            yield Member("/".join([*folders, *inside, f"{file.stem}-{row:07d}{ROW}"]), *place)


def _values(source: Any, image: str, label: str) -> Iterator[tuple[Place, Any]]:
    """Yield where the images of a column lie, and their labels or None."""
    kind = source.schema.field(image).type
    inner = [field.name for field in kind] if str(kind).startswith("struct") else []
    leaf = f"{image}.bytes" if inner else image
    for batch in source.batches([image, label] if label else [image], leaf):
        column = batch.column(0)
        parts = {"path" if _is_text(kind) else "bytes": column}
        if inner:
            parts = dict(zip(inner, column.flatten(), strict=True))
        nothing = [None] * len(batch)
        places = source.places(parts["bytes"]) if "bytes" in parts else nothing
        paths = parts["path"].to_pylist() if "path" in parts else nothing
        labels = batch.column(1).to_pylist() if label else nothing
        for place, outside, value in zip(places, paths, labels, strict=True):
            yield place or Place(0, -1, Block(outside or "")), value


def _features(schema: Any) -> dict[str, dict]:
    """Return the features that a schema declares, by column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {n: features[n] for n in schema.names if isinstance(features.get(n), dict)}
    except (LookupError, ValueError, TypeError):
        return {}


def _image_columns(schema: Any, features: dict[str, dict]) -> list[str]:
    """Return the columns of images: as declared, or else by their types."""
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    binary = ("binary", "large_binary", "struct<bytes: binary", "struct<bytes: large_binary")
    kinds = {field.name: str(field.type) for field in schema}
    by_type = [name for name, kind in kinds.items() if kind.startswith(binary)]
    return declared or by_type or [name for name in ("image",) if _is_text(kinds.get(name))]


def _label_column(schema: Any, features: dict[str, dict]) -> str:
    """Return the column of classes, "" where there is none."""
    declared = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    named = [
        name
        for name in _CLASSES
        if name in schema.names and re.match("u?int|(large_)?string", str(schema.field(name).type))
    ]
    return next(iter(sorted(declared, key=lambda name: name != "label") or named), "")


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string")


def _folder(name: str) -> str:
    """Return a name as one that a folder can have."""
    return re.sub(r"[%/\0]|^\.", lambda letter: f"%{ord(letter[0]):02X}", name) or "%"


# ---- which files of a folder, and of which split each is -----------------------------------------


def data_files(root: str) -> list[DataFile]:
    """Return the files of rows of a dataset's folder, or of one that is a file, by split and name.

    UserError: there are several datasets in it.
    """
    if os.path.isfile(root):
        return [DataFile("", "", _stem(root))]
    own = read_json(f"{root}/dataset_dict.json").get("splits", [])
    files, homes = {}, set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        saved = read_json(f"{folder}/state.json").get("_data_files")
        if saved is not None:
            names = [os.path.basename(file["filename"]) for file in saved]
        for name in filter(has_rows, names):
            if not os.path.isfile(f"{folder}/{name}"):
                raise UserError(f"{folder!r} lacks the file {name}; copy the dataset anew.")
            path = os.path.relpath(f"{folder}/{name}", root).replace(os.sep, "/")
            split, home = _split(path, own)
            file = DataFile(path, split, _stem(name))
            twin = files.setdefault(file[1:], file)
            folders_of_twins = {os.path.dirname(twin.path), os.path.dirname(path)}
            homes |= {home} if twin is file else folders_of_twins
    if len(homes) > 1:
        names = ", ".join(sorted(filter(None, homes))[:5])
        raise UserError(f"{root!r} holds several datasets ({names}); name one of them.")
    return [files[key] for key in sorted(files)]


def _split(path: str, own: list[str]) -> tuple[str, str]:
    """Return the split of a file, and its folder without the part that names it."""
    *folders, name = path.split("/")
    if folders and folders[0] in own:
        return folders.pop(0), "/".join(folders)
    for part in (name, *reversed(folders)):
        for word in re.findall("[a-z]+", part.lower()):
            if word in _SPLITS:
                return _SPLITS[word], "/".join(f for f in folders if f != part)
    numbered = re.match(r"(.+)-\d{5}-of-\d{5}", name)  # as the Hub writes a split's files
    return numbered[1] if numbered else "", "/".join(folders)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]

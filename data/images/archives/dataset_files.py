"""Which files of a folder make a Hugging Face dataset, and of which split each is."""

import json
import os
import re
from functools import lru_cache
from typing import NamedTuple

from data.errors import UserError

ENDINGS = (".parquet", ".arrow")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")  # a folder that has such files is one of images
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


def is_dataset(folder: str) -> bool:
    """Whether a folder is a dataset: `save_to_disk`'s, or with files of rows and without images."""
    return _is_dataset(folder, os.stat(folder).st_mtime_ns)


@lru_cache(maxsize=1024)
def _is_dataset(folder: str, modified: int) -> bool:
    saved = {"state.json": "_data_files", "dataset_dict.json": "splits"}
    if any(entry in _json(f"{folder}/{name}") for name, entry in saved.items()):
        return True
    rows = False
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.lower().endswith(_IMAGES) for name in names):
            return False
        rows |= any(_has_rows(name) for name in names)
    return rows


def data_files(root: str) -> list[DataFile]:
    """Return the files of rows of a dataset's folder, or of one that is a file, by split and name.

    UserError: there are several datasets in it.
    """
    if os.path.isfile(root):
        return [DataFile("", "", _stem(root))]
    own = _json(f"{root}/dataset_dict.json").get("splits", [])
    files, homes = {}, set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        saved = _json(f"{folder}/state.json").get("_data_files")
        if saved is not None:
            names = [os.path.basename(file["filename"]) for file in saved]
        for name in filter(_has_rows, names):
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


def _has_rows(name: str) -> bool:
    """Whether a file is of rows, and neither hidden nor a cache of `datasets`."""
    return name.lower().endswith(ENDINGS) and not name.startswith((".", "cache-", "tmp"))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _json(path: str) -> dict:
    """Return what `save_to_disk` wrote; nothing where it is not there, or somebody else's."""
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}

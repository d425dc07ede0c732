"""The listing of a folder of images, kept beside its masks: a million files are walked once.

A folder's time of change moves when a file in it is added, removed or renamed. So a kept listing
holds as long as every folder that was read still has its time; that is one question a folder, not
one a file.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from data.images.decode import list_images
from data.keys import Keys, decode_key, encode_key

WORTH = 10_000  # images from which on a listing is kept
_TICK = 2_000_000_000  # ns: a folder may change again within its clock's tick, and keep its time


def list_images_kept(root: str | os.PathLike, beside: str | os.PathLike | None) -> Keys:
    """List a folder as `data.images.decode.list_images` does, or take the listing kept in `beside`.

    Parameters
    ----------
    root : the folder of images.
    beside : an existing folder, such as the masks'; None: keep nothing. Where it cannot be written
        to, nothing is kept.
    """
    if beside is None:
        return list_images(root)
    path = Path(beside) / _name(root)
    kept = _read(path, os.fspath(root))
    if kept is not None:
        return kept
    folders: dict[str, int] = {}
    began = time.time_ns()
    keys = list_images(root, folders)
    if len(keys) >= WORTH and max(folders.values()) < began - _TICK:
        _write(path, keys, folders)
    return keys


def _name(root: str | os.PathLike) -> str:
    place = hashlib.sha256(encode_key(os.path.abspath(root))).hexdigest()[:16]
    return f".listing-{place}.npz"


def _read(path: Path, root: str) -> Keys | None:
    """Return the kept listing if it can be read and every folder is as it was."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            names = kept["folders"].tobytes().split(b"\0")
            times = kept["times"].tolist()
            for name, changed in zip(names, times, strict=True):
                if os.stat(os.path.join(root, decode_key(name))).st_mtime_ns != changed:
                    return None
            return Keys.from_arrays(kept["blob"], kept["offsets"])
    except Exception:  # none there, damaged, of another version, or a folder is gone: list anew
        return None


def _write(path: Path, keys: Keys, folders: dict[str, int]) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as file:
            np.savez(
                file,
                folders=np.frombuffer(b"\0".join(map(encode_key, folders)), np.uint8),
                times=np.array(list(folders.values()), np.int64),
                blob=keys.blob,
                offsets=keys.offsets,
            )
        os.replace(draft, path)
    except OSError:  # a read-only or a full disk: the next run lists anew
        draft.unlink(missing_ok=True)

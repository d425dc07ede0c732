"""Folders of images: which files are images, as sorted keys."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from data.errors import UserError
from data.images import archives
from data.images.limits import UnreadableImage
from data.keys import Keys, leads_out, printable

EXTENSIONS = frozenset(
    f".{ending}"
    for ending in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)
"""What counts as an image in a folder, in any case of letters."""

_OF_OTHERS = frozenset((".csv", ".json", ".mat", ".npy", ".pt", ".tar", ".txt", ".xml", ".yaml"))
"""Files beside images, maybe one for each, that are not looked into."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")


@dataclass
class OddEndings:
    """Numbers of files by their endings, where those are no image's.

    taken : files that are images by their first bytes.
    skipped : files that are not.
    """

    taken: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def told(self) -> list[str]:
        """Return a sentence for each of the two that is not empty."""
        kinds = {
            "of other endings are images by their content": self.taken,
            "are of no format that is read and are skipped": self.skipped,
        }
        return [
            f"{counts.total():,} files {what}: "
            + ", ".join(f"{number:,} {ending}" for ending, number in counts.most_common(5))
            + (f" and {len(counts) - 5} more endings." if len(counts) > 5 else ".")
            for what, counts in kinds.items()
            if counts
        ]


def list_images(root: str | os.PathLike, odd: OddEndings | None = None) -> Keys:
    """List the images below a folder as sorted keys: paths relative to it, joined by `/`.

    The folder may be an archive, or lie in one (`data.images.archives`). Archives in a folder that
    has no images beside them count as its folders.

    Any tree will do. Files count by their extension (`EXTENSIONS`), those of an unknown one by
    their first bytes. Symbolic links are followed, to files and to folders; a folder that contains
    itself through a link is entered once. A link that leads nowhere is listed: it is an image that
    is missing, not one that was never there. Hidden files and folders (a leading dot) are skipped.

    odd : gets the numbers of files with other endings.

    UserError: no such folder, not a folder, or no image in it. OSError: a folder below it cannot be
    read.
    """
    root = os.fspath(root)
    if not archives.is_folder(root):
        there = os.path.lexists(root)
        what = f"{root!r} is not a folder" if there else f"there is no folder {root!r}"
        kinds = ", ".join(archives.FORMATS)
        raise UserError(f"{what}; give a folder of images, or an archive ({kinds}).")
    odd = OddEndings() if odd is None else odd
    plain = os.path.isdir(root) and not archives.is_dataset(root)
    keys = Keys(_walk(root, "", (), odd) if plain else _members(root, odd))
    if not keys and plain:
        keys = Keys(_of_archives(root, odd))
    if not keys:
        known = " ".join(sorted(EXTENSIONS))
        sentence = f"there are no images in {root!r} (files ending in {known})."
        raise UserError(" ".join([sentence, *odd.told()]))
    return keys


def _walk(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...], odd: OddEndings
) -> Iterator[str]:
    """Yield the keys below a folder; `above` identifies the folders that contain it."""
    facts = os.stat(folder)
    with os.scandir(folder) as entries:
        entries = list(entries)
    here = (facts.st_dev, facts.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, here), odd)
        elif not _is_file_or_lost(entry):
            continue
        elif (ending := os.path.splitext(entry.name)[1].lower()) in EXTENSIONS:
            yield prefix + entry.name
        else:
            image = ending not in _OF_OTHERS and _begins_as_image(entry.path)
            (odd.taken if image else odd.skipped)[printable(ending) or "without an ending"] += 1
            if image:
                yield prefix + entry.name


def _members(path: str, odd: OddEndings) -> Iterator[str]:
    """Yield the keys below an archive, or below a folder in one; endings alone count."""
    for key in archives.members_below(path):
        if (ending := os.path.splitext(key)[1].lower()) in EXTENSIONS or ending == archives.ROW:
            yield key
        else:
            odd.skipped[printable(ending) or "without an ending"] += 1


def _of_archives(folder: str, odd: OddEndings) -> Iterator[str]:
    """Yield the keys in the archives of a folder: their names and the members'."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    for name in names:
        if name.lower().endswith(tuple(archives.FORMATS)):
            yield from (f"{name}/{key}" for key in _members(os.path.join(folder, name), odd))


def _begins_as_image(path: str) -> bool:
    """Whether a file's first bytes are those of an image that is read."""
    try:
        with open(path, "rb") as file:
            begin = file.read(12)
    except OSError:
        return False
    return begin.startswith(_BEGINNINGS) or begin[4:] == b"ftypavif" or begin[8:] == b"WEBP"


def _is_file_or_lost(entry: os.DirEntry) -> bool:
    """Tell a file, or a link to one or to nothing, from a pipe, which would never end."""
    if entry.is_symlink():
        return os.path.isfile(entry) or not os.path.exists(entry)
    return entry.is_file()


def key_path(root: str | os.PathLike, key: str) -> str:
    """Return the path of a key's image below the image root.

    Raises UnreadableImage: the key leads out of it, as none that `list_images` gives does.
    """
    if leads_out(key):
        raise UnreadableImage("its key does not name a file inside the image folder")
    return os.path.join(os.fspath(root), *key.split("/"))


def stem(key: str) -> str:
    """The key without its suffix: `n01440764/n01440764_18.JPEG` -> `n01440764/n01440764_18`.

    Letters are composed: macOS and Linux write names in different ways.
    """
    key = unicodedata.normalize("NFC", key)
    head, dot, tail = key.rpartition(".")
    return head if dot and head and "/" not in tail and not head.endswith("/") else key


def by_stem(folder: str | os.PathLike, keys: Iterable[str]) -> dict[str, str]:
    """Return a folder's keys by their stems; UserError where two have one."""
    names: dict[str, str] = {}
    for key in keys:
        other = names.setdefault(stem(key), key)
        if other != key:
            raise UserError(
                f"{os.fspath(folder)}: '{other}' and '{key}' differ in their suffix alone, and "
                "images and masks are matched without it; rename one of them."
            )
    return names

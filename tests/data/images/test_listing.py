"""A kept listing equals a fresh one, whatever happened to the folder meanwhile."""

import os
from pathlib import Path

import pytest

from data.errors import UserError
from data.images import listing
from data.images.decode import list_images
from data.images.listing import list_images_kept


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Three folders of empty images, an hour old."""
    monkeypatch.setattr(listing, "WORTH", 1)
    root = tmp_path / "images"
    for folder in ("a", "b/c", "b/d"):
        for number in range(3):
            path = root / folder / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    age(root)
    (tmp_path / "masks").mkdir()
    return root


def age(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        facts = os.stat(folder)
        os.utime(folder, ns=(facts.st_atime_ns, facts.st_mtime_ns - 3600 * 10**9))


def kept(root: Path) -> list[Path]:
    return list((root.parent / "masks").iterdir())


def test_second_time_nothing_is_walked(tree, monkeypatch):
    first = list_images_kept(tree, tree.parent / "masks")
    assert list(first) == list(list_images(tree))
    monkeypatch.setattr(listing, "list_images", lambda *_: pytest.fail("walked again"))
    again = list_images_kept(tree, tree.parent / "masks")
    assert list(again) == list(first) and again.digest() == first.digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "b" / "c" / "new.jpg").touch(),
        lambda root: (root / "b" / "d" / "1.jpg").unlink(),
        lambda root: (root / "a" / "0.jpg").rename(root / "a" / "9.jpg"),
        lambda root: (root / "a").rename(root / "z"),
        lambda root: os.symlink(root / "a", root / "b" / "link"),
    ],
)
def test_changed_folders_are_listed_anew(tree, change):
    before = list_images_kept(tree, tree.parent / "masks")
    assert kept(tree)
    change(tree)
    found = list_images_kept(tree, tree.parent / "masks")
    assert list(found) == list(list_images(tree)) != list(before)


def test_folders_that_changed_just_now_are_not_trusted(tree):
    (tree / "a" / "new.jpg").touch()
    list_images_kept(tree, tree.parent / "masks")
    assert not kept(tree)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", None])
def test_damaged_listings_are_passed_over(tree, damage):
    keys = list_images_kept(tree, tree.parent / "masks")
    (path,) = kept(tree)
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    assert list(list_images_kept(tree, tree.parent / "masks")) == list(keys)


def test_another_folder_has_another_listing(tree):
    list_images_kept(tree, tree.parent / "masks")
    found = list_images_kept(tree / "b", tree.parent / "masks")
    assert list(found) == list(list_images(tree / "b"))
    assert len(kept(tree)) == 2


def test_nothing_is_kept_where_nothing_can_be_written(tree, monkeypatch):
    def refuse(*_, **__):
        raise OSError("read-only")

    monkeypatch.setattr(listing.np, "savez", refuse)
    assert len(list_images_kept(tree, tree.parent / "masks")) == 9
    assert len(list_images_kept(tree, None)) == 9
    assert not kept(tree)


def test_small_folders_are_not_worth_it(tree, monkeypatch):
    monkeypatch.setattr(listing, "WORTH", 10)
    list_images_kept(tree, tree.parent / "masks")
    assert not kept(tree)


def test_missing_masks_folder_and_missing_images(tree):
    assert len(list_images_kept(tree, tree.parent / "nowhere")) == 9
    with pytest.raises(UserError, match="there is no folder"):
        list_images_kept(tree.parent / "nothing", tree.parent / "masks")

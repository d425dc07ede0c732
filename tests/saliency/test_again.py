"""The same command again tells what is true now of images that could not be read."""

import os
import shutil

import pytest
from PIL import Image

from data.masks.format import Status
from data.masks.read import MaskShards
from data.masks.verify import verify
from tests.saliency.test_batch import contents, make

METHODS = ("rbd", "gs")


@pytest.fixture
def images(tmp_path, photographs):
    folder = shutil.copytree(photographs, tmp_path / "images")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    return folder


def test_what_can_be_read_now_has_a_mask_as_if_it_always_could(images, tmp_path):
    out = tmp_path / "out"
    first = make(images, out, METHODS, shard_size=4)
    assert first.failed == 2
    kept = (out / "gs/shard-00000.h5").stat().st_ino
    shutil.copy(images / "a/disc-0.png", tmp_path / "elsewhere.png")
    shutil.copy(images / "a/disc-1.png", images / "torn.jpg")
    again = make(images, out, METHODS, shard_size=4)
    assert again.failed == 0 and again.failures == [] and again.shards_written == 2
    assert (out / "gs/shard-00000.h5").stat().st_ino == kept  # nothing of it could not be read
    make(images, tmp_path / "fresh", METHODS, shard_size=4)
    for method in METHODS:
        assert contents(out / method) == contents(tmp_path / "fresh" / method)
        assert verify(out / method, images).sound


def test_another_reason_is_told(images, tmp_path, monkeypatch):
    make(images, tmp_path / "out")
    (images / "torn.jpg").write_bytes(b"<html>404</html>" * 9)
    again = make(images, tmp_path / "out")
    reason = "not an image of a known format"
    assert ("torn.jpg", reason) in again.failures
    assert MaskShards(tmp_path / "out").error("torn.jpg") == reason
    assert make(images, tmp_path / "out").shards_written == 0


@pytest.mark.parametrize("first_method_was_done", [True, False])
def test_killed_between_the_methods_shards_it_still_mends_both(
    images, tmp_path, first_method_was_done
):
    out = tmp_path / "out"
    make(images, out, METHODS)
    shutil.copytree(out, tmp_path / "before")
    shutil.copy(images / "a/disc-1.png", images / "torn.jpg")
    make(images, out, METHODS)
    method = METHODS[first_method_was_done]
    shutil.rmtree(out / method)
    shutil.copytree(tmp_path / "before" / method, out / method)
    assert make(images, out, METHODS).statuses[Status.UNREADABLE] == 1  # the link
    for method in METHODS:
        assert MaskShards(out / method).status("torn.jpg") == Status.OK


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_given_later(images, tmp_path):
    Image.new("RGB", (30, 30)).save(images / "z.png")
    (images / "z.png").chmod(0)
    assert ("z.png", "permission denied") in make(images, tmp_path / "out").failures
    (images / "z.png").chmod(0o600)
    assert make(images, tmp_path / "out").failed == 2

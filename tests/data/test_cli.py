"""`mask-shards` from outside: what it prints, writes, refuses, and exits with."""

import contextlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from data.cli import GalleryOptions, choose, main
from data.masks.format import shard_name
from data.masks.read import MaskShards

ODD = os.fsdecode(b"\xff \n'x.png")


@pytest.fixture
def run():
    def run(*arguments, code=0):
        result = CliRunner().invoke(main, [os.fspath(a) for a in arguments])
        assert result.exit_code == code, result.output
        if code == 2:
            last = result.stderr.splitlines()[-1]
            assert last.startswith("Error: ") and "Traceback" not in result.stderr
        return result.output

    return run


@pytest.fixture
def out(tmp_path, write_shards):
    """Shards by two methods, and their images; one image is broken."""
    images = tmp_path / "images"
    images.mkdir()
    masks = {}
    for number, name in enumerate(["a.jpg", "b.jpg", ODD]):
        with open(images / name, "wb") as file:
            Image.new("RGB", (60, 40), (50 * number, 99, 0)).save(file, "PNG")
        masks[name] = np.full((20, 30), 50 * number, np.uint8)
    (images / "m.jpg").touch()
    masks["m.jpg"] = "empty file"
    write_shards(tmp_path / "rbd", masks, size=2)
    write_shards(tmp_path / "mc", masks, size=2, method="mc")
    return tmp_path


def test_help_names_every_command(run):
    text = run("--help")
    for name in ("info", "verify", "show", "gallery", "export", "import", "index"):
        assert re.search(rf"^  {name} ", text, re.MULTILINE)
        assert "Usage" in run(name, "--help")


def test_info(run, out):
    text = run("info", out / "rbd")
    for line in (
        r"method +rbd",
        r"parameters +max_side 40",
        r"shards +2 of 2",
        r"images +4",
        r"images, ok +2",
        r"images, flat +1",
        r"coverage +19\.6%",
        r"no mask for 1 images:",
        r"  m\.jpg: unreadable, empty file",
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line
    facts = json.loads(run("info", out / "rbd", "--json"))
    assert facts["counts"] == {"ok": 2, "flat": 1, "unreadable": 1, "failed": 0}
    assert facts["method"] == "rbd"


def test_info_of_a_run_half_way(run, out):
    (out / "rbd" / shard_name(1)).unlink()
    assert "Shards are missing" in run("info", out / "rbd")


def test_verify(run, out):
    text = run("verify", out / "rbd", "--images", out / "images")
    assert "2 shards, 4 images: 2 ok, 1 flat, 1 unreadable, 0 failed.\nSound. 1 images" in text
    (out / "images" / "new.jpg").touch()
    (out / "images" / "a.jpg").unlink()
    text = run("verify", out / "rbd", "--images", out / "images", code=1)
    assert "problem: 1 images have no mask: 'new.jpg'" in text
    assert "problem: 1 masks have no image: 'a.jpg'" in text
    assert text.endswith("Not sound.\n")
    (out / "rbd" / shard_name(0)).write_bytes(b"x")
    assert "cannot be opened as HDF5" in run("verify", out / "rbd", code=1)


@pytest.mark.parametrize("jobs", [0, -2])
def test_verify_refuses_a_number_of_processes(run, out, jobs):
    assert f"{jobs}" in run("verify", out / "rbd", "--jobs", str(jobs), code=2)


def test_index(run, out):
    (out / "rbd" / "index.h5").unlink()
    assert "note: There is no index.h5" in run("verify", out / "rbd")
    assert run("index", out / "rbd").strip() == str(out / "rbd" / "index.h5")
    assert "note" not in run("verify", out / "rbd")


def test_show_writes_a_png(run, out):
    picture = out / "new" / "a.png"
    assert run("show", out / "rbd", "b.jpg", "--images", out / "images", "-o", picture)
    with Image.open(picture) as image:
        assert image.size[0] > 1200
    assert "is there already" in run("show", out / "rbd", "b.jpg", "-o", picture, code=2)
    run("show", out / "rbd", "b.jpg", "-o", picture, "--overwrite")
    assert "does not end in .png" in run("show", out / "rbd", "b.jpg", "-o", out / "x.gif", code=2)
    assert "no mask of 'zz'" in run("show", out / "rbd", "zz", "-o", out / "zz.png", code=2)


def test_show_without_a_terminal(run, out):
    assert "no terminal here" in run("show", out / "rbd", "b.jpg", code=2)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_show_in_the_terminal(out):
    leader, follower = os.openpty()
    arguments = ["show", out / "rbd", "b.jpg", "--images", out / "images"]
    process = subprocess.Popen(
        [sys.executable, "-m", "data", *arguments],
        stdout=follower,
        env={**os.environ, "COLUMNS": "60"},
    )
    os.close(follower)
    raw = b""
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while part := os.read(leader, 1 << 16):
            raw += part
    os.close(leader)
    assert process.wait(60) == 0
    text = raw.decode("utf-8")
    assert text.count("▀") > 60 and "covers 20%" in text


def test_gallery_page(run, out):
    page = out / "page.html"
    run("gallery", out / "rbd", out / "mc", "--images", out / "images", "-o", page)
    text = page.read_text(encoding="utf-8")
    assert "rbd: mask" in text and "mc: mask" in text and "unreadable: empty file" in text
    assert text.count("<img ") == 3 * 5  # three images with two masks and two foregrounds
    assert "is there already" in run("gallery", out / "rbd", "-o", page, code=2)
    run("gallery", out / "rbd", "-o", page, "--overwrite", "--failures")
    assert page.read_text(encoding="utf-8").count("<img ") == 0


def test_gallery_page_and_sheet_at_once(run, out):
    page, sheet = out / "both.html", out / "both.png"
    run("gallery", out / "rbd", "-o", page, "-o", sheet)
    for path in (page, sheet):
        run("gallery", out / "rbd", "-o", out / f"alone{path.suffix}")
        assert path.read_bytes() == (out / f"alone{path.suffix}").read_bytes()
    assert "is there already" in run(
        "gallery", out / "rbd", "-o", out / "new.png", "-o", page, code=2
    )
    assert not (out / "new.png").exists()


def test_gallery_sheet(run, out):
    for number, options in enumerate((["--count", 2], ["--random", "--seed", 3], ["--key", ODD])):
        arguments = ["--images", out / "images", *map(str, options)]
        run("gallery", out / "rbd", "-o", out / f"{number}.png", *arguments)
        with Image.open(out / f"{number}.png") as image:
            assert image.mode == "RGB"


def test_gallery_chooses(tmp_path, write_shards):
    masks = {f"{i:02d}.jpg": np.ones((3, 3), np.uint8) for i in range(30)}
    masks["05.jpg"] = masks["17.jpg"] = "empty file"
    keys = write_shards(tmp_path, masks, size=50)
    sets = [MaskShards(tmp_path)]

    def chosen(**which):
        return choose(sets, GalleryOptions(**which))

    assert chosen(count=4) == [keys[0], keys[9], keys[19], keys[29]]
    drawn = chosen(count=4, random=True, seed=1)
    assert drawn == chosen(count=4, random=True, seed=1) != chosen(count=4, random=True, seed=2)
    assert len(set(drawn)) == 4 and drawn == sorted(drawn)
    assert chosen(count=9, failures=True) == ["05.jpg", "17.jpg"]
    assert chosen(count=1, key=("17.jpg", "03.jpg")) == ["17.jpg", "03.jpg"]
    assert chosen(count=99) == list(keys)


def test_gallery_refuses(run, out, tmp_path, write_shards):
    assert "does not end in .html or .htm or .png" in run(
        "gallery", out / "rbd", "-o", "x.pdf", code=2
    )
    assert "--count is 0" in run("gallery", out / "rbd", "-o", "x.png", "--count", "0", code=2)
    assert "-1" in run("gallery", out / "rbd", "-o", "x.png", "--random", "--seed", "-1", code=2)
    assert "--key 'q'" in run("gallery", out / "rbd", "-o", "x.png", "--key", "q", code=2)
    write_shards(tmp_path / "good", {"a.jpg": np.ones((3, 3), np.uint8)})
    text = run("gallery", tmp_path / "good", "-o", "x.png", "--failures", code=2)
    assert "every image in" in text


@pytest.mark.parametrize("command", ["gallery", "show"])
def test_images_that_are_no_folder(run, out, command):
    key = ["b.jpg"] if command == "show" else []
    picture = out / "x.png"
    arguments = [out / "rbd", *key, "--images", out / "typo", "-o", picture]
    assert "typo' is not a folder" in run(command, *arguments, code=2)
    assert not picture.exists()


def test_export_and_import(run, out):
    assert "3 masks in" in run("export", out / "rbd", out / "png", "--full-size")
    assert "is there already" in run("export", out / "rbd", out / "png", code=2)
    text = run("import", out / "png", out / "new", "--images", out / "images", "--method", "tool")
    assert "3 masks in" in text and "1 images have no mask" in text
    assert re.search(r"^method +tool", run("info", out / "new"), re.MULTILINE)
    run("verify", out / "new", "--images", out / "images")
    text = run("import", out / "png", out / "new", "--images", out / "images", code=2)
    assert "already" in text
    for option in ("--max-side", "--shard-size"):
        arguments = ["--images", out / "images", option, "-1", "--overwrite"]
        assert f"{option} is -1" in run("import", out / "png", out / "new", *arguments, code=2)


@pytest.mark.parametrize("command", ["info", "verify", "index", "export"])
def test_a_folder_without_shards(run, tmp_path, command):
    more = [tmp_path / "png"] if command == "export" else []
    assert "no mask shards" in run(command, tmp_path, *more, code=2)
    assert "no such file or directory" in run(command, tmp_path / "missing", *more, code=2)
    assert not (tmp_path / "png").exists()

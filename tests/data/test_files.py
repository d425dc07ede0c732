"""A file, and a set of files, appear whole or not at all."""

import errno
import os
import re
import resource
import subprocess
import sys

import pytest

from data.files import draft_folder, replacing, write_whole


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with replacing(path) as temporary:
        assert re.fullmatch(r"\.a\.bin\.[0-9a-f]{8}\.tmp", temporary.name)
        temporary.write_bytes(b"hello")
        assert list(path.parent.iterdir()) == [temporary]
    assert path.read_bytes() == b"hello"
    write_whole(path, memoryview(b"again"))
    assert path.read_bytes() == b"again"
    write_whole(path, "caf\u00e9 \udcff")
    assert path.read_bytes() == b"caf\xc3\xa9 \\udcff"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    for error in (KeyboardInterrupt, ValueError, FileNotFoundError):
        with pytest.raises(error), replacing(path) as temporary:
            temporary.write_text("new")
            raise error
    with pytest.raises(FileNotFoundError) as caught, replacing(path):
        pass  # it writes nothing
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # Python ignores its signal
    try:
        with pytest.raises(OSError) as caught:
            write_whole(tmp_path / "a", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_left_overs_of_killed_processes_go_with_the_next_write(tmp_path):
    (tmp_path / ".a[1].0123abcd.tmp").touch()
    others = [tmp_path / name for name in (".a1.0123abcd.tmp", ".a[1].tmp", ".b.0123abcd.tmp")]
    for other in others:
        other.touch()
    write_whole(tmp_path / "a[1]", b"")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a[1]", *others])


def test_of_two_that_write_one_file_at_once_one_stands(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("slow")
        write_whole(path, "fast")  # takes the other's temporary file for a left-over
    assert path.read_text() == "fast" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for make in (
        lambda path: write_whole(path, b""),
        lambda path: draft_folder(path, "a").__enter__(),
    ):
        with pytest.raises(OSError) as caught:
            make(tmp_path / "file" / "out" / "a")
        assert str(tmp_path / "file") in caught.value.filename


def test_a_draft_goes_with_what_is_left_in_it(tmp_path):
    with draft_folder(tmp_path / "out", "import") as draft:
        (draft / "a").write_text("1")
        (draft / "b").write_text("2")
        os.replace(draft / "a", tmp_path / "out" / "a")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_an_out_that_was_made_for_nothing_goes_too(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(KeyboardInterrupt), draft_folder(tmp_path / name, "import"):
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_killed_makers_draft_is_removed_by_the_next(tmp_path):
    program = (
        "import sys; from data.files import draft_folder\n"
        "with draft_folder(sys.argv[1], 'import') as draft:\n"
        "    print(draft, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    other = tmp_path / process.stdout.readline().strip()
    process.kill()
    process.wait()
    assert other.is_dir()
    with draft_folder(tmp_path, "import"):
        assert not other.exists()

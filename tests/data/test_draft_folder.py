"""A hidden folder for a set of files that is being made."""

import subprocess
import sys

import pytest

from data.draft_folder import draft_folder
from data.errors import UserError


def test_it_goes_with_what_is_left_in_it(tmp_path):
    with draft_folder(tmp_path / "out", "import") as draft:
        (draft / "a").write_text("1")
        (draft / "b").write_text("2")
        (draft / "a").rename(tmp_path / "out" / "a")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_an_out_that_was_made_for_nothing_goes_too(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(KeyboardInterrupt), draft_folder(tmp_path / name, "import"):
            raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_only_a_dead_makers_folder_is_removed(tmp_path):
    program = (
        "import sys; from data.draft_folder import draft_folder\n"
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
    with draft_folder(tmp_path, "import"):
        assert other.is_dir()
    process.kill()
    process.wait()
    assert other.is_dir()
    with draft_folder(tmp_path, "import"):
        assert not other.exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/out' cannot be written to \(not a directory\)"),
        draft_folder(tmp_path / "file" / "out", "import"),
    ):
        pass

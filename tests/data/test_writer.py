"""One writer at a time, whoever the writers are and however they end."""

import os
import signal
import subprocess
import sys

import pytest

from data.errors import UserError
from data.files import only_writer

HOLD = """
import sys
from data.files import only_writer
with only_writer(sys.argv[1], "OUT", *sys.argv[2:]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def hold():
    """Start processes that each hold a lock until they are told to end."""
    processes = []

    def hold(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def refused(path, *part):
    try:
        with only_writer(path, "OUT", *part):
            return None
    except UserError as error:
        return error.message


def test_the_second_is_told_who_is_the_first(tmp_path, hold):
    first = hold(tmp_path)
    sentence = refused(tmp_path)
    assert f"OUT '{tmp_path}'" in sentence and f"process {first.pid}" in sentence
    assert refused(tmp_path / "other") is None
    assert not (tmp_path / "other").exists()
    first.communicate("\n")
    assert refused(tmp_path) is None
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_holds_nothing(tmp_path, hold):
    first = hold(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert refused(tmp_path) is None
    assert os.listdir(tmp_path) == []  # its file went with the next


def test_parts_work_side_by_side_and_the_whole_alone(tmp_path, hold):
    first, second = hold(tmp_path, "1-of-3"), hold(tmp_path, "2-of-3")
    assert refused(tmp_path, "3-of-3") is None
    assert str(first.pid) in refused(tmp_path, "1-of-3")
    assert "process" in refused(tmp_path)
    first.communicate("\n")
    assert "process" in refused(tmp_path)
    second.communicate("\n")
    hold(tmp_path)
    assert "process" in refused(tmp_path, "1-of-3")


def test_a_file_is_locked_beside_it(tmp_path, hold):
    hold(tmp_path, "", "pool.h5")
    assert "pool.h5' is being written" in refused(tmp_path, "", "pool.h5")
    assert refused(tmp_path, "", "other.h5") is None


def test_a_planted_link_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".writer.tmp").symlink_to(precious)
    with pytest.raises(OSError), only_writer(tmp_path / "run", "OUT"):
        pass
    assert precious.read_text() == "kept"

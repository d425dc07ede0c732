"""The one handler at the top of every command."""

import errno
import os

import click
import pytest
import torch
from click.testing import CliRunner

from data.errors import RunFailed, ToldCommand, ToldGroup, UserError, errors_told
from evaluate.results import say


def _full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "masks/shard-00000.h5")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (_full(), 2, ("masks/shard-00000.h5", "no space left", "make room", "same command")),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, ("'out'", "permission")),
        (MemoryError(), 2, ("memory", "--batch-size", "--jobs")),
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), 2, ("CUDA", "--batch-size")),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), 2, ("memory", "--batch-size")),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling x"), 2, ("memory", "--batch-size")),
        (RuntimeError("CUDA error: out of memory\nmore lines"), 2, ("memory", "--batch-size")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), 2, ("memory", "--jobs")),
        (RuntimeError("unable to allocate shared memory(shm)"), 2, ("shared memory", "--shm-size")),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, ("pid 7",)),
    ],
)
def test_an_error_of_the_machine_is_one_sentence(error, code, words):
    @click.command(cls=ToldCommand)
    @click.option("--batch-size")
    @click.option("--jobs")
    def main(**options):
        raise error

    result = CliRunner().invoke(main)
    assert result.exit_code == code
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr


def test_a_real_allocation_that_fails_is_told():
    with pytest.raises(UserError, match="the memory is exhausted"), errors_told():
        torch.empty(1 << 50)


def test_a_note_takes_the_place_of_the_remedy():
    error = _full()
    error.add_note("go on with --resume")
    with pytest.raises(UserError, match="go on with --resume") as told, errors_told():
        raise error
    assert "make room" not in told.value.message


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), OSError("a bug")])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a bug") as caught, errors_told():
        raise error
    assert caught.value is error


def test_a_command_of_a_group_and_of_another_process(monkeypatch):
    @click.group(cls=ToldGroup)
    def main():
        pass

    @main.command()
    @click.option("--bad", is_flag=True)
    def work(bad):
        raise UserError("that is wrong.") if bad else _full()

    monkeypatch.setenv("LOCAL_RANK", "1")
    silent = CliRunner().invoke(main, ["work", "--bad"])
    assert (silent.exit_code, silent.stderr) == (2, "")
    assert "no space left" in CliRunner().invoke(main, ["work"]).stderr


@pytest.mark.parametrize("kind", [UserError, RunFailed])
def test_control_characters_of_names_are_made_visible(kind, capsys):
    kind("no \x1b[2J\u202e 'é.png'\nsecond line").show()
    assert capsys.readouterr().err == "Error: no \\x1b[2J\\u202e 'é.png'\nsecond line\n"
    say("left out: \x1b]0;x\x07.png")
    assert capsys.readouterr().err == "left out: \\x1b]0;x\\x07.png\n"

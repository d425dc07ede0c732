"""Rows are printed as they are measured, and one that fails does not end the benchmark."""

import pytest

from benchmarks.training.failures import Failures, PartFailed
from benchmarks.training.table import Table
from data.errors import UserError


def fail(error: Exception):
    raise error


def test_a_failed_part_is_a_row_and_the_next_is_measured(capsys):
    failures = Failures()
    table = Table(("what", "images/s", ""), failures)
    broken = UserError("device is 'cuda', and there is none; give cpu.")
    assert table.measure("first", lambda: fail(broken), str) is None
    assert table.measure("second", lambda: 7.0, lambda rate: (f"{rate:.0f}", "good")) == 7.0
    assert failures.names == ["first"]
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.count("|") for line in lines] == [4] * 4
    assert "| first " in lines[2] and "failed | device is 'cuda', and there is none" in lines[2]
    assert "| second " in lines[3] and "7 | good |" in lines[3]


def test_each_row_is_out_at_once(capsys):
    table = Table(("what", "ms", "MB"), Failures())

    def measure() -> float:
        assert "| first " in capsys.readouterr().out
        return 1.0

    table.row("first", "2")
    table.measure("second", measure, lambda _: ())


@pytest.mark.parametrize(
    "error, reason",
    [
        (PartFailed("it was late"), "it was late"),
        (RuntimeError("CUDA error\nmore"), "RuntimeError: CUDA error"),
        (ValueError(), "ValueError: no message"),
    ],
)
def test_the_reason_is_one_line(error, reason, capsys):
    told = []
    assert Failures().attempt("x", lambda: fail(error), told.append) is None
    assert told == [reason]
    expected = not isinstance(error, PartFailed)
    assert ("Traceback" in capsys.readouterr().err) == expected


def test_an_interrupt_ends_all():
    with pytest.raises(KeyboardInterrupt):
        Failures().attempt("x", lambda: fail(KeyboardInterrupt()), print)

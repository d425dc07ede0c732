"""The attacks run, and notice what is wrong."""

import pytest

from benchmarks.reliability import common, weights
from data.errors import UserError


def fails():
    raise ValueError


def never_ends():
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda: "same", "same"),
        (fails, "TRACEBACK"),
        (lambda: __import__("os").kill(__import__("os").getpid(), 9), "CRASH"),
        (never_ends, "HANG"),
    ],
)
def test_a_child_s_end_is_told(work, outcome, capsys):
    told = common.apart(work, seconds=1).split(" ")[0]
    with pytest.raises(SystemExit) as end, common.Table() as table:
        table.note("what", told)
    assert told == outcome and end.value.code == (outcome in common.BAD)


def test_a_malicious_pickle_is_noticed(tmp_path):
    """It would run, where somebody unpickled it."""
    import pickle

    files = weights.evil_files(tmp_path / "mark")
    pickle.loads(files["a pickle of protocol 2"])
    assert (tmp_path / "mark").exists()


def test_what_a_damaged_checkpoint_comes_to(tmp_path):
    """As `--resume` reads it, with an older one beside, and as weights."""
    sound = weights.saved(weights.whole_state(3))
    cut = sound[: len(sound) // 2]
    assert weights.resumed(tmp_path / "run", sound) == "same"
    assert weights.resumed(tmp_path / "run", cut) == "older"
    assert weights.as_weights(tmp_path / "weights", sound) == "same"
    with pytest.raises(UserError):
        weights.as_weights(tmp_path / "weights", cut)

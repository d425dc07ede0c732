"""Result folders: whole or not at all, numbered, never overwritten unasked."""

import json

import numpy as np
import pytest

from data.errors import UserError
from evaluate.results import Report, next_folder, results_in


def test_default_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        with results_in(None, "knn") as results:
            results.publish(Report({"top1": np.float32(0.5), "rows": np.arange(2)}, []))
        assert results.folder.as_posix() == f"probe-output/knn-{number:03d}"
    content = json.loads((results.folder / "results.json").read_text())
    assert content["command"] == "probe knn"
    assert content["rows"] == [0, 1] and content["top1"] == 0.5
    assert "torch" in content["software"]
    assert next_folder("knn").name == "knn-003"


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), results_in(tmp_path / "out", "knn") as results:
        results.path("page.html").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_overwriting_a_failed_attempt_keeps_the_old(tmp_path):
    with results_in(tmp_path / "out", "knn") as results:
        results.publish(Report({"n": 1}, []))
    with pytest.raises(UserError, match="--overwrite"), results_in(tmp_path / "out", "knn"):
        pass
    with (
        pytest.raises(RuntimeError),
        results_in(tmp_path / "out", "knn", overwrite=True) as results,
    ):
        results.path("results.json").write_text('{"n": 2}')
        raise RuntimeError
    assert json.loads((tmp_path / "out" / "results.json").read_text())["n"] == 1
    with results_in(tmp_path / "out", "knn", overwrite=True) as results:
        results.publish(Report({"n": 2}, []))
    assert json.loads((tmp_path / "out" / "results.json").read_text())["n"] == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_never_touched(tmp_path, overwrite):
    (tmp_path / "curve.png").write_text("a run's")
    (tmp_path / "resume").mkdir()

    def use():
        with results_in(tmp_path, "linear", overwrite, own=("resume",)):
            pass

    with pytest.raises(UserError, match=r"holds files that are no results of probe, such as curve"):
        use()
    (tmp_path / "curve.png").unlink()
    use()  # its own unfinished one
    (tmp_path / "resume").rmdir()
    (tmp_path / "curve.png").write_text("a run's")
    with pytest.raises(UserError, match="such as curve"):
        use()


def test_out_that_is_a_file_or_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError), results_in(tmp_path / "file", "knn"):
        pass
    with pytest.raises(NotADirectoryError), results_in(tmp_path / "file/x", "knn"):
        pass


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    with (
        results_in(tmp_path / "out", "knn"),
        pytest.raises(UserError, match=r"--out .* is being written by process"),
        results_in(tmp_path / "out", "knn"),
    ):
        pass

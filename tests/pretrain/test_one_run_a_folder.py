"""A run's folder has one writer at a time, and says so to the second."""

import os
import shutil

from pretrain.trainer import train
from tests.pretrain.runs import command, metrics, start, tiny


def test_two_runs_resumed_at_once(photographs, tmp_path):
    out = tmp_path / "run"
    arguments = command(photographs, out, "--resume", epochs=6, checkpoint_every_steps=1)
    both = [start(arguments), start(arguments)]
    told = [process.communicate(timeout=240) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2]
    (said,) = [err for process, (_, err) in zip(both, told, strict=True) if process.returncode]
    assert "is being written by process" in said and "Traceback" not in said
    steps = [line["step"] for line in metrics(out) if "loss" in line]
    assert steps == list(range(1, 19))
    assert not any("writer" in name for name in os.listdir(out))


def test_a_data_set_with_its_splits_is_told(photographs, tmp_path, capsys):
    for split in ("train", "val"):
        shutil.copytree(photographs.images, tmp_path / "set" / split)
    changes = {"images": str(tmp_path / "set"), "epochs": 1, "knn_every": 1}
    train(tiny(photographs, **changes, paste_probability=0), tmp_path / "run")
    output = capsys.readouterr().out
    assert "holds train and val, and all of them are trained on" in output
    assert "kNN of" not in output

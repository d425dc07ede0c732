"""metrics.jsonl: no step twice, and no half line."""

import json
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.metrics import Metrics, read_metrics
from pretrain.pictures import draw_curve


def line(step):
    return {"step": step, "epoch": 0, "loss": 10.0 - step, "lr": 0.1, "images_per_second": 1.0}


def test_a_resumed_run_has_each_step_once(tmp_path):
    path, board = tmp_path / "metrics.jsonl", tmp_path / "board"
    metrics = Metrics(path, board, 0)
    for step in (1, 2, 3):
        metrics.write(line(step))
    metrics.close()
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    time.sleep(1.1)  # TensorBoard orders its files by the second in their names
    metrics = Metrics(path, board, 2)  # of the checkpoint
    metrics.write(line(3) | {"loss": 0.5})
    metrics.write({"step": 3, "epoch": 0, "replaced": 1, "reasons": ["a.jpg: not an image"]})
    metrics.close()
    lines = read_metrics(path)
    assert [entry["step"] for entry in lines] == [1, 2, 3, 3]
    assert [json.loads(text) for text in path.read_text().splitlines()] == lines
    events = EventAccumulator(str(board))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 9.0), (2, 8.0), (3, 0.5)]


def test_no_file_yet(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    draw_curve(tmp_path / "metrics.jsonl", tmp_path / "curve.png", "nothing")
    assert not (tmp_path / "curve.png").exists()

"""Images and views that are told of: each once, over all processes."""

import torch

from data.metrics import Metrics, read_metrics
from pretrain.views.loader import Remarks


def batch(unmoved=(0, 0), **lists):
    empty = {"replaced": [], "backgrounds_skipped": [], "damaged": []}
    return empty | {"unmoved": torch.tensor(unmoved)} | lists


def test_each_image_is_told_once_and_views_are_counted(tmp_path):
    remarks, log = Remarks(), Metrics(tmp_path / "metrics.jsonl")
    remarks.add(batch(replaced=["a.jpg: not an image"], unmoved=(2, 0)))
    remarks.add(batch(replaced=["a.jpg: not an image"], unmoved=(0, 1)))
    remarks.add(batch(damaged=[f"{n}.jpg: cut short" for n in range(12)]))

    def gather(values):
        if values == [3]:
            return [3, 4]
        return [*values, "b.jpg: empty file"] if values == ["a.jpg: not an image"] else values

    replaced, damaged, unmoved = remarks.tell(gather, log, {"step": 9, "epoch": 1})
    assert replaced == ("2 unreadable images were replaced: a.jpg: not an image; b.jpg: empty file")
    assert damaged.startswith("12 images are damaged inside") and damaged.endswith("; ...")
    assert unmoved.startswith("7 views stay as they are")
    log.close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [9, 9, 9]
    assert lines[0]["replaced"] == 2 and lines[1]["damaged"] == 12 and lines[2]["unmoved"] == 7
    assert len(lines[1]["reasons"]) == 10


def test_nothing_to_tell(tmp_path):
    remarks, log = Remarks(), Metrics(tmp_path / "metrics.jsonl")
    remarks.add(batch())
    assert remarks.tell(list, log, {"step": 1, "epoch": 0}) == []
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []

"""The miniature of the paper's ablations: its rows, its report, and the whole machinery."""

import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.miniature.__main__ import REDUCED, WHOLE, main
from benchmarks.miniature.datasets import donor, make, planned
from benchmarks.miniature.report import FIGURES, Report
from benchmarks.miniature.steps import Study
from benchmarks.miniature.supervised import train_supervised
from benchmarks.miniature.tables import TABLES, Row, choose
from evaluate.labelled import open_labelled
from pretrain.settings import build_settings, read_config

COMMANDS = {
    "saliency-compute": "saliency.cli",
    "mask-shards": "data.cli",
    "pretrain": "pretrain.cli",
    "probe": "evaluate.cli",
}
SMALL = {
    "arch": "resnet18",
    "image_size": 32,
    "batch_size": 8,
    "negatives": 16,
    "bn_groups": 1,
    "epochs": 1,
    "workers": 0,
}


@pytest.fixture(scope="module")
def discs(tmp_path_factory) -> Path:
    """Discs of three colours on gray, a class each: 8 to train on and 6 to test on."""
    root = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 6)):
        for label in range(3):
            folder = root / part / f"class-{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(90, 110, (48, 48, 3), dtype=np.uint8)
                colour = [230 if channel == label else 0 for channel in range(3)]
                cv2.circle(image, (24, 22 + number), 12, colour, -1)
                cv2.imwrite(str(folder / f"{number}.png"), image)
    return root


@pytest.fixture
def in_process(monkeypatch) -> list[list[str]]:
    """Run the public commands in this process, which spares their start; return what was run."""
    done = []

    def run(*command: object) -> None:
        words = [str(word) for word in command]
        done.append(words)
        module = __import__(COMMANDS[words[0]], fromlist=["main"])
        if words[0] == "probe":
            words += [] if words[1] == "saliency" else ["--workers", "0"]
        result = CliRunner().invoke(module.main, words[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output

    monkeypatch.setattr("benchmarks.miniature.steps.run", run)
    return done


def test_whole_machinery(discs, tmp_path, in_process):
    out = tmp_path / "report"
    arguments = ["--images", discs, "--out", out, "--only", "table2b", "--reduced"]
    arguments += [
        "--seeds",
        1,
        "--device",
        "cpu",
        "--jobs",
        1,
        "--judged-train",
        6,
        "--judged-val",
        4,
    ]
    for name, value in SMALL.items():
        arguments += ["--set", f"{name}={value}"]
    arguments = [str(argument) for argument in arguments]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (out / "index.html").read_text("utf-8")
    assert (
        "Table 2(b)" in page
        and "paired by seed" in page
        and "untrained" in page
        and "supervised" in page
    )
    assert (out / "table2b.png").stat().st_size > 5000
    results = json.loads((out / "results.json").read_text("utf-8"))
    rows = results["tables"]["table2b"]
    assert [row["row"] for row in rows] == ["0%", "20%", "50%", "100%"]
    assert [row["paper"] for row in rows] == [56.5, 59.3, 59.3, 44.5]
    for row in rows:
        probed = out / "probes" / row["run"] / "seed-0"
        knn = json.loads((probed / "knn" / "results.json").read_text("utf-8"))
        assert row["knn"] == [knn["rows"][0]["top1"], None]
        assert knn["rows"][0]["test_images"] == 12
        assert 0 <= row["abx"][0] <= 1 and row["background"][1] is None
    config = (out / "runs" / "rbd_paste_probability-1.0" / "seed-0" / "config.toml").read_text()
    assert "paste_probability = 1.0" in config
    assert any("Table 2(c)" in sentence for sentence in results["left_out"])

    before = len(in_process)
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    again = [words[:2] for words in in_process[before:]]
    assert all(words[0] == "saliency-compute" for words in again)  # which finds all shards there


class Began(Exception):
    """The first public command was about to run."""


@pytest.fixture
def begin(discs, tmp_path, monkeypatch):
    """Call the miniature with more arguments, up to its first command; return the result."""

    def run(*command):
        raise Began

    monkeypatch.setattr("benchmarks.miniature.steps.run", run)
    always = ["--out", str(tmp_path / "report"), "--only", "table2b", "--reduced"]
    (tmp_path / "link").symlink_to(discs)

    def call(*arguments: str):
        images = [] if "--images" in arguments else ["--images", str(tmp_path / "link")]
        return CliRunner().invoke(main, [*images, *always, *arguments])

    return call


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--set", "epochs=7"], "epochs = 6, not 7"),
        (["--set", "scale=[0.5,1]"], "scale = [0.2, 1.0], not [0.5, 1.0]"),
        (["--set", "masks=elsewhere"], "masks = null, not "),
        (
            ["--whole", "--judged-train", "300", "--judged-val", "100"],
            "paste_probability = 0.3, not 0.5",
        ),
        (["--judged-train", "6"], "--judged-train = 300, not 6"),
        (["--judged-val", "0"], "--judged-val = 100, not 0"),
        (["--supervised-epochs", "3"], "--supervised-epochs = 6, not 3"),
        (["--basnet", "other"], "--basnet = "),
        (["--images", "{tmp_path}/others"], "--images = "),
    ],
)
def test_a_folder_keeps_to_what_it_was_made_with(begin, tmp_path, arguments, message):
    for part in ("train", "val"):
        (tmp_path / "others" / part).mkdir(parents=True)
    assert isinstance(begin("--basnet", "shards").exception, Began)
    result = begin(*(word.format(tmp_path=tmp_path) for word in arguments))
    assert result.exit_code == 2, result.exception
    assert message in result.output and "name another folder" in result.output
    assert len(result.output.splitlines()) == 1


def test_a_folder_goes_on_faster_and_with_more_rows(begin, discs):
    for arguments in (
        [],
        ["--jobs", "1", "--device", "cpu", "--set", "workers=0", "--set", "compile=true"],
        ["--set", "epochs=6", "--set", "weight_decay=1e-4"],  # as they are anyway
        ["--seeds", "2", "--only", "table2a", "--images", str(discs)],
        ["--basnet", "shards"],
        [],
    ):
        assert isinstance(begin(*arguments).exception, Began), arguments


def test_a_folder_of_which_nothing_is_noted(begin, tmp_path):
    (tmp_path / "report" / "runs").mkdir(parents=True)
    result = begin()
    assert result.exit_code == 2 and "name another folder" in result.output


def test_a_folder_that_cannot_be_made(begin, tmp_path):
    (tmp_path / "report").write_text("a file")
    result = begin()
    assert result.exit_code == 2 and "name another folder" in result.output


def test_every_gpu_has_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    meet = threading.Barrier(4, timeout=30)  # two runs at once on each of two GPUs
    ran = []

    def run(*command):
        ran.append(command[command.index("--device") + 1])
        meet.wait()

    monkeypatch.setattr("benchmarks.miniature.steps.run", run)
    Study(tmp_path, tmp_path, {}, "auto").pretrain_all([(Row("x", 1.0), s) for s in range(8)], 2)
    assert sorted(ran) == ["cuda:0"] * 4 + ["cuda:1"] * 4
    ran.clear()
    meet = threading.Barrier(1)
    Study(tmp_path, tmp_path, {}, "cuda:1").pretrain_all([(Row("x", 1.0), 0)], 1)
    assert ran == ["cuda:1"]


def test_trainings_at_once_share_the_cores(tmp_path, monkeypatch):
    """Two at once on each of two GPUs, and 12 cores; a number among the settings wins."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("benchmarks.miniature.steps.usable_cores", lambda: 12)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = []

    def run(*command):
        seen.append(command[command.index("--workers") + 1])
        assert "workers=5" in command

    monkeypatch.setattr("benchmarks.miniature.steps.run", run)
    study = Study(tmp_path, tmp_path, {"workers": 5}, "cuda")
    study.pretrain_all([(Row("x", 1.0), 0)], 2)
    study.pretrain_all([(Row("x", 1.0), 0)], 20)
    Study(tmp_path, tmp_path, {"workers": 5}, "cpu").pretrain_all([(Row("x", 1.0), 0)], 1)
    assert seen == [3, 1, 12]


@pytest.mark.parametrize("device, workers, pinned", [("cpu", 1, False), ("cuda:0", 12, True)])
def test_the_supervised_network_is_fed(discs, tmp_path, monkeypatch, device, workers, pinned):
    """On a played GPU with 12 cores: the loader is asked for, and the training ends there."""

    class Asked(Exception):
        pass

    def build_loader(*_, workers, pin_memory, **__):
        raise Asked(workers, pin_memory)

    monkeypatch.setattr("benchmarks.miniature.supervised.current_device", torch.device)
    monkeypatch.setattr("benchmarks.miniature.supervised.usable_cores", lambda: 12)
    monkeypatch.setattr("benchmarks.miniature.supervised.build_loader", build_loader)
    sizes = {"arch": "resnet18", "image_size": 32, "batch_size": 8, "epochs": 1, "seed": 0}
    with pytest.raises(Asked) as asked:
        train_supervised(discs / "train", tmp_path / "x.pt", **sizes, device=device)
    assert asked.value.args == (workers, pinned)


def test_spread_is_over_seeds():
    row = Row("baseline", 56.5)
    figures = {"baseline": {seed: {"linear": value} for seed, value in enumerate((0.5, 0.6, 0.7))}}
    report = Report(Path("x"), {}, [0, 1, 2], "", "", {}, [], figures)
    assert report._spread(row.run, "linear") == pytest.approx((0.6, 0.1 / 3**0.5))


def test_rules_are_judged_by_differences_paired_by_seed():
    figures = {
        "baseline": {s: {"linear": 0.4 + 0.1 * s, "background": 0.3} for s in range(3)},
        "rbd": {s: {"linear": 0.45 + 0.1 * s, "background": 0.3 + 0.1 * s} for s in range(3)},
        "rbd_paste_probability-1.0": {s: {"linear": 0.5 + 0.1 * s} for s in range(3)},
    }
    report = Report(Path("x"), {}, [0, 1, 2], "", "", {}, [], figures)
    better, worse, less = report.verdicts()
    assert "better than none: holds (linear top-1 5.0 ± 0.0, 3 seeds)" in better
    assert "half of the time: contradicted" in worse
    assert "the background explains less: undecided" in less
    alone = {name: {0: by_seed[0]} for name, by_seed in figures.items()}
    report = Report(Path("x"), {}, [0], "", "", {}, [], alone)
    assert all("undecided" in text for text in report.verdicts())


def test_differences_from_the_baseline_are_paired_by_seed():
    def figures(shift):
        return {s: {key: 0.4 + 0.1 * s + shift * (1 + s) for key in FIGURES} for s in range(3)}

    runs = {"baseline": figures(0), "rbd": {s: figures(-0.01)[s] for s in (0, 2)}}
    (row,) = Report(Path("x"), {}, [0, 1, 2], "", "", {}, [], runs)._differences()
    assert row == {"": "rbd"} | dict.fromkeys(FIGURES.values(), "-2.0 ± 1.0")


def test_every_row_is_a_run_of_valid_settings():
    for config in (WHOLE, REDUCED):
        base = read_config(*config)
        for table in TABLES.values():
            for row in table.rows:
                settings = row.all_settings() | {"images": "x", "masks": "y"}
                if settings.get("background", "grayscale") != "grayscale":
                    settings["background_pool"] = "z"
                build_settings(base, settings)


def test_rows_that_lack_their_means_are_left_out_in_words():
    tables, left_out = choose((), False, {"rbd", "gs", "mc"}, textures=False)
    assert "BASNet" not in [row.name for row in tables["table2a"].rows]
    assert "texture" not in [row.name for row in tables["table2c"].rows]
    assert [text.rpartition(", ")[2].partition(":")[0] for text in left_out] == [
        "BASNet", "true masks", "texture",
    ]  # fmt: skip


def test_tables_share_their_runs():
    runs = {row.run for table in TABLES.values() for row in table.rows}
    assert len(runs) == 24  # of 31 rows


def test_composites_share_backgrounds_among_the_classes(discs, tmp_path):
    """Objects stay where they were; around them is the gray of another picture."""
    for path in discs.glob("*/*/*.png"):
        image = cv2.imread(str(path))
        mask = (image.max(axis=2) > 200).astype(np.uint8) * 255
        target = tmp_path / "masks" / path.relative_to(discs)
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mask)
    empty = tmp_path / "masks" / "train" / "class-0" / "0.png"
    cv2.imwrite(str(empty), np.zeros((48, 48), np.uint8))
    data = planned(discs, tmp_path / "out", tmp_path / "masks", objects=False)
    for _ in range(2):  # the second time all is there
        make(data, discs, tmp_path / "masks")
    made = sorted(path.relative_to(data.images) for path in data.images.rglob("*.jpg"))
    truth = sorted(path.relative_to(data.truth) for path in data.truth.rglob("*.png"))
    assert len(made) == 3 * (8 + 6) - 1 == len(truth)
    assert [path.with_suffix("") for path in made] == [path.with_suffix("") for path in truth]
    for path in (Path("val/class-1/3.jpg"), Path("train/class-2/5.jpg")):
        image = cv2.imread(str(data.images / path)).astype(int)
        mask = cv2.imread(str(data.truth / path.with_suffix(".png")), 0)
        inside = cv2.erode(mask, np.ones((9, 9))) > 0
        outside = cv2.dilate(mask, np.ones((9, 9))) == 0
        assert image.shape == (128, 128, 3) and inside.any()
        channel = int(path.parent.name[-1])
        assert (image[inside][:, channel] > 180).all()
        near = (np.abs(image[outside] - 100) < 40).all(axis=1)
        assert near.mean() > 0.97  # but for the fringe of the donor's own object
    images = open_labelled(discs / "val")
    donors = [donor(images, "val", row) for row in range(len(images))]
    assert all(other != row for row, other in enumerate(donors))
    assert len(set(images.labels[donors])) == 3


def test_drawn_objects_have_three_tests(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.miniature.datasets.TRAIN", 16)
    monkeypatch.setattr("benchmarks.miniature.datasets.VAL", 8)
    data = planned(None, tmp_path, None, objects=True)
    make(data, None, None)
    assert data.tests.keys() == {"tied", "unseen"}
    for folder in (data.images, *data.tests.values()):
        assert len(list(folder.glob("val/*/*.jpg"))) == 8
    assert len(list(data.truth.glob("train/*/*.png"))) == 16


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--images", "nowhere", "--objects"], "give one of the two"),
        (["--images", "nowhere"], "--images nowhere: there is no folder train"),
        (["--only", "table2d", "--reduced"], "--only leaves nothing to run"),
        (["--set", "epoch=3"], "did you mean 'epochs'"),
    ],
)
def test_mistakes_get_a_sentence(discs, tmp_path, arguments, message):
    images = [] if "--images" in arguments else ["--images", str(discs)]
    out = tmp_path / "report"
    result = CliRunner().invoke(main, [*images, "--out", str(out), *arguments])
    assert result.exit_code == 2 and message in result.output
    assert not out.exists()

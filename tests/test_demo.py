"""The demo: its pictures are what it says, and the whole journey runs."""

import hashlib
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.commands import run_side_by_side
from demo.journey import Journey
from demo.objects import CLASSES, draw_object
from demo.scenes import SIDE, TRAIN_SOURCES, VAL_SOURCES, render_scene, write_scenes

TRAIN, VAL = 16, 16


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A small set of pictures and their masks."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "objects", folder / "truth", TRAIN, VAL)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_labelled_by_folder_with_a_true_mask_each(scenes):
    for part, count in (("train", TRAIN), ("val", VAL)):
        pictures = sorted((scenes / "objects" / part).rglob("*.jpg"))
        masks = sorted((scenes / "truth" / part).rglob("*.png"))
        assert len(pictures) == count
        assert sorted({path.parent.name for path in pictures}) == sorted(CLASSES)
        assert [p.relative_to(scenes / "objects").with_suffix("") for p in pictures] == [
            m.relative_to(scenes / "truth").with_suffix("") for m in masks
        ]


def test_the_same_pictures_every_time(scenes, tmp_path):
    write_scenes(tmp_path / "objects", tmp_path / "truth", TRAIN, VAL)
    assert _digests(tmp_path) == _digests(scenes)


def test_a_picture_does_not_depend_on_how_many_there_are(scenes, tmp_path):
    write_scenes(tmp_path / "objects", tmp_path / "truth", 2 * TRAIN, VAL)
    assert _digests(scenes).items() <= _digests(tmp_path).items()


def test_what_is_there_stays(scenes):
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*") if path.is_file()}
    write_scenes(scenes / "objects", scenes / "truth", TRAIN, VAL)
    after = {path: path.stat().st_mtime_ns for path in scenes.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("kind", CLASSES)
def test_mask_is_where_the_object_changed_the_background(kind):
    black = {"black": np.zeros((300, 300), np.uint8)}
    for seed in range(5):
        scene = render_scene(kind, black, None, np.random.default_rng(seed))
        inside = scene.mask == 255
        assert set(np.unique(scene.mask)) == {0, 255}
        assert 0.08 < inside.mean() < 0.6
        border = cv2.dilate(scene.mask, np.ones((3, 3))) != cv2.erode(scene.mask, np.ones((3, 3)))
        painted = scene.image.max(axis=2) > 0
        assert not painted[~inside & ~border].any()
        assert painted[inside].mean() > 0.99


@pytest.mark.parametrize("kind", CLASSES)
def test_objects_lie_within_the_picture(kind):
    behind = np.full((SIDE, SIDE, 3), 128, np.uint8)
    for seed in range(5):
        alpha = draw_object(kind, SIDE, behind, np.random.default_rng(seed)).alpha
        assert alpha.min() == 0
        assert alpha.max() == 1
        edges = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert not edges.any()


def test_train_and_val_lie_on_different_photographs():
    train = {name: np.asarray(load()) for name, load in TRAIN_SOURCES.items()}
    val = {name: np.asarray(load()) for name, load in VAL_SOURCES.items()}
    assert not train.keys() & val.keys()
    pictures = [*train.values(), *val.values()]
    digests = [hashlib.sha256(picture.tobytes()).digest() for picture in pictures]
    assert len(set(digests)) == len(pictures)


def test_backgrounds_are_tied_to_the_class_shared_or_unseen(tmp_path, monkeypatch):
    drawn = []

    def render(kind, sources, habitat, rng):
        drawn.append((set(sources), habitat is not None))
        return render_scene(kind, sources, habitat, rng)

    monkeypatch.setattr("demo.scenes.render_scene", render)
    for kind, sources, tied in (
        ("tied", TRAIN_SOURCES, True), ("shared", TRAIN_SOURCES, False),
        ("unseen", VAL_SOURCES, False),
    ):  # fmt: skip
        drawn.clear()
        write_scenes(tmp_path / kind, tmp_path / f"{kind}-truth", 8, 8, (kind, kind))
        assert drawn == [(set(sources), tied)] * 16


def test_a_class_has_its_usual_background_in_train_alone():
    sources = {name: np.full((300, 300), 99, np.uint8) for name in "abcdefgh"}
    drawn = [
        render_scene("fish", sources, habitat, np.random.default_rng([0, seed])).source
        for habitat in ("c", None)
        for seed in range(200)
    ]
    assert drawn[:200].count("c") > 90  # half of them, and an eighth of the rest: 112
    assert drawn[200:].count("c") < 45  # an eighth: 25


def _python(program: str) -> list[str]:
    """A stand-in for one of the commands."""
    return [sys.executable, "-c", program]


def test_commands_side_by_side_run_at_once_and_share_the_cores(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("demo.commands._words", lambda command: _python(command))
    monkeypatch.setattr("demo.commands.usable_cores", lambda: 6)
    meet = (
        "import os, pathlib, time; pathlib.Path({mine!r}).touch()\n"
        "while not os.path.exists({other!r}): time.sleep(.01)\n"
        "print('threads', os.environ['OMP_NUM_THREADS'])"
    )
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    commands = {"a": meet.format(mine=one, other=two), "b": meet.format(mine=two, other=one)}
    run_side_by_side(commands, tmp_path / "logs")
    assert (tmp_path / "logs" / "a.log").read_text() == "threads 3\n"
    assert "threads 3" in capfd.readouterr().out
    assert not (tmp_path / "logs" / "b.log").exists()


def test_no_more_commands_at_once_than_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.commands._words", lambda command: _python(command))
    monkeypatch.setattr("demo.commands.usable_cores", lambda: 2)
    program = (
        "import pathlib, time; mine = pathlib.Path({mine!r}); mine.touch()\n"
        "print(len(list(mine.parent.iterdir()))); time.sleep(.5); mine.unlink()"
    )
    running = tmp_path / "running"
    running.mkdir()
    commands = {name: program.format(mine=str(running / name)) for name in "abcde"}
    run_side_by_side(commands, tmp_path / "logs")
    counts = [int((tmp_path / "logs" / f"{name}.log").read_text()) for name in "abcd"]
    assert max(counts) <= 2 and not list(running.iterdir())


def test_after_a_failure_nothing_more_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.commands._words", lambda command: _python(command))
    monkeypatch.setattr("demo.commands.usable_cores", lambda: 2)
    wait, fail = "import time; time.sleep(200)", "import sys; sys.exit(3)"
    with pytest.raises(SystemExit) as stopped:
        run_side_by_side({"a": wait, "b": fail, "c": wait, "d": wait}, tmp_path)
    assert stopped.value.code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "b.log"]


@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_failure_stops_the_other_and_is_shown(tmp_path, monkeypatch, capfd, failing):
    monkeypatch.setattr("demo.commands._words", lambda command: _python(command))
    commands = {name: "import time; time.sleep(200)" for name in "ab"}
    commands[failing] = "import sys; sys.exit('no such masks')"
    with pytest.raises(SystemExit) as stopped:
        run_side_by_side(commands, tmp_path)
    assert stopped.value.code == 1
    said = capfd.readouterr()
    assert "no such masks" in said.out + said.err and "The same command goes on" in said.out


def test_a_killed_command_ends_it_as_a_shell_would(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.commands._words", lambda command: _python(command))
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    with pytest.raises(SystemExit) as stopped:
        run_side_by_side({"a": killed}, tmp_path)
    assert stopped.value.code == 128 + 15


def test_a_folder_of_other_settings_is_refused(tmp_path):
    Journey(tmp_path, epochs=1)._remember()
    Journey(tmp_path, epochs=1)._remember()
    with pytest.raises(SystemExit) as stopped:
        Journey(tmp_path, epochs=2)._remember()
    assert "other settings" in stopped.value.code and "epochs = 1, not 2" in stopped.value.code


@pytest.mark.timeout(600)
def test_the_whole_journey_and_again(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "out"
    journey = Journey(
        out, train=80, val=24, tied=32, epochs=1, batch_size=16, negatives=64, neighbours=5
    )
    journey.run()
    said = capfd.readouterr().out
    for command in (
        "saliency-compute",
        "mask-shards",
        "pretrain",
        "probe gradients",
        "probe foreground",
    ):
        assert f"$ {command} " in said
    for path, _ in journey.sights():
        assert (out / path).stat().st_size > 0, path
    rows = json.loads((out / "results.json").read_text())["rows"]
    names = {"figure", "intervals", "untrained", "with", "without"}
    assert all(row.keys() == names for row in rows)
    foreground = json.loads((out / "probes/foreground/results.json").read_text())["rows"]
    assert [row["label"] for row in foreground] == ["without", "with", "untrained"]
    assert rows[0]["with"] == foreground[1]["background"]["value"]
    assert f"{100 * rows[-1]['without']:.1f} [" in (out / "results.md").read_text()
    headline = f"The background explains {100 * rows[0]['without']:.1f}% of the features without"
    assert headline in said and headline in (out / "index.html").read_text()
    page = (out / "index.html").read_text()
    for picture in ("neighbors/neighbors.png", "gradients/gradients.png", "views.png"):
        assert picture in page

    weights = (out / "runs/with/backbone.pt").stat().st_mtime_ns
    journey.run()  # resumes: nothing is trained or measured again
    assert (out / "runs/with/backbone.pt").stat().st_mtime_ns == weights
    assert "already in" in capfd.readouterr().out

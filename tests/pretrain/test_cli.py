"""The command: help, settings, and mistakes as a user meets them."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from data.run import Run, failures_told
from pretrain.cli import main
from pretrain.methods import METHODS, load_method
from pretrain.settings import Settings

SMALL = ("--batch-size", "4", "--negatives", "8", "--arch", "resnet18", "--image-size", "32")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_is_grouped_and_names_the_issues_options():
    text = run("--help").output
    for heading in ("Run:", "Method:", "Copy-paste:"):
        assert heading in text
    for option in (
        "--masks", "--out", "--config", "--set", "--method", "--arch", "--epochs", "--batch-size",
        "--paste-probability", "--background", "--background-pool", "--blend", "--negatives",
        "--resume", "--allow-missing-masks",
    ):  # fmt: skip
        assert f"{option} " in text


def test_settings_lists_all():
    text = run("--settings").output
    for name in Settings.model_fields.keys() - {"method"}:
        assert f"\n{name} = " in "\n" + text
    for method in METHODS:
        _, _, table = text.partition(f"with method = {method}\n")
        for name in load_method(method).Settings.model_fields:
            assert f"\nmethod.{name} = " in "\n" + table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "imagesize=64"), "did you mean 'image_size'"),
        (("--arch", "resnet51"), "resnet51"),
        (("--config", "nothing.toml"), "'nothing.toml' cannot be used"),
        (("--negatives", "some"), "negatives is 'some'"),
        (("--negatives", "0"), "negatives is '0'"),
        (("--epochs", "-1"), "epochs is -1"),
        (("--method", "moco", "--negatives", "all"), "give moco a queue length"),
        (("--batch-size", "13", "--masks", "M"), "batch_size is 13, more than the 12 images"),
        (("--batch-size", "4", "--masks", "M"), "negatives is 4096, more than the 12 images"),
        (("--batch-size", "4", "--negatives", "all"), "needs masks"),
        (("--background", "texture"), "background_pool is missing"),
    ],
)
def test_mistakes_exit_with_2_and_one_sentence(photographs, tmp_path, options, words):
    options = [photographs.masks if option == "M" else option for option in options]
    done = run(photographs.images, "--out", tmp_path / "run", *options)
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


def test_no_such_folder(tmp_path):
    done = run(tmp_path / "nowhere", "--out", tmp_path / "run", "--paste-probability", "0")
    assert done.exit_code == 2 and "nowhere" in done.output
    (tmp_path / "file").touch()
    done = run(tmp_path, "--out", tmp_path / "file")
    assert done.exit_code == 2 and "is a file" in done.output


def test_a_run_among_its_images(photographs):
    """Its pictures would be listed as images to train on."""
    for out in (photographs.images / "runs" / "1", photographs.images):
        done = run(photographs.images, "--out", out, "--masks", photographs.masks, *SMALL)
        assert done.exit_code == 2 and "lies in IMAGES" in done.output
        assert not (photographs.images / "runs").exists()


def test_a_run_whose_name_is_not_utf8(photographs, tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")
    done = run(photographs.images, "--out", out, "--masks", photographs.masks, *SMALL)
    assert done.exit_code == 2 and "not UTF-8" in done.output
    assert not os.path.exists(out)


def test_a_terminal_that_lacks_letters(photographs, tmp_path, monkeypatch):
    """Keys and paths may hold any letter; a terminal's encoding must not end a run."""

    def train(settings, out, **options):
        print("ünreadable \udcff")
        return type("Outcome", (), {"interrupted": False})

    monkeypatch.setattr("pretrain.trainer.train", train)
    done = CliRunner(charset="ascii").invoke(
        main, [str(photographs.images), "--out", str(tmp_path / "run")]
    )
    assert done.exit_code == 0 and done.output == "\\xfcnreadable \\udcff\n"


def test_other_processes_are_silent(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = run(tmp_path, "--out", tmp_path / "run", "--set", "nonsense=1")
    assert done.exit_code == 2 and done.output == ""


def test_a_process_tells_what_it_alone_met(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")

    def train(*arguments, **options):
        with failures_told(Run(tmp_path / "run"), "give a smaller batch_size"):
            raise MemoryError

    monkeypatch.setattr("pretrain.trainer.train", train)
    done = run(photographs.images, "--out", tmp_path / "run")
    assert done.exit_code == 2 and "memory is exhausted; give a smaller batch_size" in done.output


def test_config_then_options_then_set(photographs, tmp_path, monkeypatch):
    """What reaches the trainer: the file, overridden by options, overridden by --set."""
    seen = {}

    def train(settings, out, **options):
        seen["settings"] = settings
        return type("Outcome", (), {"interrupted": False})

    monkeypatch.setattr("pretrain.trainer.train", train)
    (tmp_path / "c.toml").write_text('epochs = 3\nlr = 0.5\narch = "resnet18"\n')
    done = run(
        photographs.images, "--out", tmp_path / "run", "--config", tmp_path / "c.toml",
        "--epochs", "4", "--negatives", "7", "--set", "lr=0.25", "--set", "batch-size=5",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    settings = seen["settings"]
    assert (settings.arch, settings.epochs, settings.lr) == ("resnet18", 4, 0.25)
    assert (settings.method.negatives, settings.batch_size) == (7, 5)
    assert not settings.allow_missing_masks


def test_a_published_row(photographs, tmp_path, monkeypatch):
    """`--row` picks a section of the file; options win over it."""
    given = {}

    def train(settings, out, **options):
        given["settings"] = settings
        return type("Outcome", (), {"interrupted": False})

    monkeypatch.setattr("pretrain.trainer.train", train)
    paper = Path(__file__).resolve().parents[2] / "configs" / "paper.toml"
    start = (photographs.images, "--out", tmp_path / "run", "--config", paper)
    done = run(*start, "--row", "mocov2-basnet", "--epochs", 5)
    assert done.exit_code == 0, done.output
    settings = given["settings"]
    assert (settings.method.name, settings.method.temperature) == ("moco", 0.2)
    assert (settings.paste_probability, settings.epochs) == (0.3, 5)
    done = run(*start)
    assert done.exit_code == 2 and "has rows; choose one by --row" in done.output

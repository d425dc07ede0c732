"""Benchmarks come to their end, on a few photographs."""

import sys

import pytest
from click.testing import CliRunner

from benchmarks import loader, methods, shards, small_maps
from benchmarks.training.data import make_photographs
from data.cli import main as mask_shards
from saliency.cli import main as saliency_compute


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """images/, and their masks as shards and as files: masks/, pngs/."""
    root = tmp_path_factory.mktemp("sets")
    make_photographs(root / "images", 8)
    for main, arguments in (
        (saliency_compute, [root / "images", root / "masks", "--jobs", 1, "--max-side", 120]),
        (mask_shards, ["export", root / "masks", root / "pngs"]),
    ):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
    return root


def test_loader(sets, monkeypatch, capsys):
    arguments = [sets / "images", "--masks", sets / "masks", "--image-size", 32, "--turns", 1]
    monkeypatch.setattr(sys, "argv", ["loader", *map(str, arguments)])
    loader.main()
    assert "Images/s against two views, the first on grayscale" in capsys.readouterr().out


def test_shards(sets, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shards", str(sets / "pngs")])
    monkeypatch.setattr(shards, "memory", lambda masks, counts: None)  # of 100,000 keys
    shards.main()
    assert "8 masks of" in capsys.readouterr().out


def test_methods():
    arguments = "cvsa --arch resnet18 --size 32 --batch 4 --negatives 16 --rounds 1 --device cpu"
    done = CliRunner().invoke(methods.main, arguments.split())
    assert done.exit_code == 0, done.output
    assert "cvsa" in done.output


def test_small_maps():
    done = CliRunner().invoke(small_maps.main, ["--batch", "2", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    assert "| resnet18 | 32 |" in done.output

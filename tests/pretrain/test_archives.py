"""A run on an archive, or on a dataset, is the run on its folder."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from data.images.listing import list_images
from data.masks.read import MaskShards
from evaluate.cli import main as probe
from pretrain import trainer
from saliency.cli import main as saliency_compute
from tests.pretrain.runs import losses, same_weights, tiny


def test_losses_are_the_folders(photographs, tmp_path):
    archive = tmp_path / "photographs.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(photographs.images, "images")
    trainer.train(tiny(photographs, epochs=1), tmp_path / "folder")
    trainer.train(tiny(replace(photographs, images=archive), epochs=1), tmp_path / "archive")
    assert losses(tmp_path / "archive") == losses(tmp_path / "folder")
    assert same_weights(tmp_path / "archive", tmp_path / "folder")


def write_dataset(folder: Path, path: Path) -> None:
    """Write a folder of class folders as a Hugging Face dataset."""
    pa = pytest.importorskip("pyarrow")
    keys = list_images(folder)
    names = sorted({key.partition("/")[0] for key in keys})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    table = pa.table(
        {
            "image": [{"bytes": (folder / key).read_bytes(), "path": None} for key in keys],
            "label": [names.index(key.partition("/")[0]) for key in keys],
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    path.mkdir()
    with pa.ipc.new_stream(str(path / "data.arrow"), table.schema) as out:
        out.write_table(table, max_chunksize=5)


def test_masks_losses_and_neighbours_are_the_folders(photographs, tmp_path):
    write_dataset(photographs.images, tmp_path / "dataset")
    made = {}
    for name, images in (("folder", photographs.images), ("dataset", tmp_path / "dataset")):
        out = tmp_path / f"run-{name}"
        both = replace(photographs, images=images, masks=tmp_path / f"masks-{name}")
        words = [str(images), str(both.masks), "--max-side", "80", "--jobs", "1"]
        result = CliRunner().invoke(saliency_compute, words)
        assert result.exit_code == 0, result.output
        trainer.train(tiny(both, epochs=1), out)
        words = ["knn", str(out), str(images), "--k", "3", "--workers", "0", "--json"]
        result = CliRunner().invoke(probe, [*words, "--device", "cpu", "--image-size", "32"])
        assert result.exit_code == 0, result.output
        (row,) = json.loads(result.stdout)["rows"]
        shards = MaskShards(both.masks)
        made[name] = losses(out), row["top1"], [shards.read(key).tolist() for key in shards.keys]
    assert made["folder"] == made["dataset"]
    assert len(made["folder"][2]) == 12
    assert same_weights(tmp_path / "run-dataset", tmp_path / "run-folder")

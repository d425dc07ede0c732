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


def write_tar(folder: Path, path: Path) -> None:
    with tarfile.open(path.with_suffix(".tar"), "w") as tar:
        tar.add(folder, "images")


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


def results_on(photographs, images: Path, out: Path) -> tuple:
    """Masks by RBD, losses with them, and kNN's accuracy of what was learnt."""
    masks = out / "masks"
    words = [str(images), str(masks), "--max-side", "80", "--jobs", "1"]
    assert CliRunner().invoke(saliency_compute, words).exit_code == 0
    trainer.train(tiny(replace(photographs, images=images, masks=masks), epochs=1), out / "run")
    words = ["knn", out / "run", images, "--out", out / "knn", "--k", 3, "--workers", 0]
    words += ["--device", "cpu", "--image-size", 32]
    assert CliRunner().invoke(probe, list(map(str, words))).exit_code == 0
    (row,) = json.loads((out / "knn/results.json").read_text())["rows"]
    shards = MaskShards(masks)
    return losses(out / "run"), row["top1"], [shards.read(key).tolist() for key in shards.keys]


@pytest.fixture(scope="module")
def of_folder(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("folder")
    return out, results_on(photographs, photographs.images, out)


@pytest.mark.parametrize("ending", ["tar", "arrow"])
def test_masks_losses_and_neighbours_are_the_folders(photographs, of_folder, tmp_path, ending):
    write = {"tar": write_tar, "arrow": write_dataset}[ending]
    write(photographs.images, tmp_path / "images")
    path = tmp_path / ("images.tar" if ending == "tar" else "images")
    folder, expected = of_folder
    assert results_on(photographs, path, tmp_path) == expected
    assert len(expected[2]) == 12 and any(map(any, expected[2][0]))
    assert same_weights(tmp_path / "run", folder / "run")

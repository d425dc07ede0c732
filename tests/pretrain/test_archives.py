"""A run on an archive is the run on its folder."""

import tarfile
from dataclasses import replace

from pretrain import trainer
from tests.pretrain.runs import losses, same_weights, tiny


def test_losses_are_the_folders(photographs, tmp_path):
    archive = tmp_path / "photographs.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(photographs.images, "images")
    trainer.train(tiny(photographs, epochs=1), tmp_path / "folder")
    trainer.train(tiny(replace(photographs, images=archive), epochs=1), tmp_path / "archive")
    assert losses(tmp_path / "archive") == losses(tmp_path / "folder")
    assert same_weights(tmp_path / "archive", tmp_path / "folder")

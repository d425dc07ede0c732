"""Made data that several tests of the judge use."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from data.keys import Keys
from data.shards import ChunkEncoder, ShardWriter, Status, shard_name
from evaluate.cli import main


@pytest.fixture
def probe():
    """Run `probe ARGUMENTS` in this process; a traceback fails the test."""

    def run(*arguments, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        if code:
            assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def write_shard():
    """Write masks {key: uint8 (h, w) or a reason} as a folder of one shard."""

    def write(folder: Path, masks: dict, image_sizes: dict | None = None, canvas: int = 64) -> Path:
        keys = Keys(masks)
        encoder = ChunkEncoder(canvas)
        attributes = {
            "method": "rbd",
            "parameters": {"max_side": canvas},
            "software": {},
            "listing_digest": keys.digest(),
        }
        path = folder / shard_name(0)
        with ShardWriter(path, 0, 1, keys, canvas, "zstd", attributes) as writer:
            for row, key in enumerate(keys):
                mask = masks[key]
                if isinstance(mask, str):
                    writer.write(row, None, status=Status.UNREADABLE, error=mask)
                    continue
                size = (image_sizes or {}).get(key, mask.shape)
                writer.write(row, encoder.encode(mask), mask.shape, size)
            writer.commit()
        return folder

    return write


@pytest.fixture
def write_pictures():
    """Write {name: uint8 array} as PNGs."""

    def write(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
        for name, picture in pictures.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            bgr = picture[..., ::-1] if picture.ndim == 3 else picture
            assert cv2.imwrite(str(path), bgr)
        return folder

    return write

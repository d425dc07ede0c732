"""Sources of backgrounds: what is chosen, how it is cut, and what cannot be read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from data.backgrounds import choose, cover_scale, gray_level, open_source, read_chosen
from data.backgrounds.texture import TextureFolder
from data.errors import UserError
from data.images.listing import list_images


def test_gray_level_is_floor_of_255_u():
    assert [gray_level(u) for u in (0.0, 0.003, 0.5, 0.9999999)] == [0, 0, 127, 254]


def test_choose_is_uniform_over_the_source():
    class Five:
        def __len__(self):
            return 5

    picks = [choose(Five(), u) for u in np.linspace(0, 1, 1000, endpoint=False)]
    assert np.bincount(picks).tolist() == [200] * 5


def test_backgrounds_are_never_shrunk():
    assert cover_scale((10, 10), (5, 5)) == 1
    assert cover_scale((10, 20), (20, 20)) == 2
    assert cover_scale((10, 20), (5, 80)) == 4


# Textures ---------------------------------------------------------------------------------------


@pytest.fixture
def textures(tmp_path):
    for number in range(5):
        path = tmp_path / f"kind{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 10 * number, np.uint8)).save(path)
    return tmp_path


def test_textures_are_read_from_any_depth_and_cached_within_bounds(textures):
    source = TextureFolder(textures, cache_bytes=2 * 20 * 30 * 3)
    levels = [int(source.read(i)[0, 0, 0]) for i in range(5)]
    assert sorted(levels) == [0, 10, 20, 30, 40]
    assert [int(source.read(i)[0, 0, 0]) for i in range(5)] == levels
    assert len(source.kept._pictures) == 2
    assert source.read(4) is source.read(4)
    assert (pickle.loads(pickle.dumps(source)).read(3) == source.read(3)).all()


def test_an_unreadable_texture_is_named(textures):
    (textures / "kind0" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"texture 'kind0/0\.png' .*empty file"):
        TextureFolder(textures).read(0)


def test_the_next_texture_takes_the_place_of_an_unreadable_one(textures):
    source = TextureFolder(textures)
    expected = source.read(0)
    for key in list_images(textures)[1:]:
        (textures / key).write_bytes(b"")
    source = TextureFolder(textures)
    texture, skipped = read_chosen(source, 0.99)  # the last
    assert np.array_equal(texture, expected) and len(skipped) == 1
    assert read_chosen(source, 0.0)[1] == []
    (textures / list_images(textures)[0]).write_bytes(b"")
    with pytest.raises(UserError, match=r"the texture .* cannot be read .*; remove it"):
        read_chosen(TextureFolder(textures), 0.5)


def test_settings_choose_the_source(textures, tmp_path):
    assert open_source("grayscale", None) is None
    assert len(open_source("texture", textures)) == 5
    with pytest.raises(UserError, match="there is no folder"):
        open_source("texture", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        open_source("imagenet", tmp_path / "none.h5")
    with pytest.raises(UserError, match="background_pool is missing; give a pool made by"):
        open_source("imagenet", None)
    with pytest.raises(UserError, match="takes none; set background to texture or imagenet"):
        open_source("grayscale", textures)
    with pytest.raises(UserError, match="is 'sky'; choose one of grayscale, texture, imagenet"):
        open_source("sky", None)


def test_constant_is_imagenets_mean_colour():
    source = open_source("constant")
    assert len(source) == 1 and source.read(0).tolist() == [[[124, 116, 104]]]

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import saliency
from data.errors import UserError
from saliency.maps import saliency_maps
from saliency.methods import METHODS as REGISTRY
from saliency.methods.protocol import PixelSettings, superpixel_count

METHODS = [name for name, method in REGISTRY.items() if not method.by_network]
PUBLIC = {name: getattr(saliency, name) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_public_functions(method, disc):
    image, inside = disc
    result = PUBLIC[method](image)
    assert result.dtype == np.float32 and result.shape == inside.shape
    assert result.min() >= 0 and result.max() <= 1
    assert result[inside].mean() > result[~inside].mean() + 0.5


def test_methods_in_one_pass_equal_each_alone(disc):
    together = saliency_maps(disc[0], METHODS)
    for method in METHODS:
        assert (together[method] == PUBLIC[method](disc[0])).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 3), (3, 40), (10, 400), (20, 20), (33, 9)])
def test_any_size_gives_a_map(method, shape):
    image = np.random.default_rng(14).integers(0, 256, (*shape, 3)).astype(np.uint8)
    result = PUBLIC[method](image)
    assert result.shape == shape and np.isfinite(result).all()
    assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colour", [0, 127, 255])
def test_flat_image_gives_zero(method, colour):
    image = np.full((60, 80, 3), colour, np.uint8)
    maps = saliency_maps(image, (method,))
    assert not maps[method].any()


@pytest.mark.parametrize("method", METHODS)
def test_two_flat_halves_have_no_scale_to_read(method):
    """Every superpixel has a neighbour of its very colour, so that the scales are zero."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[:, 40:] = 200
    result = PUBLIC[method](image)
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_gray_photograph(method, disc):
    image, inside = disc
    gray = np.repeat(image[..., :1], 3, axis=2)
    result = PUBLIC[method](gray)
    assert result[inside].mean() > result[~inside].mean() + 0.5


def test_not_contiguous_image_is_the_same(disc):
    image = disc[0]
    assert (saliency.rbd(image[:, ::-1]) == saliency.rbd(image[:, ::-1].copy())).all()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="uint8"):
        saliency.rbd(wrong)


@pytest.mark.parametrize("name", ["sobel", "RBD", "basnet"])
def test_no_other_name_gives_a_map(name, disc):
    with pytest.raises(UserError, match=name):
        saliency_maps(disc[0], [name])


@pytest.mark.parametrize("name", ["sobel", "RBD"])
def test_no_other_name_is_a_function(name):
    with pytest.raises(AttributeError, match=name):
        getattr(saliency, name)


def test_superpixel_count():
    assert superpixel_count("authors", 10**6) == (250, 600.0)
    assert superpixel_count("auto", 300_000) == (250, 600.0)
    assert superpixel_count("auto", 720_000) == (250, 1200.0)
    assert superpixel_count("auto", 20_000) == (250, 100.0)
    assert superpixel_count("auto", 1_000) == (250, 16.0)
    assert superpixel_count("authors", 20_000) == (250, 600.0)
    assert superpixel_count("100", 10_000) == (100, 100.0)
    assert superpixel_count("50px", 10_000) == (200, 50.0)
    for wrong in ("0", "-3", "0px", "nanpx", "many"):
        with pytest.raises(ValueError):
            PixelSettings(superpixels=wrong)


def test_more_superpixels_make_a_finer_map(disc):
    def levels(count):
        return len(np.unique(saliency_maps(disc[0], ["rbd"], count)["rbd"]))

    assert levels("150") > levels("20")


# Ctrl-C ---------------------------------------------------------------------------------------

_INTERRUPTED = """
import numpy as np
from saliency.maps import saliency_maps

METHODS = ("rbd", "mc", "gs", "fusion")

image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
saliency_maps(image, METHODS)
for time in range(25):
    try:
        print(time, flush=True)
        while True:
            saliency_maps(image, METHODS)
    except KeyboardInterrupt:
        pass
print("as expected")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_an_interruption_is_an_exception_and_not_a_crash():
    """Compiled kernels cannot bear an exception where they hand over their results."""
    moments = random.Random(0)
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED],
        cwd=Path(__file__).resolve().parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line == "as expected\n":
            break
        time.sleep(moments.uniform(0.02, 0.06))
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0 and line == "as expected\n"

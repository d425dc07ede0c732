"""Preprocessing, normalisation and batches, against scikit-image and one image at a time."""

import numpy as np
import pytest
import torch
from skimage.transform import resize

from data.device import pick_device, pick_precision
from data.errors import UserError
from saliency.basnet import BASNet, Predictor, predict
from saliency.basnet.predict import preprocess, resize_image, resize_map, stretch


def photograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(3, 251, (height, width, 3), dtype=np.uint8)


def plain_preprocess(image, size):
    """The authors' steps, in float64 by scikit-image."""
    resized = resize(
        image, (size, size), order=1, mode="constant", anti_aliasing=False, preserve_range=True
    )
    scaled = resized / resized.max()
    if image.ndim == 2:
        return np.stack([(scaled - 0.485) / 0.229] * 3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((scaled - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize("shape", [(375, 500), (64, 64), (40, 300), (37, 21), (2, 3), (700, 64)])
def test_preprocessing_equals_the_authors(shape):
    image = photograph(*shape)
    ours = preprocess(image, 64)
    assert ours.dtype == np.float32 and ours.shape == (3, 64, 64)
    np.testing.assert_allclose(ours, plain_preprocess(image, 64), atol=2e-4)


def test_grayscale_uses_one_mean_for_all_channels():
    gray = photograph(90, 70)[..., 0]
    expected = plain_preprocess(gray, 64)
    np.testing.assert_allclose(preprocess(gray, 64), expected, atol=2e-4)
    np.testing.assert_allclose(preprocess(np.dstack([gray] * 3), 64), expected, atol=2e-4)


def test_black_image_is_finite():
    assert np.isfinite(preprocess(np.zeros((80, 80, 3), np.uint8), 64)).all()


def test_resize_is_to_the_published_256_by_default():
    assert resize_image(photograph(300, 500)).shape == (256, 256, 3)


def test_stretch_is_per_map_and_constant_maps_become_zero():
    maps = np.array([[[0.2, 0.4]], [[0.5, 0.5]], [[-1.0, 3.0]]])
    np.testing.assert_allclose(stretch(maps), [[[0, 1]], [[0, 0]], [[0, 1]]])


def test_map_is_resized_bilinearly():
    small = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    expected = resize(small, (40, 64), order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resize_map(small, (40, 64)), expected, atol=1e-6)
    assert resize_map(small, (16, 16)) is small


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return BASNet(width=1 / 32).eval()


def test_batches_equal_single_images(network):
    images = [photograph(60, 90, 1), photograph(90, 45, 2), photograph(64, 64, 3)[..., 0]]
    together = list(predict(images, Predictor(network, batch_size=3), size=64))
    alone = [next(predict([image], network, size=64)) for image in images]
    for image, a, b in zip(images, together, alone, strict=True):
        assert a.shape == image.shape[:2] and a.dtype == np.float32
        assert a.min() >= 0 and a.max() <= 1
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_prediction_is_the_stretched_first_output(network):
    image = photograph(64, 64)
    with torch.no_grad():
        raw = network(torch.as_tensor(plain_preprocess(image, 64), dtype=torch.float32)[None])
    raw = raw[0][0, 0].numpy()
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    np.testing.assert_allclose(next(predict([image], network, size=64)), expected, atol=1e-3)


def test_more_images_than_a_batch_keep_their_order(network):
    images = [photograph(64, 64, seed) for seed in range(5)]
    maps = list(predict(iter(images), Predictor(network, batch_size=2), size=64))
    assert len(maps) == 5
    np.testing.assert_allclose(maps[4], next(predict([images[4]], network, size=64)), atol=1e-5)


def test_bfloat16_is_close_to_float32(network):
    batch = np.stack([preprocess(photograph(64, 64, s), 64) for s in range(2)])
    with torch.no_grad():
        full = network(torch.as_tensor(batch))[0]
        half = Predictor(network, precision=torch.bfloat16)
        raw = half(batch)
    assert raw.shape == (2, 64, 64)
    assert np.corrcoef(raw.ravel(), stretch(full[:, 0].numpy()).ravel())[0, 1] > 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_gpu_asked_where_there_is_none(name):
    with pytest.raises(UserError, match=f"--device {name}: PyTorch finds no GPU here"):
        pick_device(name)


@pytest.mark.parametrize("name", ["cuda", "auto", "cuda:0"])
def test_gpu_that_cannot_be_used_is_told(name, monkeypatch):
    def broken(*shape, device):
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", broken)
    with pytest.raises(UserError, match=r"cuda.* \(CUDA error: no kernel image is available\); "):
        pick_device(name)


def test_half_precision_is_what_the_gpu_at_hand_computes_itself(monkeypatch):
    """PyTorch calls bf16 supported where it is only emulated, and slow."""
    capabilities = {0: (9, 0), 1: (7, 5)}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d: capabilities[d.index])
    assert pick_precision("auto", torch.device("cuda:0")) is torch.bfloat16
    assert pick_precision("auto", torch.device("cuda:1")) is torch.float16


def test_devices_and_precisions():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:x", "meta"):
        with pytest.raises(UserError, match=f"--device {name} is"):
            pick_device(name)
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) is None and pick_precision("bf16", cpu) is torch.bfloat16
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        pick_precision("fp16", cpu)

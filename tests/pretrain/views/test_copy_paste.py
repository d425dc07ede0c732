"""CopyPaste alone, and the proof that the loader's crop-first equals pasting first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from data.backgrounds import cover_box
from data.backgrounds.texture import TextureFolder
from data.errors import UserError
from pretrain.views.augment import DeviceAugment
from pretrain.views.copy_paste import CopyPaste, blur_mask, composite
from pretrain.views.draws import COLUMN, draw_view, uniforms
from pretrain.views.loader import build_loader
from pretrain.views.recipes import PasteSettings, ViewRecipe
from tests.pretrain.mask_samples import soft_mask, write_masks


@pytest.fixture
def sample():
    image = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)
    return tv_tensors.Image(image), tv_tensors.Mask(torch.from_numpy(soft_mask((400, 600))))


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textures")
    for name in ("brick", "grass", "gravel"):
        pixels = getattr(skimage.data, name)()[:300, :250]
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return TextureFolder(folder)


def test_composite_is_the_equation():
    rng = np.random.default_rng(0)
    image, alpha, back = (
        rng.random((2, 3, 5, 6)),
        rng.random((2, 1, 5, 6)),
        rng.random((2, 3, 5, 6)),
    )
    ours = composite(*(torch.from_numpy(array) for array in (image, alpha, back)))
    np.testing.assert_allclose(ours.numpy(), alpha * image + (1 - alpha) * back, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.7, 2.5, 3.0, 4.0, 5.0, 10.0])
@pytest.mark.parametrize("shape", [(300, 400), (375, 283), (9, 40)])
def test_blur_is_a_gaussian(sigma, shape):
    """Within four levels of scipy's in float64, borders repeated, at a hard edge too."""
    for mask in (soft_mask(shape), np.uint8(soft_mask(shape, 1) > 100) * np.uint8(255)):
        exact = scipy.ndimage.gaussian_filter(mask.astype(float), sigma, mode="nearest")
        ours = blur_mask(mask, sigma, mask.shape)
        assert ours.dtype == np.uint8 and ours.shape == mask.shape
        assert np.abs(ours - exact).max() < 4
        assert np.abs(ours - exact).mean() < 1


def test_gray_background_stands_where_the_mask_is_zero(sample):
    image, mask = sample
    torch.manual_seed(1)
    pasted = CopyPaste(probability=1)(image, mask)
    assert isinstance(pasted, tv_tensors.Image) and pasted.dtype == torch.uint8
    behind = pasted[:, mask == 0]
    assert len(torch.unique(behind)) == 1
    level = int(behind[0, 0])
    assert torch.equal(pasted[:, mask == 255], image[:, mask == 255])
    alpha = mask.double() / 255
    expected = alpha * image.double() + (1 - alpha) * level
    assert (pasted.double() - expected).abs().max() <= 0.5 + 1e-4


def test_gray_levels_are_floor_of_255_u(sample):
    image, mask = (entry[..., :8, :8] for entry in sample)
    mask = tv_tensors.Mask(torch.zeros_like(mask))
    mask[0, 0] = 255
    levels = set()
    for seed in range(300):
        torch.manual_seed(seed)
        levels.add(int(CopyPaste(probability=1)(tv_tensors.Image(image), mask)[0, 7, 7]))
    assert min(levels) < 10 and 244 < max(levels) < 255


def test_probability_keeps_the_original(sample):
    torch.manual_seed(0)
    kept = sum(CopyPaste(probability=0.3)(*sample) is sample[0] for _ in range(60))
    assert 30 <= kept <= 54
    assert CopyPaste(probability=0)(*sample) is sample[0]


def test_an_empty_mask_leaves_the_image(sample):
    image, mask = sample
    empty = tv_tensors.Mask(torch.zeros_like(mask))
    assert CopyPaste(probability=1)(image, empty) is image


def test_texture_is_scaled_up_just_to_cover(sample, textures):
    image, mask = sample  # 400 x 600; textures 300 x 250: scale 2.4, 720 x 600
    torch.manual_seed(3)
    pasted = CopyPaste(textures, probability=1)(image, mask)
    y, x = (axis[::97] for axis in np.nonzero((mask == 0).numpy()))
    shown = pasted.numpy().transpose(1, 2, 0)[y, x].astype(float)
    best = 255.0
    for number in range(len(textures)):
        large = Image.fromarray(textures.read(number)).resize((600, 720), Image.BILINEAR)
        large = np.asarray(large)
        for top in range(0, 321, 4):
            best = min(best, np.abs(shown - large[top + y, x]).mean())
    assert best < 10  # one of the textures, at one of the offsets


def test_cover_box_never_shrinks_the_background():
    assert cover_box((100, 100), (50, 200), (0.0, 0.0)) == (0, 0, 25, 100)
    assert cover_box((100, 100), (50, 200), (1.0, 0.5)) == (75, 0, 25, 100)
    assert cover_box((300, 300), (50, 100), (0.5, 0.25)) == (125, 50, 50, 100)


class Named(NamedTuple):
    image: tv_tensors.Image
    mask: tv_tensors.Mask
    label: int


def test_structures_of_v2_samples(sample):
    image, mask = sample
    paste = CopyPaste(probability=0)
    assert paste((image, mask)) is image
    assert paste((image, mask, 7)) == (image, 7)
    assert set(paste({"image": image, "mask": mask, "label": 7})) == {"image", "label"}
    kept = CopyPaste(probability=1, keep_mask=True)(image, mask)
    assert kept[1] is mask and not torch.equal(kept[0], image)
    assert paste((image, {"mask": mask, "label": 7})) == (image, {"label": 7})
    assert paste({"target": [mask, 7], "image": image}) == {"target": 7, "image": image}
    assert paste(Named(image, mask, 7)) == (image, 7)
    kept = CopyPaste(probability=1, keep_mask=True)(Named(image, mask, 7))
    assert isinstance(kept, Named) and kept.mask is mask and not torch.equal(kept.image, image)
    with pytest.raises(TypeError, match="0 of Mask"):
        paste((image, 3))


def test_types_of_images_and_masks(sample):
    image, mask = sample
    results = []
    for kind in (
        (image, mask),
        (tv_tensors.Image(image / 255), mask[None]),
        (image, tv_tensors.Mask(mask > 127)),
        (image[:1], mask),
        (image, tv_tensors.Mask(mask / 255)),
    ):
        torch.manual_seed(0)
        wrapped = tv_tensors.Image(kind[0]), tv_tensors.Mask(kind[1])
        results.append(CopyPaste(probability=1)(*wrapped))
        assert results[-1].dtype == kind[0].dtype and results[-1].shape == kind[0].shape
    torch.testing.assert_close(results[1] * 255, results[0].float(), atol=0.51, rtol=0)
    assert torch.equal(results[3], results[0][:1])
    assert torch.equal(results[4], results[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda i, m: (i[None], m[None]), r"uint8 \(1, 3, 400, 600\); .* before .* batched"),
        (lambda i, m: (torch.cat([i, i[:1]]), m), r"uint8 \(4, 400, 600\)"),
        (lambda i, m: (i.int(), m), r"int32 \(3, 400, 600\)"),
        (lambda i, m: (i, torch.stack([m, m])), r"uint8 \(2, 400, 600\)"),
        (lambda i, m: (i, m.long()), r"int64 \(400, 600\)"),
        (
            lambda i, m: (i, (m > 127).byte()),
            r"uint8 mask of zeros and ones; give 0 and 255, or bool",
        ),
        (lambda i, m: (i / 255 - 0.5, m), r"an image of floats from -0.5 to .*, before it is norm"),
        (lambda i, m: (i / 100, m), r"an image of floats from 0 to 2.55; give one in \[0, 1\]"),
        (lambda i, m: (i, m.float()), r"a mask of floats up to 255; give one in \[0, 1\]"),
    ],
)
def test_invalid_tensors_are_refused(sample, make, words):
    image, mask = make(*(entry.as_subclass(torch.Tensor) for entry in sample))
    for probability in (0, 1):  # not only once in a while
        with pytest.raises(TypeError, match=words):
            CopyPaste(probability=probability)(tv_tensors.Image(image), tv_tensors.Mask(mask))


def test_same_seed_same_pictures(sample, textures):
    paste = CopyPaste(textures, probability=0.5, blend="mix")
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append([paste(*sample) for _ in range(4)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [{"background": "sky"}, {"probability": -1}, {"blend": "poisson"}, {"sigma": 0.0}],
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(UserError):
        CopyPaste(**arguments)


# Copy-paste commutes with cropping --------------------------------------------------------------


def paste_whole(image, mask, level_or_texture, blurred, sigma, offset):
    """Paste at the image's full resolution, in float64: the paper's order of doing it."""
    height, width = image.shape[:2]
    alpha = np.asarray(
        Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.BILINEAR), float
    )
    if blurred:
        alpha = scipy.ndimage.gaussian_filter(alpha, sigma, mode="nearest")
    alpha = np.clip(alpha[..., None] / 255, 0, 1)
    if isinstance(level_or_texture, float):
        behind = np.full(image.shape, level_or_texture)
    else:
        texture = level_or_texture
        top, left, box_height, box_width = cover_box(texture.shape[:2], (height, width), offset)
        behind = np.asarray(
            Image.fromarray(texture).resize(
                (width, height),
                Image.BILINEAR,
                box=(left, top, left + box_width, top + box_height),
            ),
            float,
        )
    return alpha * image + (1 - alpha) * behind


@pytest.fixture(scope="module")
def coffees(tmp_path_factory):
    """Folders of four photographs, every second one mirrored, and of their masks."""
    folder, photograph = tmp_path_factory.mktemp("coffees"), skimage.data.coffee()
    (folder / "images").mkdir()
    for number in range(4):
        picture = Image.fromarray(photograph[:, :: 1 if number % 2 else -1])
        picture.save(folder / "images" / f"{number}.png", compress_level=1)
    mask = soft_mask((213, 320))
    mask[:, 280:] = 255  # touching the image's border
    write_masks(folder / "masks", {f"{n}.png": (mask, (400, 600)) for n in range(4)}, canvas=320)
    return folder, photograph, mask


@pytest.mark.parametrize("image_size", [64, 224])
@pytest.mark.parametrize("blend", ["none", "gaussian"])
@pytest.mark.parametrize("background", ["grayscale", "texture"])
def test_cropping_first_equals_pasting_first(coffees, textures, image_size, blend, background):
    """The loader's crops, composited by the device's module, against paste, crop, resize.

    On gray, the mean difference is below half a level of 255, and 99% of the pixels are within 8:
    what remains is interpolation of the mask. On textures, which here are resampled once and there
    twice, the mean is below 4 and 99% are within 20: gravel and grass are all edges.
    """
    folder, photograph, mask = coffees
    recipe = ViewRecipe(image_size=image_size)
    pool = str(textures.root) if background == "texture" else None
    paste = PasteSettings(
        paste_probability=1.0, background=background, background_pool=pool, blend=blend
    )
    images, masks = folder / "images", folder / "masks"
    (batch,) = build_loader(images, masks, recipe=recipe, paste=paste, batch_size=4)
    ours = DeviceAugment(recipe).pasted(batch, 0).permute(0, 2, 3, 1).numpy() * 255
    for row, index in enumerate(batch["index"].tolist()):
        draw = draw_view(recipe, paste, uniforms(0, 0, index, 0), (400, 600))
        assert draw.blur_mask == (blend == "gaussian")
        behind: float | np.ndarray = float(draw.parameters[COLUMN["level"]])
        if background == "texture":
            behind = textures.read(int(draw.background * len(textures)))
        image = photograph[:, :: 1 if index % 2 else -1]
        whole = paste_whole(image, mask, behind, draw.blur_mask, paste.blend_sigma, draw.offset)
        pixels = torch.from_numpy(whole).permute(2, 0, 1)
        expected = v2.functional.resized_crop(
            pixels, *draw.box, [image_size, image_size], antialias=True
        )
        difference = np.abs(ours[row] - expected.permute(1, 2, 0).numpy())
        mean, most = (0.5, 8) if background == "grayscale" else (4, 20)
        assert difference.mean() < mean
        assert np.percentile(difference, 99) < most
        # And it is a proof of something: the unpasted crop is far from it.
        assert (
            np.abs(batch["image"][row, 0].numpy() - expected.permute(1, 2, 0).numpy()).mean() > 10
        )


def test_the_docstrings_example_runs():
    import doctest

    import pretrain.views.copy_paste

    result = doctest.testmod(pretrain.views.copy_paste)
    assert result.attempted >= 5 and result.failed == 0


def test_in_a_pipeline_of_v2(sample):
    """Before random crops and flips, with and without the mask kept beside the image."""
    image, mask = sample
    after = [v2.RandomResizedCrop(64), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, True)]
    assert v2.Compose([CopyPaste(), *after])((image, mask)).shape == (3, 64, 64)
    labelled = v2.Compose([CopyPaste(), *after])((image, mask, 3))
    assert labelled[0].shape == (3, 64, 64) and labelled[1] == 3
    both = v2.Compose([CopyPaste(keep_mask=True), *after])(image, mask)
    assert both[0].shape == (3, 64, 64) and both[1].shape[-2:] == (64, 64)

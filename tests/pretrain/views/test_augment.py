"""Every operation of the device's augmentation against torchvision's, on the same parameters."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from torchvision.transforms.v2 import functional

from pretrain.views import augment
from pretrain.views.augment import DeviceAugment
from pretrain.views.draws import COLUMN, JITTER_ORDERS, PARAMETERS
from pretrain.views.recipes import ViewRecipe, instdisc, moco_v2

SIZE = 48
COUNT = 30


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Crops of photographs, gray, black, white, and single-colour images: float (B, 3, S, S)."""
    rng = np.random.default_rng(0)
    crops = []
    for number in range(COUNT - 6):
        photograph = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())[
            number % 3
        ]
        top, left = (rng.integers(0, side - SIZE) for side in photograph.shape[:2])
        crops.append(photograph[top : top + SIZE, left : left + SIZE])
    crops += [np.full((SIZE, SIZE, 3), level, np.uint8) for level in (0, 255, 100)]
    crops += [np.broadcast_to(np.uint8(colour), (SIZE, SIZE, 3)) for colour in np.eye(3) * 255]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255


def column(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("adjust_brightness", 0, 2),
        ("adjust_contrast", 0, 2),
        ("adjust_saturation", 0, 2),
        ("adjust_hue", -0.5, 0.5),
    ],
)
def test_adjustments_equal_torchvisions(images, name, low, high):
    factors = np.random.default_rng(1).uniform(low, high, len(images))
    factors[:2] = low, high
    ours = getattr(augment, name)(images, column(factors))
    for image, factor, result in zip(images, factors, ours, strict=True):
        theirs = getattr(functional, name)(image, factor)
        torch.testing.assert_close(result, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "name", ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"]
)
def test_adjustments_are_within_two_levels_of_torchvisions_on_uint8(images, name):
    """Torchvision rounds down to whole levels, the contrast's mean too; we round nothing."""
    factors = np.random.default_rng(1).uniform(-0.4, 0.4, len(images)) + (name != "adjust_hue")
    ours = getattr(augment, name)(images, column(factors))
    for image, factor, result in zip(images, factors, ours, strict=True):
        theirs = getattr(functional, name)((image * 255).round().to(torch.uint8), factor)
        assert (result * 255 - theirs.float()).abs().max() < 2


def test_luma_equals_torchvisions(images):
    torch.testing.assert_close(augment.luma(images), functional.rgb_to_grayscale(images))


def test_blur_equals_torchvisions(images):
    sigma = np.random.default_rng(2).uniform(0.1, 2, len(images))
    ours = augment.gaussian_blur(images, torch.tensor(sigma, dtype=torch.float32), 6)
    for image, one, result in zip(images, sigma, ours, strict=True):
        theirs = functional.gaussian_blur(image, [13, 13], [float(one)] * 2)
        torch.testing.assert_close(result, theirs, atol=2e-6, rtol=0)


def test_blur_of_sigma_zero_changes_nothing(images):
    torch.testing.assert_close(
        augment.gaussian_blur(images, torch.zeros(len(images)), 6), images, atol=0, rtol=0
    )


def test_jitter_orders_are_all_permutations():
    assert len({tuple(row) for row in JITTER_ORDERS.tolist()}) == 24
    assert (np.sort(JITTER_ORDERS, 1) == np.arange(4)).all()


def random_parameters(count: int, seed: int = 3) -> torch.Tensor:
    """Parameters of all kinds, every order among them: (count, P)."""
    rng = np.random.default_rng(seed)
    values = torch.zeros(count, len(PARAMETERS))
    for name in ("flip", "gray", "jitter"):
        values[:, COLUMN[name]] = torch.from_numpy(rng.random(count) < 0.6)
    for name in ("brightness", "contrast", "saturation"):
        values[:, COLUMN[name]] = torch.from_numpy(rng.uniform(0.6, 1.4, count))
    values[:, COLUMN["hue"]] = torch.from_numpy(rng.uniform(-0.4, 0.4, count))
    values[:, COLUMN["order"]] = torch.arange(count) % 24
    values[:, COLUMN["level"]] = torch.from_numpy(rng.integers(0, 255, count))
    values[:, COLUMN["blur"]] = torch.from_numpy(
        np.where(rng.random(count) < 0.5, rng.uniform(0.1, 2, count), 0)
    )
    return values


def torchvisions_chain(image: torch.Tensor, row: torch.Tensor, recipe: ViewRecipe) -> torch.Tensor:
    """Apply the recipe to one image (3, S, S) by torchvision's functions."""
    values = {name: float(row[number]) for name, number in COLUMN.items()}

    def gray(image):
        return functional.rgb_to_grayscale(image, 3) if values["gray"] else image

    if recipe.gray_first:
        image = gray(image)
    if values["jitter"]:
        for number in JITTER_ORDERS[int(values["order"])]:
            name = ("brightness", "contrast", "saturation", "hue")[number]
            image = getattr(functional, f"adjust_{name}")(image, values[name])
    if not recipe.gray_first:
        image = gray(image)
    if recipe.blur and values["blur"]:
        image = functional.gaussian_blur(image, [13, 13], [values["blur"]] * 2)
    if values["flip"]:
        image = functional.horizontal_flip(image)
    return image


@pytest.mark.parametrize("recipe", [instdisc(SIZE), moco_v2(SIZE)], ids=["instdisc", "moco_v2"])
@pytest.mark.parametrize("one_by_one", [True, False])
def test_whole_chain_equals_torchvisions(images, recipe, one_by_one):
    parameters = random_parameters(len(images))
    if not recipe.blur:
        parameters[:, COLUMN["blur"]] = 0
    ours = DeviceAugment(recipe, image_by_image=one_by_one).photometric(images, parameters)
    for image, row, result in zip(images, parameters, ours, strict=True):
        torch.testing.assert_close(
            result, torchvisions_chain(image, row, recipe), atol=2e-4, rtol=0
        )


def make_batch(images, parameters):
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).unsqueeze(1)
    return {"image": pixels, "parameters": parameters.unsqueeze(1)}


def test_forward_composites_then_augments_then_normalises(images):
    recipe = instdisc(SIZE)
    parameters = random_parameters(len(images))
    parameters[:, COLUMN["blur"]] = 0
    batch = make_batch(images, parameters)
    rng = np.random.default_rng(4)
    mask = torch.from_numpy(rng.integers(0, 256, (len(images), 1, SIZE, SIZE), dtype=np.uint8))
    behind = torch.from_numpy(rng.integers(0, 256, (len(images), 1, SIZE, SIZE, 3), dtype=np.uint8))
    for extra in ({}, {"mask": mask}, {"mask": mask, "background": behind}):
        (views,) = DeviceAugment(recipe)({**batch, **extra})
        assert views.dtype == torch.float32
        assert views.is_contiguous(memory_format=torch.channels_last)
        for number, (image, row) in enumerate(zip(images, parameters, strict=True)):
            if "mask" in extra:
                alpha = mask[number].double() / 255
                back = torch.full_like(image, float(row[COLUMN["level"]]) / 255)
                if "background" in extra:
                    back = behind[number, 0].permute(2, 0, 1) / 255
                image = (alpha * image + (1 - alpha) * back).float()
            expected = functional.normalize(
                torchvisions_chain(image, row, recipe), list(recipe.mean), list(recipe.std)
            )
            torch.testing.assert_close(views[number], expected, atol=1e-3, rtol=0)


def test_preview_shows_the_stages(images):
    parameters = random_parameters(len(images))
    batch = make_batch(images, parameters)
    batch["mask"] = torch.randint(0, 256, (len(images), 1, SIZE, SIZE), dtype=torch.uint8)
    module = DeviceAugment(instdisc(SIZE))
    stages = module.preview(batch)
    assert set(stages) == {"image", "mask", "pasted", "view"}
    torch.testing.assert_close(stages["image"][:, 0], images)
    (view,) = module(batch)
    torch.testing.assert_close((stages["view"][:, 0] - module.mean) / module.std, view)
    assert stages["mask"].shape == (len(images), 1, 1, SIZE, SIZE)
    level = parameters[:, COLUMN["level"]].view(-1, 1, 1, 1, 1) / 255
    blended = stages["mask"] * stages["image"] + (1 - stages["mask"]) * level
    torch.testing.assert_close(stages["pasted"], blended)


def test_batched_augmentation_compiles_without_breaks():
    """No graph break: nothing in it looks at data. (AOT eager needs no C++ compiler.)"""
    recipe = moco_v2(16)
    module = DeviceAugment(recipe, image_by_image=False)
    images = torch.rand(5, 3, 16, 16)
    parameters = random_parameters(5)
    compiled = torch.compile(module.photometric, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, parameters), module.photometric(images, parameters))

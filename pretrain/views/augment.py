"""Augmentation of whole batches on the device: composite, gray, jitter, blur, flip, normalise.

Each operation takes float32 images (B, 3, H, W) in [0, 1] and one parameter per image, and equals
torchvision's of that name applied to each image alone (tested). Torchvision on uint8 rounds
after every operation; here nothing is rounded, so against it a whole chain differs by a few levels.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import nn
from torch.nn import functional

from pretrain.contract import Views
from pretrain.parts.boxes import tight_boxes
from pretrain.views.copy_paste import composite
from pretrain.views.draws import COLUMN, JITTER_ORDERS
from pretrain.views.recipes import ViewRecipe

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601, torchvision's digits
_PIXELS = ("image", "mask", "background", "parameters")  # of a batch, what views are made of
_VIEWS = ("mask", "parameters", "crops", "saliency")  # of a batch, what has a row a view
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)  # numbers in JITTER_ORDERS


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return the gray value, (B, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with black; factor (B, 1, 1, 1)."""
    return (images * factor).clamp(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the image's mean gray value; factor (B, 1, 1, 1)."""
    mean = luma(images).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp(0, 1)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the grayed image; factor (B, 1, 1, 1)."""
    return torch.lerp(luma(images), images, factor).clamp(0, 1)


def adjust_hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue by `shift` of a full turn, in HSV; shift (B, 1, 1, 1) in [-.5, .5]."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    is_red, is_green = value == red, value == green
    across = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    sector = torch.where(is_red, 0.0, torch.where(is_green, 2.0, 4.0))
    # Gray pixels have no hue: across and chroma are both 0, and any divisor will do.
    hue = across / chroma.clamp_min(1e-12) + (sector + 6 * shift.squeeze(1))
    hue = hue - 6 * torch.floor(hue / 6)  # [0, 6)
    # Of the pure colour at this hue, the channels are three trapezoids (HSV's hexagon).
    pure = ((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs())
    return torch.stack([torch.addcmul(least, chroma, channel.clamp(0, 1)) for channel in pure], 1)


_ADJUST = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def jitter_one(
    image: torch.Tensor, factors: torch.Tensor, order: tuple[int, ...] | list[int]
) -> torch.Tensor:
    """Apply the four adjustments to one image (1, 3, H, W) in this order; factors (4,)."""
    for number in order:
        image = _ADJUST[number](image, factors[number].view(1, 1, 1, 1))
    return image


def jitter_batch(images: torch.Tensor, factors: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Apply to each image the four adjustments in an order of its own.

    In each of four steps every image gets the adjustment whose turn it is. Brightness, contrast and
    saturation are one blend, with another partner each; so a step costs one blend and one hue, and
    no shape depends on data: nothing waits for the host and the whole fuses under torch.compile.

    factors : (B, 4): brightness, contrast, saturation, hue.
    orders : int64 (B, 4), rows of JITTER_ORDERS.
    """
    for step in range(4):
        turn = orders[:, step].view(-1, 1, 1, 1)
        factor = factors.gather(1, orders[:, step : step + 1]).view(-1, 1, 1, 1)
        gray = luma(images)
        partner = torch.where(turn == _SATURATION, gray, gray.mean((1, 2, 3), keepdim=True))
        partner = torch.where(turn == _BRIGHTNESS, torch.zeros_like(partner), partner)
        blended = torch.lerp(partner.expand_as(images), images, factor).clamp(0, 1)
        images = torch.where(turn == _HUE, adjust_hue(images, factor), blended)
    return images


def gaussian_kernels(sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Return normalised kernels (B, 2 * radius + 1); sigma (B,), 0 gives the unit impulse."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    exponent = -0.5 * (offset / sigma.clamp_min(1e-3).unsqueeze(1)) ** 2
    return torch.softmax(exponent, 1)


def gaussian_blur(images: torch.Tensor, sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Blur each image by its own sigma (B,), borders reflected; kernels are 2 * radius + 1 wide."""
    count, channels, height, width = images.shape
    kernels = gaussian_kernels(sigma, radius).repeat_interleave(channels, 0)
    planes = images.reshape(1, count * channels, height, width)
    planes = functional.pad(planes, (radius, radius, radius, radius), mode="reflect")
    groups = count * channels
    planes = functional.conv2d(planes, kernels.view(groups, 1, 1, -1), groups=groups)
    planes = functional.conv2d(planes, kernels.view(groups, 1, -1, 1), groups=groups)
    return planes.view(count, channels, height, width)


class DeviceAugment(nn.Module):
    """Turn the loader's uint8 batches, moved to this module's device, into augmented views.

    recipe : the same as the loader's.
    image_by_image : augment one image after the other, as is best on a CPU, where an image fits its
        cache. Default: on a CPU. Otherwise the whole batch at once. The result is the same.
    """

    def __init__(self, recipe: ViewRecipe, image_by_image: bool | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.image_by_image = image_by_image
        # Three sigmas of the widest blur; a view must be larger than the reflected border.
        self.blur_radius = min(math.ceil(3 * recipe.blur_sigma[1]), recipe.image_size - 1)
        self.register_buffer("mean", torch.tensor(recipe.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(recipe.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("orders", torch.from_numpy(JITTER_ORDERS), persistent=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the views, and then a batch's negative: float32 (B, 3, S, S), channels_last."""
        count, views, size = batch["image"].shape[:3]
        parts = [slice(count)]
        if self._one_by_one(batch["image"]):  # all of an image's steps while it is in the cache
            parts = [slice(row, row + 1) for row in range(count)]
        result = []
        for view in range(views):
            images = torch.empty((count, size, size, 3), device=batch["image"].device)
            images = images.permute(0, 3, 1, 2)
            for rows in parts:
                part = {name: batch[name][rows] for name in _PIXELS if name in batch}
                own = self.photometric(self.pasted(part, view), part["parameters"][:, view])
                images[rows] = (own - self.mean) / self.std
            result.append(images)
        return result

    def views(
        self, batch: dict[str, torch.Tensor], rows: torch.Tensor, wants: Collection[str] = ()
    ) -> Views:
        """Return a batch, moved to this device, as a method sees it.

        rows : int64 (B,), rows of these samples in the global batch.
        wants : the optional parts that are made; see `pretrain.contract.OPTIONAL`.
        """
        images = self(batch)
        count = self.recipe.views
        batch = {
            name: value[:, :count] if name in _VIEWS else value for name, value in batch.items()
        }

        def planes(name: str) -> list[torch.Tensor]:
            """V x (B, 1, S, S) in [0, 1], flipped with the views."""
            return list(_flipped(batch[name], batch["parameters"]).split(1, 1))

        saliency = alpha = boxes = None
        if "saliency" in wants or "boxes" in wants:
            saliency = planes("saliency")
        if "boxes" in wants:
            boxes = torch.stack([tight_boxes(mask[:, 0] > 0.5) for mask in saliency], 1)
        if "alpha" in wants:
            ones = [torch.ones_like(image[:, :1]) for image in images[:count]]
            alpha = planes("mask") if "mask" in batch else ones
        return Views(
            images=images[:count],
            negative=images[count] if "negative" in wants else None,
            index=batch["index"],
            rows=rows,
            crops=batch["crops"],
            saliency=saliency if "saliency" in wants else None,
            alpha=alpha,
            boxes=boxes,
        )

    def _one_by_one(self, images: torch.Tensor) -> bool:
        return images.device.type == "cpu" if self.image_by_image is None else self.image_by_image

    def pasted(self, batch: dict[str, torch.Tensor], view: int) -> torch.Tensor:
        """Return one view's crops in [0, 1], (B, 3, S, S), pasted where their parameters say so."""
        images = _to_float(batch["image"][:, view])
        if "mask" not in batch:
            return images
        alpha = batch["mask"][:, view].unsqueeze(1) / 255
        return composite(images, alpha, self._background(batch, view))

    def _background(self, batch: dict[str, torch.Tensor], view: int) -> torch.Tensor:
        if "background" in batch:
            return _to_float(batch["background"][:, view])
        return batch["parameters"][:, view, COLUMN["level"]].view(-1, 1, 1, 1) / 255

    def photometric(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Gray, jitter, blur and flip images (B, 3, S, S) by their parameters (B, P)."""
        if not self._one_by_one(images):
            return self._photometric_batch(images, parameters)
        return torch.cat(
            [
                self._photometric_one(image.unsqueeze(0), row)
                for image, row in zip(images, parameters, strict=True)
            ]
        )

    def _photometric_batch(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        recipe = self.recipe

        def column(name: str) -> torch.Tensor:
            return parameters[:, COLUMN[name]].view(-1, 1, 1, 1)

        def gray(images: torch.Tensor) -> torch.Tensor:
            return torch.where(column("gray") > 0, luma(images), images) if recipe.gray else images

        if recipe.gray_first:
            images = gray(images)
        if recipe.jitter:
            first = COLUMN["brightness"]
            orders = self.orders[parameters[:, COLUMN["order"]].long()]
            jittered = jitter_batch(images, parameters[:, first : first + 4], orders)
            images = torch.where(column("jitter") > 0, jittered, images)
        if not recipe.gray_first:
            images = gray(images)
        if recipe.blur:
            images = gaussian_blur(images, parameters[:, COLUMN["blur"]], self.blur_radius)
        if recipe.flip:
            images = torch.where(column("flip") > 0, images.flip(-1), images)
        return images

    def _photometric_one(self, image: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        values = dict(zip(COLUMN, parameters.tolist(), strict=True))
        image = image.contiguous()
        if values["gray"] and self.recipe.gray_first:
            image = luma(image).expand_as(image)
        if values["jitter"]:
            first = COLUMN["brightness"]
            order = JITTER_ORDERS[int(values["order"])].tolist()
            image = jitter_one(image, parameters[first : first + 4], order)
        if values["gray"] and not self.recipe.gray_first:
            image = luma(image).expand_as(image)
        if values["blur"]:
            sigma = parameters[COLUMN["blur"]].view(1)
            image = gaussian_blur(image, sigma, self.blur_radius)
        return image.flip(-1) if values["flip"] else image

    @torch.no_grad()
    def preview(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what happens to a batch, for pictures: float32 (B, V, C, S, S) in [0, 1].

        image : the crops; mask (one channel) : only when the batch has masks;
        pasted : the crops on their backgrounds; view : augmented, before normalisation;
        saliency (one channel) : flipped like the view, only when the batch has it.
        """
        numbers = range(batch["image"].shape[1])
        pasted = torch.stack([self.pasted(batch, view) for view in numbers], 1)
        stages = {
            "image": _to_float(batch["image"]),
            "pasted": pasted,
            "view": torch.stack(
                [self.photometric(pasted[:, v], batch["parameters"][:, v]) for v in numbers], 1
            ),
        }
        if "saliency" in batch:
            saliency = _flipped(batch["saliency"], batch["parameters"])
            stages["saliency"] = saliency.unsqueeze(2)
        if "mask" in batch:
            stages["mask"] = batch["mask"].unsqueeze(2) / 255
        return stages


def _to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Turn uint8 (..., H, W, 3) into float32 (..., 3, H, W) in [0, 1], each channel a plane."""
    return pixels.movedim(-1, -3).contiguous() / 255


def _flipped(masks: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Turn uint8 (B, V, S, S) into float32 in [0, 1], flipped as the views of (B, V, P) are."""
    flip = parameters[..., COLUMN["flip"], None, None] > 0
    return torch.where(flip, masks.flip(-1), masks) / 255

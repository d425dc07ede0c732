"""Copy-paste augmentation (DiLo, arXiv 2004.06638, section 5.2).

The foreground, cut out by its saliency mask, is pasted on another background, where it was and as
large as it was. The mask is a soft alpha: there is no threshold. Everything else comes after.

`composite` is the equation, shared by the loader's batches on the device and by `CopyPaste`, the
augmentation as one transform for anybody's torchvision pipeline.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map  # as torchvision's own v2
from torchvision import tv_tensors
from torchvision.transforms import v2

from data.backgrounds import (
    BACKGROUNDS,
    BackgroundSource,
    cover_box,
    gray_level,
    open_source,
    read_chosen,
)
from data.errors import UserError
from data.images.crop import Box, box_within, sample_box
from data.options import build
from pretrain.views.recipes import PasteSettings, blurs


def composite(
    image: torch.Tensor, alpha: torch.Tensor, background: torch.Tensor | float
) -> torch.Tensor:
    """Return alpha * image + (1 - alpha) * background.

    image : float (..., 3, H, W).
    alpha : float (..., 1, H, W) in [0, 1]; 1 shows the image.
    background : float, broadcastable to `image`, in the image's range.
    """
    return torch.lerp(
        torch.as_tensor(background, dtype=image.dtype, device=image.device).expand_as(image),
        image,
        alpha.expand_as(image),
    )


def blur_mask(mask: np.ndarray, sigma: float, image_size: tuple[int, int]) -> np.ndarray:
    """Blur a mask's border by a Gaussian; the mask's border pixels are repeated outside it.

    From sigma 3 on, a mask of 64 pixels or more is first halved by averages of 2 x 2 pixels,
    blurred by the rest of the variance and doubled: at a fifth of the time within four levels of an
    exact Gaussian at a hard edge (the plain blur of uint8: within two).

    mask : uint8 (h, w); so is the result.
    sigma : in pixels of the image, whose size is (height, width).
    """
    height, width = mask.shape
    sigmas = (sigma * height / image_size[0], sigma * width / image_size[1])
    if min(sigmas) < 3 or min(mask.shape) < 64:
        return cv2.GaussianBlur(
            mask, (0, 0), sigmas[1], sigmaY=sigmas[0], borderType=cv2.BORDER_REPLICATE
        )
    even = cv2.copyMakeBorder(mask, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    half = cv2.resize(even, (even.shape[1] // 2, even.shape[0] // 2), interpolation=cv2.INTER_AREA)
    # Averaging two pixels has variance 1/4, doubling (weights 3/4, 1/4, 2 pixels apart) 3/4.
    rest_y, rest_x = (np.sqrt(s * s - 1) / 2 for s in sigmas)
    half = cv2.GaussianBlur(half, (0, 0), rest_x, sigmaY=rest_y, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(half, even.shape[::-1], interpolation=cv2.INTER_LINEAR)[:height, :width]


def cut_mask(
    mask: np.ndarray, box: Box, image_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Return what a mask, uint8 (h, w), has in a box of its image, uint8 of `size`."""
    return sample_box(mask, box_within((0, 0, *mask.shape), box, image_size), size)


def cut_background(
    source: BackgroundSource,
    which: float,
    offset: tuple[float, float],
    box: Box,
    image_size: tuple[int, int],
    size: tuple[int, int],
) -> tuple[np.ndarray, list[str]]:
    """Return what lies behind a box of an image, uint8 (*size, 3), and the backgrounds skipped.

    which, offset : uniform in [0, 1): which background, and where (y, x) it is cut.
    """
    whole, skipped = read_chosen(source, which)
    behind = cover_box(whole.shape[:2], image_size, offset)
    return sample_box(whole, box_within(behind, box, image_size), size), skipped


class CopyPaste(v2.Transform):
    """Paste the salient foreground of an image on another background.

    A `torchvision.transforms.v2` transform: it takes samples, nested or not, with one
    `tv_tensors.Image` and one `tv_tensors.Mask` (the saliency map), and is meant to come first in a
    pipeline. The mask may be smaller than the image; it is scaled to it bilinearly. Random numbers
    are torch's.

    background : "grayscale", one random level floor(255 U) on all channels; or a source with `len`
        and `read(i) -> uint8 (h, w, 3)`, such as `data.backgrounds.open_source("texture", FOLDER)`.
    probability : of pasting; otherwise the image stays as it is.
    blend : "none" takes the mask as it is, "gaussian" blurs it, "mix" does either, evenly.
    sigma : of that Gaussian, pixels of the image.
    keep_mask : leave the mask in the sample. By default it is taken out, and (image, mask) becomes
        the image alone, ready for transforms that know nothing of masks.

    In `v2.Compose` give image and mask as one tuple, as a dataset yields them: given two arguments,
    Compose expects two of every transform, and the mask would have to stay (`keep_mask`).

    Image uint8 or float in [0, 1], (3, H, W) or (1, H, W); Mask (h, w) or (1, h, w): uint8, 0
    background .. 255 foreground; or bool; or float in [0, 1]. The image keeps its type, shape and
    device. Anything else is a TypeError.

    Examples
    --------
    >>> from torchvision import tv_tensors
    >>> from torchvision.transforms import v2
    >>> views = v2.Compose([CopyPaste(probability=0.5), v2.RandomResizedCrop(224, (0.2, 1))])
    >>> image = tv_tensors.Image(torch.zeros(3, 300, 400, dtype=torch.uint8))
    >>> mask = tv_tensors.Mask(torch.full((300, 400), 255, dtype=torch.uint8))
    >>> views((image, mask)).shape
    torch.Size([3, 224, 224])
    """

    def __init__(
        self,
        background: str | BackgroundSource = "grayscale",
        probability: float = 0.5,
        blend: str = "none",
        sigma: float = 5.0,
        keep_mask: bool = False,
    ) -> None:
        super().__init__()
        names = {"paste_probability": "probability", "blend": "blend", "blend_sigma": "sigma"}
        given = dict(zip(names, (probability, blend, sigma), strict=True))
        build(PasteSettings, given, label=names.get)  # refuses invalid values
        if isinstance(background, str) and BACKGROUNDS.get(background, (None,) * 4)[3]:
            raise UserError(
                f"background is {background!r}, whose partners are images of a whole data set; "
                "CopyPaste sees one: give it another, or use pretrain's loader."
            )
        self.background = open_source(background) if isinstance(background, str) else background
        self.probability = probability
        self.blend = blend
        self.sigma = sigma
        self.keep_mask = keep_mask

    def forward(self, *inputs: Any) -> Any:
        """Return the sample, its image pasted with the given probability, its mask taken out."""
        sample = inputs if len(inputs) > 1 else inputs[0]
        image, mask = _find(sample, tv_tensors.Image), _find(sample, tv_tensors.Mask)
        _check_tensors(image, mask)
        pasted = image
        if float(torch.rand(())) < self.probability and bool((mask > 0).any()):
            pasted = self._paste(image, mask)
        changed = tree_map(lambda entry: pasted if entry is image else entry, sample)
        return changed if self.keep_mask else _without(changed, mask)

    def _paste(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tv_tensors.Image:
        size = tuple(image.shape[-2:])
        chance, which, *offset = torch.rand(4, dtype=torch.float64).tolist()
        alpha = mask.detach().cpu().reshape(mask.shape[-2:])
        if mask.dtype != torch.uint8:
            alpha = (alpha.float() * 255).round().to(torch.uint8)
        alpha = alpha.numpy()
        if blurs(self.blend, chance):
            alpha = blur_mask(alpha, self.sigma, size)
        alpha = cut_mask(alpha, (0, 0, *size), size, size)
        scale = 1 if image.is_floating_point() else 255
        background: torch.Tensor | float
        if self.background is None:
            background = gray_level(which) / 255
        else:
            pixels, _ = cut_background(self.background, which, offset, (0, 0, *size), size, size)
            behind = torch.from_numpy(pixels).permute(2, 0, 1)
            if image.shape[-3] == 1:
                behind = v2.functional.rgb_to_grayscale(behind)
            background = behind.to(image.device) / 255
        result = composite(
            image.as_subclass(torch.Tensor).float() / scale,
            torch.from_numpy(alpha).to(image.device)[None].float() / 255,
            background,
        )
        result = (result * scale).round() if scale == 255 else result
        return tv_tensors.wrap(result.to(image.dtype), like=image)

    def extra_repr(self) -> str:
        """Return what `print` shows between the brackets."""
        source = "grayscale" if self.background is None else type(self.background).__name__
        return f"background={source}, probability={self.probability}, blend={self.blend}"


def _check_tensors(image: torch.Tensor, mask: torch.Tensor) -> None:
    """Refuse what is not one image and its mask."""
    kind = f"{str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}"
    levels = image.dtype == torch.uint8 or image.is_floating_point()
    if image.dim() != 3 or len(image) not in (1, 3) or not levels:
        raise TypeError(
            f"CopyPaste takes an image uint8 or float (3, H, W) or (1, H, W), not {kind}; "
            "it comes before samples are batched"
        )
    if image.is_floating_point() and image.numel() and (image.min() < 0 or image.max() > 1):
        raise TypeError(
            f"CopyPaste got an image of floats from {float(image.min()):g} to "
            f"{float(image.max()):g}; give one in [0, 1], before it is normalised"
        )
    kind = f"{str(mask.dtype).removeprefix('torch.')} {tuple(mask.shape)}"
    levels = mask.dtype in (torch.uint8, torch.bool) or mask.is_floating_point()
    if mask.dim() not in (2, 3) or (mask.dim() == 3 and len(mask) != 1) or not levels:
        raise TypeError(
            f"CopyPaste takes a mask uint8, bool or float (h, w) or (1, h, w), not {kind}"
        )
    if mask.dtype == torch.uint8 and mask.numel() and int(mask.max()) == 1:
        raise TypeError(
            "CopyPaste got a uint8 mask of zeros and ones; give 0 and 255, or bool (mask > 0)"
        )
    if mask.is_floating_point() and mask.numel() and float(mask.max()) > 1:
        raise TypeError(
            f"CopyPaste got a mask of floats up to {float(mask.max()):g}; give one in [0, 1], "
            "or uint8"
        )


def _find(sample: Any, kind: type) -> Any:
    """Return the only entry of a type in a sample."""
    entries = [entry for entry in tree_leaves(sample) if isinstance(entry, kind)]
    if len(entries) != 1:
        raise TypeError(
            "CopyPaste takes a tuple, list or dict with one tv_tensors.Image and one "
            f"tv_tensors.Mask; there are {len(entries)} of {kind.__name__}"
        )
    return entries[0]


def _without(sample: Any, mask: Any) -> Any:
    """Return the sample without its mask; of a tuple or list then left with one entry, that."""
    if isinstance(sample, dict):
        return {k: _without(entry, mask) for k, entry in sample.items() if entry is not mask}
    if not isinstance(sample, (tuple, list)):
        return sample
    rest = [_without(entry, mask) for entry in sample if entry is not mask]
    if len(rest) == len(sample) and hasattr(sample, "_fields"):
        return type(sample)(*rest)
    if len(rest) == 1 < len(sample):
        return rest[0]
    return rest if isinstance(sample, list) else tuple(rest)

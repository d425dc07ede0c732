"""Saliency masks for folders of images, by methods per pixel and by networks.

>>> from skimage.data import astronaut
>>> import saliency
>>> saliency.rbd(astronaut()).shape
(512, 512)

Every method per pixel in the registry (`saliency.methods`) is a function here, of a uint8 (H, W, 3)
RGB image, that returns its map: float32 (H, W), 0 background to 1 foreground, zero everywhere where
the image has a single colour. It raises ValueError for another array. `saliency.maps.saliency_maps`
computes several in one pass and has options.

The functions take the authors' numbers of superpixels; the command's default differs for small and
for large images (`saliency.methods.protocol.superpixel_count`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from data.processes import ensure_kernel_cache

if TYPE_CHECKING:
    import numpy as np

__distribution__ = "dilo"  # lets the commands notice another distribution's package of this name


def __getattr__(name: str) -> "Callable[[np.ndarray], np.ndarray]":
    from saliency.methods import METHODS

    if name not in METHODS or METHODS[name].by_network:
        raise AttributeError(f"module 'saliency' has no attribute {name!r}")

    def function(image: "np.ndarray") -> "np.ndarray":
        from saliency.maps import saliency_maps  # compiles kernels: not before it is needed

        return saliency_maps(image, [name])[name]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Return the saliency map by {METHODS[name].summary}."
    return function


ensure_kernel_cache()

"""Saliency masks for folders of images: RBD, MC, GS and learned methods.

>>> from skimage.data import astronaut
>>> import saliency
>>> saliency.rbd(astronaut()).shape
(512, 512)

The functions here take the authors' numbers of superpixels; the command's default differs for small
and for large images (`SuperpixelCount.parse`).
"""

from typing import TYPE_CHECKING

from data.kernel_cache import ensure_kernel_cache

if TYPE_CHECKING:
    import numpy as np

__distribution__ = "dilo"  # lets the commands notice another distribution's package of this name


def rbd(image: "np.ndarray") -> "np.ndarray":
    """Saliency by robust background detection (Zhu et al., CVPR 2014).

    Parameters
    ----------
    image : uint8 (H, W, 3)
        RGB.

    Returns
    -------
    float32 (H, W) in [0, 1]
        0 background, 1 foreground; zero everywhere where the image has a single colour.

    Raises
    ------
    ValueError
        The array is no uint8 RGB image.

    Notes
    -----
    Good at one object before an even background; an object that the image's border cuts is partly
    lost, and so is one that is as varied as its background. See `saliency.methods.rbd`.
    """
    return _map(image, "rbd")


def mc(image: "np.ndarray") -> "np.ndarray":
    """Saliency by an absorbing Markov chain (Jiang et al., ICCV 2013); see `rbd` for the shapes.

    Notes
    -----
    Finds whole objects near the centre, and is generous with what lies beside them. See
    `saliency.methods.mc`.
    """
    return _map(image, "mc")


def gs(image: "np.ndarray") -> "np.ndarray":
    """Geodesic saliency from the image's border (Wei et al., ECCV 2012); see `rbd` for the shapes.

    Notes
    -----
    The fastest of the three and the least sure: any background that edges cut off from the border
    lights up with the object. See `saliency.methods.gs`.
    """
    return _map(image, "gs")


def _map(image: "np.ndarray", method: str) -> "np.ndarray":
    from saliency.unsupervised import saliency_maps  # compiles kernels: not before it is needed

    return saliency_maps(image, (method,)).by_method[method]


ensure_kernel_cache()

"""Masks that follow edges: a guided filter over a map that is constant on superpixels."""

import cv2
import numpy as np

from data.errors import UserError

RADIUS = 8  # pixels at working resolution; about a third of a superpixel's side
EPSILON = 0.01  # of the guide's variance in [0, 1]; smaller keeps more of the image's texture


def check_contrib() -> None:
    """Raise UserError where OpenCV lacks its contrib modules.

    Another package's plain `opencv-python-headless` installs over the same files as
    `opencv-contrib-python-headless`, and the last one wins.
    """
    if not hasattr(cv2, "ximgproc"):
        raise UserError(
            "--follow-edges needs OpenCV's contrib modules, which another OpenCV package has "
            "replaced; run: pip install --force-reinstall --no-deps opencv-contrib-python-headless"
        )


def refine(saliency: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Let a map follow the image's edges (He, Sun and Tang, *Guided image filtering*, TPAMI 2013).

    saliency : float32 (H, W) in [0, 1]; so is what is returned.
    image : uint8 (H, W, 3).

    Superpixel borders melt into the image's edges, and max F rises, but flat regions take on a
    little of their surroundings, and the mean absolute error rises too: see docs/saliency.md.
    """
    guide = image.astype(np.float32) / 255
    return np.clip(cv2.ximgproc.guidedFilter(guide, saliency, RADIUS, EPSILON), 0, 1)

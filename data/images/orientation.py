"""How an image has to be turned to stand upright."""

from PIL import Image

TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Pillow's turn for each EXIF orientation but 1, which is upright."""


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 is upright."""
    try:
        value = int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF data: shown as it is stored
        return 1
    return value if value in TURN else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return an opened image's height and width when it stands upright."""
    sideways = orientation(image) in (5, 6, 7, 8)
    return (image.width, image.height) if sideways else (image.height, image.width)

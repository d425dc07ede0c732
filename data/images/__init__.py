"""Image folders: list them, decode images, crop them, read classes off folders."""

from data.images.decode import UnreadableImage, decode, list_images, open_image, read_size

__all__ = ["UnreadableImage", "decode", "list_images", "open_image", "read_size"]

"""Images: listing a folder, decoding, cropping, labels. The names here are what users import."""

from data.images.decode import UnreadableImage, decode
from data.images.listing import list_images

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's channels in [0, 1], which networks' inputs are normalised by."""

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "UnreadableImage", "decode", "list_images"]

"""Where users import the reader of masks from: `from data.mask_shards import MaskShards`."""

from data.masks.read import MaskShards

__all__ = ["MaskShards"]

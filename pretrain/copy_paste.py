"""Where users import the augmentation from: `from pretrain.copy_paste import CopyPaste`."""

from pretrain.views.copy_paste import CopyPaste

__all__ = ["CopyPaste"]

"""Saliency masks for folders of images: RBD, MC, GS and learned methods."""

__distribution__ = "dilo"  # lets the commands notice another distribution's package of this name

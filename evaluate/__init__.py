"""The judge: probes, saliency scores, robustness and figures."""

__distribution__ = "dilo"  # lets the commands notice another distribution's package of this name

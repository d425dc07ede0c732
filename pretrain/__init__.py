"""Copy-paste pretraining: instance discrimination and momentum contrast on pasted views."""

__distribution__ = "dilo"  # lets the commands notice another distribution's package of this name

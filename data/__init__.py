"""What the stages share: image folders, mask shards, backgrounds, checkpoints."""

__distribution__ = "dilo"  # lets the commands notice another distribution's package of this name

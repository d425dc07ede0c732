"""Runs of `pretrain`, one after another in the same two processes: their arguments as JSON."""

import json
import sys
from contextlib import nullcontext

from pretrain import trainer
from pretrain.cli import main
from pretrain.parts.distributed import world

if __name__ == "__main__":
    with world("cpu") as here:
        trainer.world = lambda device: nullcontext(here)  # joined once for all runs
        for arguments in json.loads(sys.argv[1]):
            main(arguments, standalone_mode=False)

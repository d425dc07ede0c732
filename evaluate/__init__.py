"""The judge: probes, saliency scores, robustness and figures.

A probe is a module with `Options`, a record whose docstring is the command's help, and
`run(options, results) -> Report`; and a line in `PROBES`. The command imports the module for its
options alone, so torch is imported inside functions.
"""

from typing import NamedTuple

__distribution__ = "dilo"  # lets the commands notice another distribution's package of this name


class Probe(NamedTuple):
    """Where a probe is, and one line on what it does."""

    module: str
    help: str


PROBES = {
    "linear": Probe("evaluate.linear", "Train a linear classifier on frozen features."),
    "knn": Probe("evaluate.knn", "Classify by the nearest training images of frozen features."),
    "foreground": Probe(
        "evaluate.foreground", "Measure what the object and what the background explain."
    ),
    "finetune": Probe("evaluate.finetune", "Train the whole network on class folders."),
    "robustness": Probe("evaluate.robustness", "Measure accuracy with the background swapped."),
    "neighbors": Probe("evaluate.neighbors", "Show queries and their nearest neighbours."),
    "gradients": Probe("evaluate.gradients", "Show class gradients beside nearest neighbours."),
    "detect": Probe(
        "evaluate.detection.detect", "Fine-tune detectors on VOC or COCO, and measure AP."
    ),
    "saliency": Probe("evaluate.saliency", "Score saliency masks against ground truth."),
    "export": Probe("evaluate.export", "Write a backbone's weights for other software."),
}

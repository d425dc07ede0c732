"""How a linear probe is trained, and a network fine-tuned, as published.

DiLo (arXiv 2004.06638, section 5.3) and MoCo (He et al., CVPR 2020, section 4.1) on ImageNet;
Places as in Zhan et al. / DiLo's Table 6. Fine-tuning as openmixup, of CVSA's authors, does on
fine-grained sets (CUB-200, Aircraft).
"""

from dataclasses import dataclass

from data.schedule import learning_rate

UNFINISHED = "resume"  # folder that a run that was stopped leaves in --out


@dataclass(frozen=True)
class Protocol:
    """How the classifier is trained; the defaults are DiLo's protocol.

    batch_size is over all processes. The learning rate is multiplied by .1 at the start of each
    epoch in `milestones`, or, with `cosine`, by (1 + cos(pi epoch / epochs)) / 2. `batch_norm` puts
    a batch norm without parameters before the classifier. `scale` is the range of a training crop's
    share of the area.
    """

    lr: float = 30.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    epochs: int = 100
    milestones: tuple[int, ...] = (30, 60, 90)
    batch_size: int = 256
    batch_norm: bool = False
    seed: int = 0
    cosine: bool = False
    scale: tuple[float, float] = (0.08, 1.0)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        kind = "cosine" if self.cosine else "step"
        return learning_rate(
            epoch, 1, base=self.lr, epochs=self.epochs, schedule=kind, milestones=self.milestones
        )


PRESETS = {
    "dilo": Protocol(),
    "moco": Protocol(milestones=(60, 80)),
    "places": Protocol(
        lr=0.01,
        nesterov=True,
        weight_decay=1e-4,
        epochs=28,
        milestones=(7, 14, 21),
        batch_norm=True,
    ),
}

FINE_TUNING = Protocol(
    lr=0.001, weight_decay=5e-4, epochs=200, milestones=(), batch_size=16, cosine=True,
    scale=(0.5, 1.0),
)  # fmt: skip

"""How a linear probe is trained, as published.

DiLo (arXiv 2004.06638, section 5.3) and MoCo (He et al., CVPR 2020, section 4.1) on ImageNet;
Places as in Zhan et al. / DiLo's Table 6.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How the classifier is trained; the defaults are DiLo's protocol.

    batch_size is over all processes. The learning rate is multiplied by .1 at the start of each
    epoch in `milestones`. `batch_norm` puts a batch norm without parameters before the classifier.
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

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)


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

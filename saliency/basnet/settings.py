"""The settings of a training run, and which of them a resumed run may change."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from data.errors import UserError
from data.files import write_whole


@dataclass(frozen=True)
class Settings:
    """What decides the result of a training run; defaults as published.

    Attributes
    ----------
    width : float
        Multiplies the network's channels.
    resize, crop : int
        Side of the square that photographs are resized to, and of the random crop, in pixels.
    batch_size, lr, seed
        Adam's learning rate is `lr`, its other settings PyTorch's defaults.
    epochs : int
        Passes over the photographs. Published: about 400,000 steps of 8 over DUTS-TR's 10,553
        photographs and their mirror images; 300 with flips drawn at random see as many.
    schedule : str
        "constant", as published, or "cosine" down to 0 over the epochs.
    from_scratch : bool
        The encoder starts at random, not from ImageNet (DiLo's ``basnet_scratch``).
    hold_out : int
        Photographs, the last by name, that are kept for validation.
    validate_every : int
        Epochs between validations.
    names_digest : str
        Of the names of the photographs trained on.
    """

    width: float = 1.0
    resize: int = 256
    crop: int = 224
    batch_size: int = 8
    lr: float = 1e-3
    seed: int = 0
    epochs: int = 300
    schedule: str = "constant"
    from_scratch: bool = False
    hold_out: int = 0
    validate_every: int = 5
    names_digest: str = ""

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_whole(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def from_dict(cls, content: dict) -> "Settings":
        """Take the known names of a dictionary, for checkpoints of other versions."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})

    def check_resume(self, before: "Settings", out: Path) -> None:
        """Refuse to go on with settings under which the run would not be the same.

        Raises
        ------
        UserError
            Naming the option, both values and the remedy.
        """
        free = {"epochs", "validate_every"} if before.schedule == "constant" else {"validate_every"}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(before, field.name)
            if field.name in free or mine == theirs:
                continue
            if field.name == "names_digest":
                raise UserError(
                    f"--resume: the photographs are not the ones that {out} was trained on; "
                    "give the same folders, or another --out."
                )
            option = "--" + field.name.replace("_", "-")
            raise UserError(
                f"{option} {mine} differs from the {theirs} that {out} was started with; "
                "give the same, or another --out."
            )

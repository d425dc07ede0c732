"""The settings of a training run of BASNet, and what it is run with."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from data.options import Count, NotNegative, Record, setting
from saliency.methods import METHODS

DEEPEST = 32  # a crop of up to so many pixels is a single pixel at the deepest level


def _teachers(text: str) -> str:
    methods = [name for name, method in METHODS.items() if not method.by_network]
    for name in text.split(","):
        if name not in methods and not Path(name).is_dir():
            raise ValueError(
                f"{name!r} is neither a method per pixel ({', '.join(methods)}) nor a folder"
            )
    return text


class Settings(Record):
    """What decides the result of a training run; defaults as published."""

    hold_out: NotNegative = setting(0, "keep the last so many photographs, by name, for validation")
    from_scratch: bool = setting(False, "start the encoder at random, not from ImageNet")
    teachers: Annotated[str, AfterValidator(_teachers)] | None = setting(
        None,
        "learn without ground truth, from scratch, from these methods' masks of IMAGES and then "
        "from the network's own; a folder of mask shards may stand for a method",
        metavar="NAME[,NAME...]",
    )
    rounds: Count = setting(
        3, "with --teachers: of so many epochs' equal shares each begins with new labels"
    )
    width: Annotated[float, Field(ge=1 / 64, le=4)] = setting(
        1.0, "channels relative to the published network; 0.125 trains on a CPU"
    )
    resize: Annotated[int, Field(ge=32)] = setting(
        256, "photographs become squares of this side, in pixels"
    )
    crop: Annotated[int, Field(ge=32)] = setting(
        224, "random crops of this side are trained on; at most --resize"
    )
    batch_size: Count = setting(8, "photographs a step")
    # Published: about 400,000 steps of 8 over DUTS-TR's 10,553 photographs and their mirror images;
    # 300 epochs with flips drawn at random see as many.
    epochs: Count = setting(300, "passes over the photographs")
    lr: Annotated[float, Field(gt=0)] = setting(1e-3, "Adam's learning rate")
    schedule: Literal["constant", "cosine"] = setting(
        "constant",
        "of the learning rate: as published, or down to 0, with --teachers in each round",
    )
    seed: NotNegative = setting(0, "of weights, order, crops and flips")
    validate_every: Count = setting(
        5, "max F, MAE, pictures and best.pth, so often", metavar="EPOCHS"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.batch_size == 1 and self.crop <= DEEPEST:
            raise ValueError(
                f"--batch-size 1 needs a --crop above {DEEPEST}, not {self.crop}, for batch norm"
            )
        if self.crop > self.resize:
            raise ValueError(f"--crop {self.crop} is larger than --resize {self.resize}; lower it")
        if self.teachers and self.epochs % self.rounds:
            raise ValueError(
                f"--epochs {self.epochs} is no multiple of --rounds {self.rounds}; give one"
            )
        if not self.scratch and self.width != 1:
            raise ValueError(
                f"--width {self.width} does not fit a ResNet-34's weights; add --from-scratch"
            )
        return self

    @property
    def scratch(self) -> bool:
        """Whether the encoder starts at random."""
        return self.from_scratch or self.teachers is not None

    @property
    def teacher_list(self) -> list[str]:
        return self.teachers.split(",") if self.teachers else []

    @property
    def round_epochs(self) -> int:
        """Epochs of a round; without teachers there is one."""
        return self.epochs // self.rounds if self.teachers else self.epochs

    @property
    def free_on_resume(self) -> set[str]:
        """Names of the settings with which a resumed run still equals an uninterrupted run."""
        fixed = self.schedule != "constant" or self.teachers
        return {"validate_every"} | (set() if fixed else {"epochs"})


class Surroundings(Record):
    """What a run may change when it is resumed: where its photographs are, and its machine."""

    images: Path = setting(..., "photographs", argument=True)
    masks: Path | None = setting(
        None, "ground truth with the photographs' names; not needed for DUTS's folders"
    )
    val: Path | None = setting(None, "validation photographs, as IMAGES")
    val_masks: Path | None = setting(None, "their ground truth")
    encoder_weights: Path | None = setting(
        None, "a ResNet-34 with torchvision's names, in place of the download of ImageNet's"
    )
    device: str = setting("auto", "where to compute: auto, cpu, cuda or cuda:1")
    precision: Literal["float32", "bf16"] = setting(
        "float32", "of the network's arithmetic; weights and loss stay float32"
    )
    compiled: bool = setting(False, "compile the network by torch.compile", names=("--compile",))
    workers: NotNegative = setting(4, "processes that decode and resize")

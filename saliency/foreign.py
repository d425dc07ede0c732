"""A network of other people, run as it is: `--method onnx` and `--method exported`.

The file says what the network takes and gives; `ForeignSettings` say how it sees an image.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from data.device import default_batch_size
from data.errors import UserError, is_exhaustion
from saliency.basnet.predict import resize_map, stretch
from saliency.methods.protocol import ForeignSettings, Normalisation

_LEAST = 8  # sides of a map in pixels: less is a score

Sides = tuple[int, int]
"""Height and width in pixels."""


class Opened(NamedTuple):
    """A network's file, read.

    run : float32 (N, 3, H, W) on the device to its outputs, tensors of any shapes.
    shape : of its input; None where any size will do.
    outputs : their names.
    """

    run: Callable[[Tensor], Sequence[Tensor]]
    shape: Sequence[int | None]
    outputs: Sequence[str]


def prepare(image: np.ndarray, normalisation: Normalisation, sides: Sides) -> np.ndarray:
    """uint8 RGB (h, w, 3) to the network's input, float32 (3, height, width); as rembg does it."""
    height, width = sides
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(resized, np.float32)
    pixels = pixels / (255 if normalisation.divide_by == "255" else pixels.max() or 1)
    mean, std = np.float32(normalisation.mean), np.float32(normalisation.std)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def as_map(result: np.ndarray, output: str) -> np.ndarray:
    """Turn one image's output, float32 (h, w), into a map in [0, 1]; a constant stretches to 0."""
    if output.startswith("sigmoid"):
        result = 1 / (1 + np.exp(-np.clip(result, -80, 80)))
    return stretch(result[None])[0] if output.endswith("stretched") else np.clip(result, 0, 1)


def sides_of(opened: Opened, wanted: int | None, row: Normalisation, name: str) -> Sides:
    """Return the input's height and width: the file's own, or where it leaves them open a square.

    wanted : side of the square, as asked for.

    UserError: no images of three channels, sizes that contradict the file, or nobody says any.
    """
    shape = tuple("any" if side is None else side for side in opened.shape)
    if len(shape) != 4 or shape[1] not in (3, "any"):
        raise UserError(
            f"{name} takes ({', '.join(map(str, shape))}), not images (N, 3, height, width) of "
            "floating-point numbers; give another network."
        )
    sides = [side or wanted or row.size for side in opened.shape[2:]]
    if None in sides:
        raise UserError(f"{name} takes images of any size; choose one by --input-size.")
    if wanted and sides != [wanted, wanted]:
        raise UserError(
            f"--input-size {wanted}: {name} takes {sides[0]} x {sides[1]} pixels; leave it out."
        )
    return sides[0], sides[1]


class ForeignNetwork:
    """A network on its device, as `saliency.methods.protocol.NetworkMethod` asks for it.

    opened : its file.
    settings : how it is run.
    name : of the file, for errors.

    Raises UserError: its input is no image, no output a map of one channel, or it fails on zeros.
    """

    decode_side = 0  # the published resize starts from the whole image

    def __init__(
        self, opened: Opened, settings: ForeignSettings, device: torch.device, name: str
    ) -> None:
        row = settings.chosen()
        sides = sides_of(opened, settings.input_size, row, name)
        usual = default_batch_size(device) * 320**2 // (sides[0] * sides[1])
        self.device, self.name, self.opened = device, name, opened
        self.batch_size = settings.batch_size or max(1, usual)
        self.batch = opened.shape[0]  # what the file takes at a time
        self.prepare = partial(prepare, normalisation=row, sides=sides)
        self.kind = row.output
        # two images, where the network says that it takes any number
        count = self.batch or min(2, self.batch_size)
        zeros = torch.zeros((count, 3, *sides), device=device)
        self.chosen = self._map_among(self._run(zeros), count)
        self.parameters: dict[str, Any] = {
            "input_size": list(sides),
            "output": opened.outputs[self.chosen],
            "normalisation": {k: v for k, v in row._asdict().items() if k != "size"},
        }

    def _run(self, batch: Tensor) -> Sequence[Tensor]:
        try:
            return self.opened.run(batch)
        except Exception as error:
            if isinstance(error, UserError) or is_exhaustion(error):
                raise
            reason = " ".join(str(error).split())[-160:].strip(" .")
            raise UserError(
                f"{self.name} fails on {tuple(batch.shape)} ({reason}); try another --input-size, "
                "or --batch-size 1."
            ) from None

    def _map_among(self, outputs: Sequence[Tensor], count: int) -> int:
        """Return the number of the largest output of one channel, of equal ones the first."""
        areas = [_area(output, count) for output in outputs]
        if not any(areas):
            shapes = ", ".join(str(tuple(output.shape)) for output in outputs)
            raise UserError(
                f"{self.name} gives {shapes or 'nothing'}, of which none is a map of one channel, "
                f"(N, 1, h, w), for each image; give a network that does."
            )
        return areas.index(max(areas))

    @torch.inference_mode()
    def compute(self, batch: Tensor, keys: Sequence[str] = ()) -> Tensor:
        """Return the chosen output, (N, h, w), as the network gives it."""
        parts = []
        for part in batch.split(self.batch or len(batch)):
            missing = (self.batch or len(part)) - len(part)
            outputs = self._run(functional.pad(part, (0,) * 7 + (missing,)) if missing else part)
            result = outputs[self.chosen]
            parts.append(result.reshape(-1, *result.shape[-2:])[: len(part)])
        return torch.cat(parts)

    def finish(self, result: np.ndarray, prepared: np.ndarray, size: Sides) -> np.ndarray:
        """Make a map of the output, and resize it."""
        return np.clip(resize_map(as_map(result, self.kind), size), 0, 1)


def _area(output: Tensor, count: int) -> int:
    """Pixels of an output that is a map of one channel for each of `count` images; otherwise 0."""
    shape = tuple(output.shape)
    single = shape[:2] == (count, 1) if len(shape) == 4 else len(shape) == 3 and shape[0] == count
    fits = single and output.is_floating_point() and min(shape[-2:]) >= _LEAST
    return shape[-2] * shape[-1] if fits else 0

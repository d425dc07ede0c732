"""Networks in ONNX files, by onnxruntime, as a method of `saliency-compute`.

Reading and running an ONNX file runs nothing but its operators. A file that keeps its weights in
others is refused, so none is read but the one that was named; and what it asks for in memory is
bounded by the machine's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data.errors import UserError, damage_told, import_extra
from data.keys import Keys
from saliency.foreign import ForeignNetwork, Opened
from saliency.methods.protocol import ForeignSettings

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}
_OLDEST = (1, 28)  # earlier ones may open other files than the one that is given
_SHARE = 0.75  # of the machine's memory that a network may take
_EXHAUSTED = ("Available memory of", "Failed to allocate memory", "bad_alloc")


def build(settings: ForeignSettings, keys: Keys) -> ForeignNetwork:
    """Load the network; see `saliency.methods.protocol.NetworkBuilder`."""
    device, _, _ = settings.arithmetic("onnx")
    if settings.precision != "auto":
        raise UserError(
            f"--precision {settings.precision} does not belong to --method onnx, whose files "
            "compute in their own; leave it out."
        )
    name, library = f"--weights {str(settings.weights)!r}", _library()
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in library.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    elif settings.device not in ("auto", "cpu"):
        raise UserError(
            f"--device {settings.device}: this onnxruntime computes on CPUs alone; install "
            "onnxruntime-gpu, or use --device cpu."
        )
    else:
        device = torch.device("cpu")
    session = _session(library, settings.weights, name, providers)
    opened, dtype = _opened(session)
    network = ForeignNetwork(opened, settings, device, name)
    network.parameters |= settings.recorded(dtype)
    return network


def _library() -> Any:
    onnxruntime = import_extra("onnxruntime", "onnx", "--method onnx")
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < _OLDEST:
        raise UserError(
            f"--method onnx: onnxruntime {onnxruntime.__version__} opens files that a network "
            "names, wherever they lie; install a newer one: pip install -U 'dilo[onnx]'."
        )
    return onnxruntime


@lru_cache(maxsize=1)
def _bound_memory(library: Any) -> None:
    """Give all sessions one arena; what it does not have is an error, not the machine's end."""
    limit = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _SHARE)
    memory = library.OrtMemoryInfo(
        "Cpu", library.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, library.OrtMemType.DEFAULT
    )
    library.create_and_register_allocator(memory, library.OrtArenaCfg(limit, -1, -1, -1))


def _session(library: Any, path: Path, name: str, providers: list) -> Any:
    _bound_memory(library)
    library.set_default_logger_severity(4)  # what matters is raised
    options = library.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.use_env_allocators", "1")
    with tempfile.TemporaryDirectory() as empty:  # where weights in other files would have to lie
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", empty
        )
        with damage_told(path, "copy or export it again", name=name):
            try:
                return library.InferenceSession(path.read_bytes(), options, providers=providers)
            except Exception as error:  # of classes of its own
                _raise_exhaustion(error)
                if "xternal data" not in str(error):
                    raise
                raise UserError(
                    f"{name} keeps its weights in another file, which is not read; save it whole, "
                    "as torch.onnx.export(..., external_data=False) does."
                ) from None


def _opened(session: Any) -> tuple[Opened, torch.dtype]:
    """Return the network, and the type of its input; of another than one batch, types as shape."""
    inputs = session.get_inputs()
    dtype = _DTYPES.get(inputs[0].type) if len(inputs) == 1 else None
    names = [output.name for output in session.get_outputs()]

    def run(batch: Tensor) -> Sequence[Tensor]:
        try:
            results = session.run(names, {inputs[0].name: batch.to(dtype).cpu().numpy()})
        except Exception as error:
            _raise_exhaustion(error)
            raise
        return [torch.as_tensor(result).to(batch.device) for result in results]

    shape = [given.type for given in inputs]
    if dtype is not None:
        shape = [side if isinstance(side, int) else None for side in inputs[0].shape]
    return Opened(run, shape, names), dtype


def _raise_exhaustion(error: Exception) -> None:
    """Raise MemoryError where an error of onnxruntime, of whatever class, means that."""
    if any(word in str(error) for word in _EXHAUSTED):
        raise MemoryError("onnxruntime may take no more") from None

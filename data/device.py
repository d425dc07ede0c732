"""Where the learned methods compute: the device, its precision, and its memory running out."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from data.errors import UserError, is_exhaustion
from data.tf32 import without_tf32

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return the device of that name, or the best one for ``auto``.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:<number>``.

    Raises
    ------
    UserError
        Not a device's name, this machine has no such device, or it cannot be used.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return pick_device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is no device; use auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UserError(
                f"--device {name}: PyTorch {torch.__version__} finds no GPU here; "
                "use --device cpu, or install a driver and a PyTorch that fit the GPU."
            )
        if device.index is not None and device.index >= count:
            raise UserError(
                f"--device {name}: this machine has {count} GPU(s), cuda:0 to cuda:{count - 1}."
            )
        _try_out(device)
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name}: PyTorch finds no such device here; use --device cpu.")
    elif device.type not in ("cpu", "mps"):
        raise UserError(f"--device {name} is not supported; use auto, cpu, mps, cuda or cuda:1.")
    return device


def _try_out(device: torch.device) -> None:
    """Compute something: a GPU may be there and full, taken, or too old for this PyTorch."""
    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"--device {device}: PyTorch {torch.__version__} cannot use this GPU ({reason}); "
            "free it, or use another or --device cpu."
        ) from None


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype to autocast to, or None for float32.

    Parameters
    ----------
    name : str
        ``float32``, ``bf16``, ``fp16``, or ``auto``: bf16 on a GPU that has it, fp16 on another,
        float32 elsewhere.

    Raises
    ------
    UserError
        fp16 on a CPU, where most layers have no such kernel.
    """
    if name == "auto":
        if device.type != "cuda":
            return None
        # `is_bf16_supported` says yes to older ones too, which only emulate it.
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"--precision fp16 needs a GPU, not {device}; use bf16 or float32.")
    return PRECISIONS[name]


@contextmanager
def computing_in(precision: torch.dtype | None, device: torch.device) -> Iterator[None]:
    """Run a network, forward and backward, in a precision of `pick_precision`.

    Parameters
    ----------
    precision : torch.dtype or None
        Autocast to bfloat16 or float16. None is float32 without TF32 (`data.tf32`), and ends
        an autocast around the block.
    device : torch.device
        Where the network is.
    """
    exact = without_tf32() if precision is None else nullcontext()
    with exact, torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        yield


@contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """Let cuDNN on a GPU try out its algorithms on every new shape, and keep the fastest.

    For training, which sees one shape all along. Not for masks: another algorithm may be the
    fastest the next time, and a resumed run would differ from an uninterrupted one in last bits.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def memory_layout(device: torch.device) -> torch.memory_format:
    """Channels last on a GPU, where tensor cores want it; elsewhere PyTorch's own order."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def default_batch_size(device: torch.device) -> int:
    """64 images, on a CPU 8: more would be no faster there, and BASNet's would fill its memory."""
    return 8 if device.type == "cpu" else 64


def as_current(device: torch.device) -> AbstractContextManager:
    """Make a GPU this thread's current one: events, streams and pinned memory are of that one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def memory_for(batch_size: int, device: torch.device) -> Iterator[None]:
    """Tell an exhausted memory in one sentence that names --batch-size."""
    exhausted = False
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_exhaustion(error):
            raise
        exhausted = True
    if exhausted:  # outside the handler, so that the exception's frames hold no tensor any more
        remedy = f"use --batch-size {batch_size // 2}" if batch_size > 1 else "use a larger device"
        raise UserError(
            f"--batch-size {batch_size} needs more memory than {device} has free; {remedy}."
        )

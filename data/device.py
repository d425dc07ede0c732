"""Where networks compute: the device, its precision, its memory, and what is ruined."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from data.errors import UserError

PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(name: str, local_rank: int = 0, local_size: int = 1) -> torch.device:
    """Return the device of a process, the `local_rank`-th of `local_size` on this machine.

    name : "cpu", "mps", "cuda" (the process's own GPU), "cuda:<number>", or "auto" for the best.

    UserError: no such name, no such GPU, fewer GPUs than processes, or a GPU that cannot be used.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if gpus else "mps" if mps else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (number.isdecimal() or name == kind):
        raise UserError(f"--device {name} is no device; give auto, cpu, cuda, or one GPU, cuda:1.")
    if kind == "mps" and not mps:
        raise UserError("--device mps: PyTorch finds no such device here; give auto or cpu.")
    if kind != "cuda":
        return torch.device(kind)
    if number and local_size > 1:
        raise UserError(f"--device {name} for {local_size} processes; give cuda, one GPU each.")
    index = int(number or local_rank)
    if index >= gpus or local_size > gpus:  # in every process alike: only the first one speaks
        there = f"only {gpus} GPUs" if gpus > 1 else "only one GPU" if gpus else "no GPU"
        many = local_size > 1 and gpus > 0
        remedy = f"start {gpus} processes" if many else "give auto or cpu"
        raise UserError(f"--device {name}: PyTorch finds {there} here; {remedy}.")
    _try_out(torch.device("cuda", index))
    return torch.device("cuda", index)


def _try_out(device: torch.device) -> None:
    """Compute something: a GPU may be there and full, taken, or too old for this PyTorch."""
    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"--device {device}: PyTorch cannot use it ({reason}); free it, or use --device cpu."
        ) from None


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16; others emulate it, CPUs many times slower."""
    if device.type == "cuda":  # `is_bf16_supported` says yes to those, too, that only emulate it
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype to autocast to, or None for float32.

    name : "float32", "bf16", "fp16", or "auto": bf16 on a GPU that has it, fp16 on another, float32
        elsewhere.

    UserError: fp16 on a CPU, where most layers have no such kernel.
    """
    if name == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if has_bfloat16(device) else torch.float16
    if name == "fp16" and device.type != "cuda":
        raise UserError(f"--precision fp16 needs a GPU, not {device}; use bf16 or float32.")
    return PRECISIONS[name]


@contextmanager
def without_tf32() -> Iterator[None]:
    """Let convolutions and matrix products compute in full float32 within the block.

    PyTorch's convolutions on a GPU are in TF32 unless told otherwise. The switches are the whole
    process's, other threads' too; they are put back afterwards, also after an exception.

    Up to PyTorch 2.8 there are `allow_tf32` and `set_float32_matmul_precision`. From 2.9 on there
    is also a word for each kind of operation, which is what counts; the old switches are kept in
    agreement, because PyTorch refuses to read them (and `torch.compile` reads one) where the two
    contradict each other.
    """
    words = {switch: switch.fp32_precision for switch in _switches()}
    allowed = _read(lambda: torch.backends.cudnn.allow_tf32, True)
    products = _read(torch.get_float32_matmul_precision, "highest")
    try:
        _set_old(False, "highest")
        for switch in words:
            switch.fp32_precision = "ieee"
        yield
    finally:
        _set_old(allowed, products)
        for switch, word in words.items():
            switch.fp32_precision = word


def _switches() -> list[Any]:
    """Where PyTorch has a word for the precision of float32: all that the old switches set."""
    backends = torch.backends
    named = (
        (backends.cudnn, "conv"),
        (backends.cudnn, "rnn"),
        (backends.cuda, "matmul"),
        (backends.mkldnn, "matmul"),
    )
    switches = (getattr(module, name, None) for module, name in named)
    return [switch for switch in switches if hasattr(switch, "fp32_precision")]


def _set_old(convolutions: bool, products: str) -> None:
    with warnings.catch_warnings():  # PyTorch 2.9 warns of these names; 2.4 knows no others
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


def _read(switch, otherwise):
    """An old switch's value; `otherwise` where a new one contradicts it, and PyTorch refuses."""
    try:
        return switch()
    except RuntimeError:
        return otherwise


@contextmanager
def computing_in(precision: torch.dtype | None, device: torch.device) -> Iterator[None]:
    """Run a network, forward and backward, in a precision of `pick_precision`.

    None is float32 without TF32, and ends an autocast around the block.
    """
    exact = without_tf32() if precision is None else nullcontext()
    with exact, torch.autocast(device.type, dtype=precision, enabled=precision is not None):
        yield


def tune_cuda() -> None:
    """Let cuDNN choose its fastest algorithms, and products outside autocast use TF32.

    For training, which sees a single shape all along. Not for masks: another algorithm may be the
    fastest the next time, and a resumed run would differ from an uninterrupted run in last bits.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


def memory_layout(device: torch.device) -> torch.memory_format:
    """Channels last on a GPU, where tensor cores want it; elsewhere PyTorch's own order."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def default_batch_size(device: torch.device) -> int:
    """64 images, on a CPU 8: more would be no faster there, and BASNet's would fill its memory."""
    return 8 if device.type == "cpu" else 64


def as_current(device: torch.device) -> AbstractContextManager:
    """Make a GPU this thread's current one: events, streams and pinned memory are of that one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Values from the CPU's memory on the device, same shape and dtype.

    A plain copy to a GPU waits until it has computed all that it was given before; one from pinned
    memory does not.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@torch.no_grad()
def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether every value of some tensors of one device is finite; waits for it once."""
    sums = [tensor.sum(dtype=torch.float64)[None] for tensor in tensors]
    return bool(torch.cat(sums).isfinite().all())


class Fetched:
    """A tensor on its way to host memory, while a GPU computes what it is given next.

    tensor : on `device`; others than CUDA's are waited for at once, for their copies do not promise
        to be whole when they are awaited.
    """

    def __init__(self, tensor: torch.Tensor, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        if device.type != "cuda":
            self._host = tensor.cpu()
            return
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        with as_current(device):
            self._event.record()

    def wait(self) -> torch.Tensor:
        """Return the tensor, same shape and dtype, in pageable memory."""
        if self._event is None:
            return self._host
        self._event.synchronize()
        return self._host.clone()


def to_host(tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield the tensors in host memory, in order, of the same shapes and dtypes.

    Each is waited for only when the next has been asked for, so that the host prepares a batch
    while a GPU computes the one before. Not more than two lie in pinned memory at once.
    """
    last: Fetched | None = None
    for tensor in tensors:
        coming = Fetched(tensor, tensor.device)
        if last is not None:
            yield last.wait()
        last = coming
    if last is not None:
        yield last.wait()

"""Networks in archives of `torch.export.save` (.pt2), run without `torch.export.load`.

That function unpickles, evaluates expressions as Python and calls whatever functions the file names
(PyTorch says so: "never load data from an untrusted source"). What a network needs of an archive is
plain, though: a list of operators in JSON, and weights as raw bytes. So the list is walked here,
and only PyTorch's own operators on tensors may stand in it.
"""

from __future__ import annotations

import json
import operator
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401  its operators, such as BiRefNet's deformable convolution
from torch import Tensor

from data.device import computing_in
from data.errors import UserError, damage_told
from data.keys import Keys
from data.run import damage
from saliency.foreign import ForeignNetwork, Opened
from saliency.methods.protocol import ForeignSettings

_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64,
    6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
_MEMORY = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_OPERATOR = re.compile(r"torch\.ops\.(aten|torchvision)\.(\w+)\.(\w+)")
_OF_FILES = {"from_file", "save"}  # operators of aten that open what their arguments name
_WORDS = {"none", "tanh", "floor", "trunc", "ij", "xy", "mean", "sum", "max", "min"}
_ARITHMETIC = {
    f"_operator.{function.__name__}": function
    for function in (
        operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod,
        operator.neg, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
        operator.and_, operator.or_, operator.not_,
    )
}  # fmt: skip
_PLAIN = ("as_int", "as_ints", "as_bool", "as_bools", "as_float", "as_floats")
_NESTED = ("as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor")


def build(settings: ForeignSettings, keys: Keys) -> ForeignNetwork:
    """Load the network; see `saliency.methods.protocol.NetworkBuilder`."""
    device, precision, _ = settings.arithmetic("exported")
    name = f"--weights {str(settings.weights)!r}"
    program = Program(settings.weights, device, name)

    def run(batch: Tensor) -> Sequence[Tensor]:
        with computing_in(precision, device):
            return program(batch)

    opened = Opened(run, program.shape, program.outputs)
    network = ForeignNetwork(opened, settings, device, name)
    network.parameters |= settings.recorded(precision)
    return network


class Program:
    """A network of an archive, on a device.

    path : a file of `torch.export.save`, by PyTorch 2.8 or later.
    name : of the file, for errors.

    shape : of its only input; None where any size will do. dtype : of it.
    outputs : their names.

    Raises UserError: damaged, of another kind, or with operators that are not run.
    """

    def __init__(self, path: Path, device: torch.device, name: str) -> None:
        self.device, self.name = device, name
        remedy = "export the network in evaluation mode again, or to ONNX"
        with damage_told(path, remedy, name=name):
            self._read(path)

    def __call__(self, batch: Tensor) -> list[Tensor]:
        """Return the outputs for a batch of `shape` on the device."""
        values = {**self._constants, self._input: batch.to(self.dtype)}
        for function, arguments, outputs, ended in self._steps:
            positional = [_value(a, values, self.device) for name, a in arguments if not name]
            named = {name: _value(a, values, self.device) for name, a in arguments if name}
            values.update(_bound(outputs, function(*positional, **named)))
            for last in ended:
                values.pop(last, None)
        if any(tensor._version for tensor in self._constants.values()):
            raise UserError(
                f"{self.name} changes its own weights or statistics while it runs; export the "
                "network in evaluation mode."
            )
        return [values[output] for output in self.outputs]

    def _read(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type for member in archive.infolist()):
                raise ValueError("its parts are compressed")
            if reason := damage(path):
                raise ValueError(reason)
            names = archive.namelist()
            root = names[0].partition("/")[0]
            if f"{root}/models/model.json" not in names:
                old = "serialized_exported_program.json" in names
                raise ValueError("PyTorch before 2.8 wrote it" if old else "it holds no program")
            module = json.loads(archive.read(f"{root}/models/model.json"))["graph_module"]
            tensors = dict(_tensors(archive, root))
        graph, signature = module["graph"], module["signature"]
        self._constants: dict[str, Tensor] = {}
        inputs = []
        for spec in signature["input_specs"]:
            ((kind, content),) = spec.items()
            if kind == "user_input":
                inputs.append(content["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                tensor = tensors[content[f"{kind}_name"]]
                self._constants[content["arg"]["name"]] = tensor.to(self.device)
            else:
                raise ValueError(f"it has an input of the kind {kind}")
        if len(inputs) != 1:
            raise ValueError(f"it has {len(inputs)} inputs, not one batch of images")
        self._input = inputs[0]
        meta = graph["tensor_values"][self._input]
        self.shape, self.dtype = [size.get("as_int") for size in meta["sizes"]], _dtype(meta)
        if not self.dtype.is_floating_point:
            raise ValueError("its input is not of floating-point numbers")
        self.outputs = []
        for spec in signature["output_specs"]:
            ((kind, content),) = spec.items()
            if kind != "user_output":
                raise ValueError(f"it changes itself ({kind})")
            if "as_tensor" in content["arg"]:
                self.outputs.append(content["arg"]["as_tensor"]["name"])
        self._steps = list(_steps(graph["nodes"], {*self.outputs, *self._constants}))


def _steps(nodes: Sequence[Mapping], kept: set[str]) -> Iterator[tuple]:
    """Yield of each node its function, (name or "", argument), outputs, and what ends with it."""
    last = {}
    for number, node in enumerate(nodes):
        used = {name for given in node["inputs"] for name in _names(given["arg"])}
        made = {name for output in node["outputs"] for name in _names(output)}
        last |= dict.fromkeys((used | made) - kept, number)
    ends: dict[int, list[str]] = {}
    for name, number in last.items():
        ends.setdefault(number, []).append(name)
    for number, node in enumerate(nodes):
        function = _function(node["target"])
        arguments = [("" if g.get("kind") == 1 else g["name"], g["arg"]) for g in node["inputs"]]
        for _, argument in arguments:
            if (word := argument.get("as_string")) is not None and word not in _WORDS:
                raise ValueError(f"the operator {node['target']} with the word {word!r}")
        yield function, arguments, node["outputs"], ends.get(number, [])


def _function(target: str) -> Callable:
    """Return the operator of this name. ValueError: it is none of those that may be run."""
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    match = _OPERATOR.fullmatch(target)
    if match is None or match[2] in _OF_FILES:
        raise ValueError(f"the operator {target}")
    function = getattr(torch.ops, match[1])
    for part in match.groups()[1:]:
        function = getattr(function, part, None)
    if not isinstance(function, torch._ops.OpOverload):
        raise ValueError(f"the operator {target}")
    return function


def _names(argument: Any) -> Iterator[str]:
    """Yield the values that an argument or an output names."""
    if isinstance(argument, Mapping):
        for key, content in argument.items():
            if key in ("name", "as_name"):
                yield content
            else:
                yield from _names(content)
    elif isinstance(argument, list):
        for part in argument:
            yield from _names(part)


def _value(argument: Mapping, values: Mapping[str, Any], device: torch.device) -> Any:
    ((kind, content),) = argument.items()
    if kind in _PLAIN or kind == "as_string":
        return content
    if kind == "as_none" or kind == "as_layout":  # only the usual layout, by default
        return None
    if kind == "as_name":
        return values[content]
    if kind == "as_tensor":
        return values[content["name"]]
    if kind == "as_tensors":
        return [values[tensor["name"]] for tensor in content]
    if kind in _NESTED:
        return _value(content, values, device)
    if kind.removesuffix("s") in _NESTED:
        return [_value(part, values, device) for part in content]
    if kind == "as_device":
        return device
    if kind == "as_scalar_type":
        return _DTYPES[content]
    if kind == "as_memory_format":
        return _MEMORY[content]
    raise ValueError(f"an argument of the kind {kind}")


def _bound(outputs: Sequence[Mapping], result: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what a node gives."""
    for output, value in zip(outputs, [result] if len(outputs) == 1 else result, strict=False):
        names = list(_names(output))
        yield from zip(names, value if "as_tensors" in output else [value], strict=False)


def _tensors(archive: zipfile.ZipFile, root: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of all weights and constants."""
    for folder in ("weights", "constants"):
        config = json.loads(archive.read(f"{root}/data/{folder}/model_{folder}_config.json"))
        raw: dict[str, bytearray] = {}  # several tensors may share their memory
        for name, entry in config["config"].items():
            part, meta = entry["path_name"], entry["tensor_meta"]
            if entry["use_pickle"] or meta is None:
                raise ValueError(f"{name} is pickled, and unpickling it could run code")
            if part not in raw:
                raw[part] = bytearray(archive.read(f"{root}/data/{folder}/{part}"))
            sizes, strides = ([s["as_int"] for s in meta[key]] for key in ("sizes", "strides"))
            dtype = _dtype(meta)
            if not raw[part]:
                yield name, torch.zeros(sizes, dtype=dtype)
                continue
            offset = meta["storage_offset"]["as_int"]
            yield name, torch.frombuffer(raw[part], dtype=dtype).as_strided(sizes, strides, offset)


def _dtype(meta: Mapping) -> torch.dtype:
    if meta["dtype"] not in _DTYPES:
        raise ValueError(f"tensors of the type number {meta['dtype']}")
    return _DTYPES[meta["dtype"]]

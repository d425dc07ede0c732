"""Read a backbone from a checkpoint: DiLo's own, anybody's state_dict, or torchvision's weights."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torchvision
from torch import nn

from data.errors import UserError
from data.run import checkpoints, damage
from data.weights import (
    fill,
    network_in,
    other_networks,
    read_weights,
    sha256_of,
    split_choice,
    state_dict_of,
)
from evaluate import networks
from evaluate.results import say

FORMAT = "dilo-backbone"


@dataclass
class Source:
    """Where a backbone's weights come from: what every result says about its checkpoint."""

    checkpoint: str  # as the user gave it
    file: str | None = None
    sha256: str | None = None
    arch: str = ""
    stripped_prefix: str = ""
    left_out: list[str] = field(default_factory=list)  # keys that are not the backbone's
    others: list[str] = field(default_factory=list)  # networks that could be chosen instead
    config: dict | None = None  # of DiLo's own checkpoints

    def as_dict(self) -> dict:
        """Plain values for JSON, without the training configuration."""
        facts = asdict(self)
        return {key: facts[key] for key in facts if key not in ("config", "others")}

    @property
    def untrained(self) -> bool:
        """Whether these are random weights."""
        return self.checkpoint.startswith("random:")

    @property
    def trained_size(self) -> int | None:
        """The side of the views that a backbone of ours was trained at."""
        size = (self.config or {}).get("image_size")
        return size if isinstance(size, int) else None

    def describe(self) -> str:
        """One line for the terminal."""
        text = f"{self.checkpoint}: {self.arch}"
        if self.stripped_prefix:
            text += f", prefix '{self.stripped_prefix}' stripped"
        if self.left_out:
            more = ", ..." if len(self.left_out) > 3 else ""
            text += f", left out {', '.join(self.left_out[:3])}{more}"
        if self.others:
            text += f"; it also holds '{self.others[0]}', to be chosen by FILE#{self.others[0]}"
        return text


@dataclass
class Checkpoint:
    """A backbone with its weights; the classifier is the identity.

    detector : what a pretraining hands over besides, under the names of `pretrain.parts.pyramid`
    """

    model: nn.Module
    source: Source
    detector: dict[str, torch.Tensor] = field(default_factory=dict)


def load_checkpoint(checkpoint: str | Path, arch: str | None = None) -> Checkpoint:
    """Load a backbone.

    checkpoint : a RUN folder of `pretrain`, its `backbone.pt`, a file with a state_dict of one of
        torchvision's networks (`.pt`, `.pth`, `.safetensors`, ...), `torchvision:NAME` for weights
        that torch.hub has on disk, or `random:NAME` for the untrained network as a baseline,
        `random:NAME#1` for the one of seed 1 (0 unless told); `FILE#teacher` takes the network of
        that name among a file's.
    arch : the network's name, where its keys do not tell.

    Nothing is unpickled but tensors and plain containers, and nothing is downloaded.
    """
    checkpoint = str(checkpoint)
    file, choice = split_choice(checkpoint)
    kind, _, name = checkpoint.partition(":")
    if kind == "random" and name:
        return _untrained(checkpoint, *name.partition("#")[::2])
    if kind == "torchvision" and name:
        path, arch = _torchvision_file(name), name
    else:
        path = find_file(file)
    source = Source(checkpoint, str(path), sha256_of(path))
    return _read(path, choice, source, arch)


def _untrained(checkpoint: str, arch: str, seed: str) -> Checkpoint:
    if seed and not re.fullmatch("[0-9]{1,9}", seed):
        raise UserError(f"CHECKPOINT {checkpoint}: '{seed}' is no seed; write random:{arch}#1.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed or 0))
        model = networks.build(arch)
    return Checkpoint(model.eval(), Source(checkpoint, arch=arch))


def _read(path: Path, choice: str, source: Source, arch: str | None) -> Checkpoint:
    """Build the backbone that a file holds, and note in `source` what is read of it."""
    content, name = read_weights(path, "CHECKPOINT"), f"CHECKPOINT {source.checkpoint}"
    source.config = _config(content, path)
    if content.get("format") == FORMAT and isinstance(content.get("arch"), str):
        arch = arch or networks.DILO_NAMES.get(content["arch"], content["arch"])
    tensors = state_dict_of(content, f"CHECKPOINT {path}")
    anchors = [next(iter(networks.backbone_tensors(arch)))] if arch else networks.ANCHORS
    state, prefix = network_in(tensors, anchors, choice, name)
    source.stripped_prefix = prefix.rpartition("/")[2]
    source.others = other_networks(tensors, anchors, prefix)
    source.arch = arch or networks.recognise(state, name)
    if difference := networks.differences(state, source.arch):
        raise UserError(f"{name} does not fit {source.arch}: {difference}.")
    model = networks.build(source.arch).eval()
    own = model.state_dict().keys()
    source.left_out = [key for key in state if key not in own]
    lost = next((key for key in own if key in state and not state[key].isfinite().all()), None)
    if lost is not None:
        raise UserError(
            f"{name}: {lost} has values that are not finite, as after a training that diverged; "
            "name an earlier checkpoint, or train again."
        )
    fill(model, state)
    handed = content.get("detector") if content.get("format") == FORMAT else None
    return Checkpoint(model, source, dict(handed) if isinstance(handed, Mapping) else {})


def find_file(path: Path) -> Path:
    """The file to read: a RUN folder stands for its `backbone.pt`, or its newest checkpoint."""
    if path.is_dir():
        if (path / "backbone.pt").is_file():
            return path / "backbone.pt"
        unfinished = checkpoints(path / "checkpoints")
        for _, newest in reversed(unfinished):
            if (reason := damage(newest)) is None:
                return newest
            say(f"{newest} is skipped: {reason}.")
        if unfinished:
            raise UserError(
                f"CHECKPOINT {path}: none of its checkpoints is sound; name another run."
            )
        raise UserError(
            f"CHECKPOINT {path} is a folder without backbone.pt and without checkpoints; name a "
            "run of pretrain, or a file."
        )
    if not path.is_file():
        raise UserError(f"CHECKPOINT {path} does not exist; name a file or a run's folder.")
    return path


def _config(content: Mapping, path: Path) -> dict | None:
    """The settings of `pretrain`: in its backbone, or beside the checkpoints of its run."""
    try:
        if content.get("format") == FORMAT:
            config = json.loads(content["config"])
        elif path.parent.name != "checkpoints":
            return None
        else:
            record = path.parent.parent / "config.toml"
            config = tomllib.loads(record.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return config if isinstance(config, dict) else None


def _torchvision_file(name: str) -> Path:
    """The file of torchvision's supervised weights in torch.hub's folder; never downloads."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    there = torchvision.models.list_models(module=torchvision.models)
    known = list(torchvision.models.get_model_weights(name)) if name in there else []
    for weights in known:
        path = folder / weights.url.rsplit("/", 1)[-1]
        if path.is_file():
            return path
    if not known:
        raise UserError(
            f"CHECKPOINT torchvision:{name}: torchvision has no such network, or no weights of it."
        )
    url = known[0].url
    raise UserError(
        f"CHECKPOINT torchvision:{name}: there is no {url.rsplit('/', 1)[-1]} in {folder}; put it "
        f"there from {url}, or set TORCH_HOME."
    )


def digest(model: nn.Module) -> str:
    """SHA-256 over every parameter and buffer, names and bytes: equal when nothing has changed."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()

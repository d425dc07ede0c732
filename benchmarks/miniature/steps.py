"""The steps of the miniature, each a public command whose result is kept."""

from __future__ import annotations

import json
import os
import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.miniature.supervised import train_supervised
from benchmarks.miniature.tables import Row
from data.errors import UserError
from data.images.listing import EXTENSIONS
from data.processes import usable_cores
from demo.commands import run

UNSUPERVISED = ("rbd", "gs", "mc")


@dataclass(frozen=True)
class Study:
    """What is trained on what, and where it goes.

    Attributes
    ----------
    images : holds train/ and val/ with a folder for each class.
    out : the report's folder.
    settings : of `pretrain`, the same for every row.
    judged_train, judged_val : images of a class that the probes use; 0: all.
    epochs_supervised : of the supervised network that bounds what can be had.
    masks : folders of mask shards, by method, that were given.
    truth : true masks of train/ and val/, where they are known.
    tests : other labelled folders for linear probe and kNN, by name.
    """

    images: Path
    out: Path
    settings: dict[str, object]
    device: str
    judged_train: int = 0
    judged_val: int = 0
    epochs_supervised: int = 20
    textures: Path | None = None
    masks: dict[str, Path] | None = None
    truth: Path | None = None
    tests: dict[str, Path] = field(default_factory=dict)

    # ---- masks and backgrounds ----

    def compute_masks(self, methods: set[str]) -> None:
        """Make the training images' masks by these methods, and RBD's of the test images."""
        own = [method for method in UNSUPERVISED if method in methods]
        if own:
            folder = self.out / "masks" / "train"
            # several methods go into folders of their names; one goes where it is told
            target = folder if len(own) > 1 else folder / own[0]
            run("saliency-compute", self.images / "train", target, "--method", ",".join(own))
        if "truth" in methods:
            given = self.truth / "train"
            images = ("--images", self.images / "train", "--method", "truth")
            run("mask-shards", "import", given, self.masks_of("truth"), *images)
        if self.truth is None:
            run("saliency-compute", self.judged / "val", self.masks_of_val, "--method", "rbd")

    def masks_of(self, method: str) -> Path:
        """The training images' masks by a method."""
        given = (self.masks or {}).get(method)
        return given or self.out / "masks" / "train" / method

    @property
    def masks_of_val(self) -> Path:
        """The test images' masks that the probes use: the true ones, where they are known."""
        return self.out / "masks" / "val" / "rbd" if self.truth is None else self.truth / "val"

    def background_pool(self) -> Path:
        """The pool of crops without saliency, made when it is first asked for."""
        pool = self.out / "backgrounds.h5"
        if not pool.exists():
            run("mask-shards", "backgrounds", self.images / "train", self.masks_of("rbd"), pool)
        return pool

    # ---- training ----

    def run_folder(self, row: Row, seed: int) -> Path:
        return self.out / "runs" / row.run / f"seed-{seed}"

    def pretrain_all(self, wanted: list[tuple[Row, int]], jobs: int) -> None:
        """Train rows, so many at once on each GPU, or on the CPU with a share of its cores each."""
        if any(row.settings.get("background") == "imagenet" for row, _ in wanted):
            self.background_pool()
        places: queue.Queue[str] = queue.Queue()
        for device in self._devices() * jobs:
            places.put(device)
        if places.qsize() > 1:
            # two runs of one thread are a third faster than two of two threads, one after another
            threads = max(1, usable_cores() // places.qsize())
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        workers = max(1, usable_cores() // places.qsize())

        def train(row: Row, seed: int) -> None:
            device = places.get()
            try:
                self.pretrain(row, seed, device, workers)
            finally:
                places.put(device)

        if places.qsize() == 1:
            for one in wanted:
                train(*one)
            return
        with ThreadPoolExecutor(places.qsize()) as pool:
            list(pool.map(train, *zip(*wanted, strict=True)))

    def _devices(self) -> list[str]:
        """Return every GPU where the user named none of them, else the device that was named."""
        if self.device in ("auto", "cuda") and (count := torch.cuda.device_count()) > 1:
            return [f"cuda:{number}" for number in range(count)]
        return [self.device]

    def pretrain(self, row: Row, seed: int, device: str, workers: int) -> None:
        """Train a row on a device with so many loading processes, going on where it stopped."""
        folder = self.run_folder(row, seed)
        if (folder / "backbone.pt").exists():
            return
        settings = self.settings | row.all_settings()
        arguments = [self.images / "train", "--out", folder, "--resume", "--seed", seed]
        arguments += ["--device", device, "--workers", workers]  # which settings override
        arguments += ["--set", f"knn_images={self.images / 'val'}"]
        if row.masks is not None:
            arguments += ["--masks", self.masks_of(row.masks)]
        if settings.get("background") == "texture":
            arguments += ["--background-pool", self.textures]
        if settings.get("background") == "imagenet":
            arguments += ["--background-pool", self.background_pool()]
        for name, value in settings.items():
            arguments += ["--set", f"{name}={json.dumps(value)}"]
        run("pretrain", *arguments)

    def supervised(self, seed: int) -> Path:
        """Train the supervised network, unless it is there; return its weights."""
        weights = self.out / "runs" / "supervised" / f"seed-{seed}.pt"
        if not weights.exists():
            print(f"\nTraining a supervised {self.settings['arch']} ...", flush=True)
            train_supervised(
                self.images / "train",
                weights,
                arch=self.settings["arch"],
                image_size=self.settings["image_size"],
                batch_size=self.settings["batch_size"],
                epochs=self.epochs_supervised,
                seed=seed,
                device=self.device,
            )
        return weights

    # ---- judging ----

    @property
    def judged(self) -> Path:
        """The images that the probes see: IMAGES, or links to the first of each class."""
        return self.out / "judged" if self.judged_train or self.judged_val else self.images

    def link_judged(self) -> None:
        """Make the tree of links, if the probes are to see a part of the images."""
        if self.judged == self.images or self.judged.exists():
            return
        draft = self.judged.with_name(".judged.tmp")
        for part, limit in (("train", self.judged_train), ("val", self.judged_val)):
            classes = [path for path in sorted((self.images / part).iterdir()) if path.is_dir()]
            if not classes:
                raise UserError(f"--images {self.images}: there are no class folders in {part}/.")
            for one in classes:
                (draft / part / one.name).mkdir(parents=True, exist_ok=True)
                found = sorted(p for p in one.iterdir() if p.suffix.lower() in EXTENSIONS)
                for path in found[: limit or None]:
                    link = draft / part / one.name / path.name
                    if not link.is_symlink():
                        os.symlink(path.resolve(), link)
        draft.rename(self.judged)

    def judge(self, checkpoint: str | Path, name: str) -> dict[str, float]:
        """Return a network's figures, shares of 1."""
        size = ("--image-size", self.settings["image_size"], "--device", self.device)
        masks = ("--masks", self.masks_of_val)
        probes = {
            "knn": (checkpoint, self.judged, *size, "--k", 20),
            "linear": (checkpoint, self.judged, *size, "--fast"),
        }
        probes["robustness"] = (checkpoint, self.judged, *size, *masks)
        probes["foreground"] = (checkpoint, self.judged / "val", *size, *masks)
        for test, images in self.tests.items():
            probes[f"knn-{test}"] = (checkpoint, images, *size, "--k", 20)
            probes[f"linear-{test}"] = (checkpoint, images, *size, "--fast")
        found = {}
        for probe, arguments in probes.items():
            folder = self.out / "probes" / name / probe
            if not (folder / "results.json").exists():
                run("probe", probe.split("-")[0], *arguments, "--out", folder)
            found[probe] = json.loads((folder / "results.json").read_text("utf-8"))
        looked = found["foreground"]["rows"][0]
        figures = {name: looked[name]["value"] for name in ("background", "object", "abx")}
        figures["gap"] = found["robustness"]["rows"][0]["background_gap"]
        for probe, results in found.items():
            command, _, test = probe.partition("-")
            if command in ("linear", "knn"):
                top1 = results["top1"] if command == "linear" else results["rows"][0]["top1"]
                figures[f"{command} {test}".strip()] = top1
        return figures

"""The journey: photographs to masks, then objects to masks, two pretrainings, probes and a page."""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from demo.commands import run, run_side_by_side
from demo.made_with import note
from demo.photographs import write_photographs
from demo.report import write_report
from demo.scenes import write_scenes

METHODS = ("fusion", "rbd", "mc", "gs")
SETTINGS = Path(__file__).with_name("objects.toml")  # of the pretrainings
UNTRAINED = "random:resnet18"


@dataclass(frozen=True)
class Journey:
    """What is made where, and how large. What an earlier run has made in `out` is kept.

    The defaults are those of `make demo`.
    """

    out: Path
    train: int = 1600  # images to learn from
    val: int = 400  # images to be judged on
    tied: int = 400  # images whose backgrounds are tied to their classes
    epochs: int = 30
    batch_size: int = 64
    image_size: int = 32  # side of a view in pixels
    negatives: int = 512  # keys in MoCo's queue
    paste_probability: float = 0.5
    seed: int = 0
    neighbours: int = 20  # of the kNN

    def run(self) -> None:
        """Do all of it, and say what there is to look at."""
        started = time.monotonic()
        self._remember()
        # on another core, for kernels are compiled on one
        drawing = multiprocessing.get_context("spawn").Process(target=self._draw, daemon=True)
        drawing.start()
        _chapter("1. Saliency masks of photographs, by four methods")
        self._photographs()
        drawing.join()
        if drawing.exitcode:
            sys.exit("The pictures of objects could not be drawn; what stopped it stands above.")
        _chapter("2. A labelled set: objects on backgrounds that all classes share")
        self._objects()
        _chapter("3. Pretraining without labels: without copy-paste, then with it")
        self._pretrain()
        _chapter("4. What the two models have learnt, and where they look")
        self._probes()
        text = write_report(self.out, (self.train, self.val))
        print(f"\n{text}\n\nDone in {time.monotonic() - started:.0f} s. Look at:")
        for path, what in self.sights():
            print(f"  {self.out / path!s:<42} {what}")

    def _remember(self) -> None:
        """Note the settings in the folder; stop where it was made with others."""
        settings = {name: value for name, value in asdict(self).items() if name != "out"}
        differs = note(self.out / "settings.json", settings)
        if differs is not None:
            sys.exit(
                f"{self.out} is of a demo with other settings ({differs}); remove it or name "
                "another folder."
            )

    @property
    def models(self) -> dict[str, float]:
        """Their names and probabilities of pasting."""
        return {"without": 0.0, "with": self.paste_probability}

    def _photographs(self) -> None:
        photographs = self.out / "photographs"
        write_photographs(photographs)
        masks = [self.out / "masks" / method for method in METHODS]
        run("saliency-compute", photographs, self.out / "masks", "--method", ",".join(METHODS))
        for folder in masks:
            run("mask-shards", "verify", folder, "--images", photographs)
        self._gallery("saliency", *masks, "--images", photographs)

    def _draw(self) -> None:
        """Draw the labelled sets."""
        objects, truth = self.out / "objects", self.out / "objects-truth"
        write_scenes(objects, truth, self.train, self.val, ("shared", "unseen"), quiet=True)
        tied, truth = self.out / "tied", self.out / "tied-truth"
        write_scenes(tied, truth, self.tied, self.tied // 2, ("tied", "tied"), quiet=True)

    def _objects(self) -> None:
        objects, truth = self.out / "objects", self.out / "objects-truth"
        print(f"\n{self.train} + {self.val} pictures were drawn: {objects}", flush=True)
        for part in ("train", "val"):
            run("saliency-compute", objects / part, self._masks(part))
        self._gallery("objects", self._masks("train"), "--images", objects / "train", "--count", 16)
        self._probe("saliency", self._masks("val"), truth / "val", "--quick")

    def _gallery(self, name: str, *arguments: object) -> None:
        """Show masks on a page and on a sheet."""
        files = [self.out / f"{name}.{kind}" for kind in ("html", "png")]
        outputs = [word for file in files for word in ("-o", file)]
        run("mask-shards", "gallery", *arguments, *outputs, "--overwrite")

    def _pretrain(self) -> None:
        """Train what is not there yet, both at once where neither is."""
        wanted = [name for name in self.models if not (self._run(name) / "backbone.pt").exists()]
        for name in self.models:
            if name not in wanted:
                print(f"\npretrain: already in {self._run(name)}")
        run_side_by_side({name: self._pretraining(name) for name in wanted}, self.out / "runs")

    def _pretraining(self, name: str) -> list[object]:
        """Return the command that trains a model."""
        return [
            *("pretrain", self.out / "objects" / "train", "--masks", self._masks("train")),
            *("--out", self._run(name), "--resume"),
            *("--paste-probability", self.models[name], "--background", "grayscale"),
            *("--config", SETTINGS, "--negatives", self.negatives),
            *("--image-size", self.image_size, "--epochs", self.epochs),
            *("--batch-size", self.batch_size, "--set", f"knn_k={self.neighbours}"),
            *("--workers", 1),
            *("--seed", self.seed, "--device", "cpu"),
        ]

    def _probes(self) -> None:
        """Run those whose results are not there, several at once; the longest first."""
        objects, truth = self.out / "objects", self.out / "objects-truth"
        trained = [f"{name}={self._run(name)}" for name in self.models]
        models = [*trained, f"untrained={UNTRAINED}"]
        size = ("--image-size", self.image_size)  # which an untrained network does not know
        tied = (self.out / "tied", "--masks", self.out / "tied-truth")
        masks = ("--masks", self._masks("val"), "--ground-truth", truth)
        commands = {
            "foreground": (*models, objects, "--masks", truth, *size),
            "robustness": (*models, *tied, *size),
            "gradients": (*models, objects, *masks, *size, "--limit", 100),
            "linear": (*models, objects, "--fast", *size),
            "neighbors": (*trained, objects),
            "knn": (*models, objects, "--k", self.neighbours, *size),
        }
        probes = {name: self._probing(name, *words) for name, words in commands.items()}
        missing = {name: words for name, words in probes.items() if words}
        run_side_by_side(missing, self.out / "probes")

    def _probe(self, name: str, *arguments: object) -> None:
        """Run a probe, unless its results are there."""
        if words := self._probing(name, *arguments):
            run(*words)

    def _probing(self, name: str, *arguments: object) -> tuple[object, ...]:
        """Return the command of a probe; empty where its results are there."""
        out = self.out / "probes" / name
        if (out / "results.json").exists():
            print(f"\nprobe {name}: already in {out}")
            return ()
        return ("probe", name, *arguments, "--out", out)

    def _masks(self, part: str) -> Path:
        return self.out / "objects-masks" / part

    def _run(self, name: str) -> Path:
        return self.out / "runs" / name

    def sights(self) -> list[tuple[Path, str]]:
        """Paths below the folder, and what they show."""
        probes = Path("probes")
        return [
            (Path("index.html"), "the table, and all the pictures below: start here"),
            (Path("saliency.html"), "photographs with their masks by four methods"),
            (Path("objects.html"), "objects with their masks by RBD"),
            (
                Path("runs/with/views.png"),
                "what it is shown: originals, pasted, final views",
            ),
            (Path("runs/with/curve.png"), "its loss and kNN accuracy"),
            (probes / "foreground/index.html", "what the object and the background explain"),
            (probes / "neighbors/index.html", "nearest neighbours, model beside model"),
            (probes / "gradients/index.html", "class gradients beside neighbours"),
            (probes / "robustness/variants.png", "objects on swapped backgrounds"),
        ]


def _chapter(title: str) -> None:
    print(f"\n\n{title}\n{'=' * len(title)}", flush=True)

"""`probe detect`: detectors fine-tuned from networks, and their average precision."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from data.errors import UserError, import_extra
from data.metrics import read_metrics
from data.options import Count, NotNegative, one_of, setting
from evaluate.detection.settings import PROTOCOLS, Settings, build_settings, rule
from evaluate.intervals import Spread
from evaluate.options import LoadingOptions, ResultOptions
from evaluate.results import Report, Results, percent, processes, say

if TYPE_CHECKING:
    from evaluate.checkpoints import Checkpoint
    from evaluate.detection.annotated import Annotated as Images
    from evaluate.detection.scores import Scores
    from pretrain.parts.distributed import World

SHARES_WORK = True  # among torchrun's processes
TRAININGS = "training"  # their folders, below --out
MAY_HOLD = (TRAININGS,)
ANSWERS = "detections.json"  # of a training that is finished
SHOWN_ROWS = 4  # of detect.png
COLUMNS = {"AP50 %": "ap50", "AP %": "ap", "AP75 %": "ap75"}
MASK_COLUMNS = {"mask AP50 %": "mask_ap50", "mask AP %": "mask_ap", "mask AP75 %": "mask_ap75"}


class Options(LoadingOptions, ResultOptions):
    """Fine-tune detectors on VOC or COCO, and measure their AP.

    DATA is VOCdevkit (VOC2007, VOC2012; or one such folder), or COCO's folder (annotations,
    train2017, val2017). voc07 and voc0712 train Faster R-CNN R50-C4 as MoCo and DiLo did, coco-1x
    and coco-2x Mask R-CNN R50-FPN. Every layer is trained, with batch norm over all GPUs. Rate and
    steps follow the linear rule where images_per_step is set to other than 16.

    A command that was stopped continues when it is given again with the same --out. Start it by
    torchrun to use several GPUs.

    \b
    Examples:
      probe detect RUN VOCdevkit --protocol voc07 --runs 3 --out results
      probe detect a=RUN1 b=RUN2 VOCdevkit --set images_per_step=8
      torchrun --nproc-per-node 8 -m evaluate detect RUN COCO --protocol coco-1x --out results

    Writes results.json, index.html, its plots and a folder for each training into --out.
    """

    checkpoints: tuple[str, ...] = setting(
        ..., "networks to begin with", argument=True, metavar="CHECKPOINT..."
    )
    data: Path = setting(..., "the data set", argument=True)
    protocol: Annotated[str, one_of(PROTOCOLS)] = setting("voc07", "published training")
    runs: Count = setting(1, "trainings of each network, with seeds that follow --seed; DiLo has 3")
    seed: NotNegative = setting(0, "of order, sides, flips, sampling and of new layers' weights")
    assignments: tuple[str, ...] = setting(
        (), "put another value in the place of a protocol's", names=("--set",), metavar="NAME=VALUE"
    )
    precision: Annotated[str, one_of(("auto", "float32", "bf16", "fp16"))] = setting(
        "auto", "of the network; auto is bf16 on a GPU that has it", heading="Network"
    )


def run(options: Options, results: Results) -> Report | None:
    """Train, test and compare; None in all of torchrun's processes but the first."""
    from evaluate.models import labelled_paths

    settings = build_settings(options.protocol, options.assignments)
    train, test = read_data(options, settings)
    given = labelled_paths(options.checkpoints)
    with processes(options) as here:
        alone = here.size > 1 and here.device.type != "cuda"  # no SyncBN there
        norm = settings.images_per_step // (here.size if alone else 1)
        sentence = rule(settings, options.protocol, norm)
        say(f"{options.protocol}: {sentence}")
        comparison = Comparison(options, settings, train, test, results.folder / TRAININGS, here)
        networks = [comparison.compare(*each) for each in given]
    return comparison.report(networks, sentence, results) if here.first else None


def read_data(options: Options, settings: Settings) -> tuple[Images, Images]:
    """Read what a protocol trains on and what it tests on."""
    from evaluate.detection.coco import read_coco
    from evaluate.detection.voc import read_voc

    protocol = PROTOCOLS[options.protocol]
    if protocol.data == "voc":
        if settings.detector != "c4":
            raise UserError("the setting detector is 'fpn', which needs masks; VOC takes c4.")
        train = read_voc(options.data, protocol.train, "trainval")
        test = read_voc(options.data, protocol.test, "test")
    else:
        import_extra("pycocotools", "detection", "scoring COCO")  # before hours of training
        splits, masks = (protocol.train[0], protocol.test[0]), settings.detector == "fpn"
        train, test = (read_coco(options.data, split, masks) for split in splits)
    if all(objects.ignored.all() for objects in test.objects):
        raise UserError(f"{test.source} lists no image with an object to find; give another DATA.")
    if train.numbers != test.numbers:
        raise UserError(f"{train.source} and {test.source} have different categories; mend one.")
    for note in (*train.notes, *test.notes):
        say(note)
    return train, test


@dataclass
class Network:
    """A network's trainings, a seed each.

    runs : what the JSON says of each
    answers : the first training's, as COCO's results
    """

    label: str
    recipe: str
    source: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    answers: list[dict] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """What the JSON says: each run, their means, and their standard deviations."""
        values = {name: [run[name] for run in self.runs] for name in self.scores[0].averages}
        several = len(self.runs) > 1
        return {
            "label": self.label,
            "recipe": self.recipe,
            **self.source,
            "mean": {n: float(np.mean(v)) for n, v in values.items()},
            "std": {n: float(np.std(v, ddof=1)) for n, v in values.items()} if several else None,
            "runs": self.runs,
        }


@dataclass
class Comparison:
    """What is the same for all networks that are compared."""

    options: Options
    settings: Settings
    train: Images
    test: Images
    folder: Path  # of the trainings
    here: World

    def compare(self, label: str, path: str, recipe: str) -> Network:
        """Train and test one network with each seed."""
        from evaluate.checkpoints import load_checkpoint
        from evaluate.detection.scores import detections_of, score_coco, score_voc

        network, settings = Network(label, recipe), self.settings
        for seed in range(self.options.seed, self.options.seed + self.options.runs):
            loaded = load_checkpoint(path, self.options.arch)
            if not network.source:
                network.source = loaded.source.as_dict()
                say(loaded.source.describe())
            title = f"{label}, seed {seed}"
            folder, answers = self.train_one(title, loaded, seed)
            if not self.here.first:
                continue
            if PROTOCOLS[self.options.protocol].data == "voc":
                detections = detections_of(self.test, answers)
                scores = score_voc(self.test, detections)
            else:
                scores = score_coco(self.test, answers, settings.detector == "fpn")
            averages = (f"{name} {percent(value)}" for name, value in scores.averages.items())
            say(f"{title}: {', '.join(averages)}")
            losses = [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
            tenth = max(1, len(losses) // 10)
            row = {"seed": seed, **scores.averages, "classes": scores.classes}
            row["loss_first_tenth"] = float(np.mean(losses[:tenth]))
            row["loss_last_tenth"] = float(np.mean(losses[-tenth:]))
            network.runs.append(row)
            network.folders.append(folder)
            network.scores.append(scores)
            network.answers = network.answers or answers
        return network

    def train_one(self, title: str, loaded: Checkpoint, seed: int) -> tuple[Path, list[dict]]:
        """Train and test a detector, or go on with it; return its folder and COCO's results."""
        from data.device import pick_precision
        from data.files import write_whole
        from data.run import Run
        from evaluate.checkpoints import digest
        from evaluate.detection.detectors import build_detector
        from evaluate.detection.predict import predict
        from evaluate.detection.train import Trainer

        options, settings, here, network = self.options, self.settings, self.here, loaded.model
        run = Run(self.folder / f"{digest(network)[:12]}-seed-{seed}")
        identity = {
            "protocol": options.protocol,
            "seed": seed,
            "network": digest(network),
            "images": self.train.digest(),
            "settings": settings.model_dump(mode="json"),
        }
        run.check(resume=True)
        if run.started():
            run.check_same(run.saved(), identity)
        if run.path(ANSWERS).is_file():
            return run.folder, json.loads(run.path(ANSWERS).read_text("utf-8"))
        here.any(False)  # all have looked at the folder before the first writes into it
        if here.first:
            run.start(identity)
        precision = pick_precision(options.precision, here.device)
        model = build_detector(loaded, len(self.train.classes), settings, seed)
        workers = options.loading_workers // here.local_size
        trainer = Trainer(model, self.train, settings, seed, run, here, precision, workers)
        trainer.resume()
        stop = trainer.train(title)
        if stop and trainer.step < settings.steps:
            say(f"stopped and saved after step {trainer.step}; the same command goes on from there")
            sys.exit(stop.exit_code)
        trainer.measure_norms()
        trainer.loader.close()
        answers = predict(trainer.model, self.test, settings, here, precision, workers, title)
        if here.first:
            write_whole(run.path(ANSWERS), json.dumps(answers))
        here.any(False)  # all wait until they are there: the next network may be the same
        return run.folder, answers

    def report(self, networks: list[Network], sentence: str, results: Results) -> Report:
        """Make JSON, table and page."""
        from data.gallery import Gallery
        from evaluate.detection import pictures
        from evaluate.detection.scores import detections_of

        options, rows = self.options, [network.figures() for network in networks]
        with_masks = "mask_ap" in rows[0]["mean"]
        columns = COLUMNS | MASK_COLUMNS if with_masks else COLUMNS
        table, recipes = [_cells(row, columns) for row in rows], [row["recipe"] for row in rows]
        shown = {each.label: detections_of(self.test, each.answers) for each in networks}
        gallery = Gallery(
            "Detections",
            [
                f"{options.protocol} on {options.data}: {sentence}",
                "As many detections as an image has objects, the highest scores first; green where "
                "one meets an object of its class with an IoU over .5.",
            ],
            ["truth", *shown],
            pictures.rows(self.test, shown),
            figures=pictures.figures(
                {each.label: each.scores for each in networks},
                {each.label: each.folders for each in networks},
                results,
            ),
        )
        content = {
            "protocol": options.protocol,
            "data": options.data,
            "rule": sentence,
            "settings": self.settings.model_dump(),
            "test_images": len(self.test),
            "rows": rows,
        }
        return Report(content, table, [sentence], [], gallery, SHOWN_ROWS, recipes)


def _cells(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    mean, std = row["mean"], row["std"]
    shown = {
        title: Spread(mean[name], std[name]) if std else mean[name]
        for title, name in columns.items()
    }
    return {"checkpoint": row["label"], **shown, "runs": len(row["runs"])}

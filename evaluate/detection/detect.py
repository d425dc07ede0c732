"""`probe detect`: detectors fine-tuned from networks, and their average precision."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from data.errors import UserError
from data.options import one_of, setting
from evaluate.detection.settings import PROTOCOLS, Settings, build_settings, rule
from evaluate.options import Count, LoadingOptions, ResultOptions, Seed
from evaluate.results import Report, Results, percent, say, several

if TYPE_CHECKING:
    from torch import nn

    from evaluate.checkpoints import Checkpoint
    from evaluate.detection.annotated import Annotated as Images
    from evaluate.detection.scores import Scores
    from pretrain.parts.distributed import World

SHARES_WORK = True  # among torchrun's processes
UNFINISHED = ("training",)  # folders of trainings, below --out
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

    Writes results.json, index.html, detect.png and a folder for each training into --out.
    """

    checkpoints: tuple[str, ...] = setting(
        ..., "networks to begin with", argument=True, metavar="CHECKPOINT..."
    )
    data: Path = setting(..., "the data set", argument=True)
    protocol: Annotated[str, one_of(PROTOCOLS)] = setting("voc07", "published training")
    runs: Count = setting(1, "trainings of each network, with seeds that follow --seed; DiLo has 3")
    seed: Seed = setting(0, "of order, sides, flips, sampling and of new layers' weights")
    assignments: tuple[str, ...] = setting(
        (), "put another value in the place of a protocol's", names=("--set",), metavar="NAME=VALUE"
    )
    precision: Annotated[str, one_of(("auto", "float32", "bf16", "fp16"))] = setting(
        "auto", "of the network; auto is bf16 on a GPU that has it", heading="Network"
    )


def run(options: Options, results: Results) -> Report | None:
    """Train, test and compare; None in all of torchrun's processes but the first."""
    from data.device import pick_device
    from evaluate.models import labelled_paths
    from pretrain.parts.distributed import world

    settings = build_settings(options.protocol, options.assignments)
    if options.out is None and several():
        raise UserError("--out is needed under torchrun: all processes must agree on one folder.")
    train, test = read_data(options, settings)
    given = labelled_paths(options.checkpoints)
    # each process asks for the last one's GPU, so that the first tells where it is missing
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    pick_device(options.device, count - 1, count)
    with world(options.device) as here:
        alone = here.size > 1 and here.device.type != "cuda"  # no SyncBN there
        norm = settings.images_per_step // (here.size if alone else 1)
        sentence = rule(settings, options.protocol, norm)
        say(f"{options.protocol}: {sentence}")
        rows, answers = [], {}
        for label, path, _ in given:
            row, answers[label] = compare_one(
                label, path, options, settings, train, test, results, here
            )
            rows.append(row)
        if not here.first:
            return None
    return report(options, settings, sentence, test, rows, answers)


def read_data(options: Options, settings: Settings) -> tuple[Images, Images]:
    """Read what a protocol trains on and what it tests on."""
    from evaluate.detection.coco import check_pycocotools, read_coco
    from evaluate.detection.voc import read_voc

    protocol = PROTOCOLS[options.protocol]
    if protocol.data == "voc":
        if settings.detector != "c4":
            raise UserError("the setting detector is 'fpn', which needs masks; VOC takes c4.")
        train = read_voc(options.data, protocol.train, "trainval")
        return train, read_voc(options.data, protocol.test, "test")
    check_pycocotools()
    masks = settings.detector == "fpn"
    train, test = (read_coco(options.data, s[0], masks) for s in (protocol.train, protocol.test))
    if train.numbers != test.numbers:
        raise UserError(f"{train.source} and {test.source} have different categories; mend one.")
    for note in (*train.notes, *test.notes):
        say(note)
    return train, test


def compare_one(
    label: str,
    path: str,
    options: Options,
    settings: Settings,
    train: Images,
    test: Images,
    results: Results,
    here: World,
) -> tuple[dict[str, Any], list[dict]]:
    """Train and test one network with each seed; return its row, and the first seed's answers."""
    from evaluate.checkpoints import digest, load_checkpoint
    from evaluate.detection.scores import detections_of, score_coco, score_voc

    runs, shown = [], []
    for seed in range(options.seed, options.seed + options.runs):
        loaded = load_checkpoint(path, options.arch)
        if seed == options.seed:
            say(loaded.source.describe())
        folder = results.folder / UNFINISHED[0] / f"{digest(loaded.model)[:12]}-seed-{seed}"
        title = f"{label}, seed {seed}"
        answers = train_one(title, loaded, folder, seed, options, settings, train, test, here)
        if not here.first:
            continue
        shown = shown or answers
        if PROTOCOLS[options.protocol].data == "voc":
            scores = score_voc(test, detections_of(test, answers), settings.average == "area")
        else:
            scores = score_coco(test, answers, settings.detector == "fpn")
        say(f"{title}: " + ", ".join(f"{n} {percent(v)}" for n, v in scores.averages.items()))
        runs.append({"seed": seed, "folder": folder, "scores": scores})
    return {"label": label, "source": loaded.source.as_dict(), "runs": runs}, shown


def train_one(
    title: str,
    loaded: Checkpoint,
    folder: Path,
    seed: int,
    options: Options,
    settings: Settings,
    train: Images,
    test: Images,
    here: World,
) -> list[dict]:
    """Train and test a detector, or go on with it; return COCO's results."""
    from data.device import pick_precision
    from data.files import write_whole
    from data.run import Run
    from evaluate.checkpoints import digest
    from evaluate.detection.predict import predict
    from evaluate.detection.train import Trainer

    run = Run(folder)
    identity = {
        "protocol": options.protocol,
        "seed": seed,
        "network": digest(loaded.model),
        "images": _images_digest(train),
        "settings": settings.model_dump(mode="json"),
    }
    run.check(resume=True)
    if run.started():
        run.check_same(run.saved(), identity)
    if run.path(ANSWERS).is_file():
        return json.loads(run.path(ANSWERS).read_text("utf-8"))
    if here.first:
        run.start(identity)
    precision = pick_precision(options.precision, here.device)
    model = build_detector(loaded, len(train.classes), settings, seed)
    workers = options.loading_workers // here.local_size
    trainer = Trainer(model, train, settings, seed, run, here, precision, workers)
    trainer.resume()
    stop = trainer.train(title)
    if stop and trainer.step < settings.steps:
        say(f"stopped and saved after step {trainer.step}; the same command goes on from there")
        sys.exit(stop.exit_code)
    trainer.measure_norms()
    trainer.loader.close()
    answers = predict(trainer.model, test, settings, here, precision, workers, title)
    if here.first:
        write_whole(run.path(ANSWERS), json.dumps(answers))
    return answers


def build_detector(loaded: Checkpoint, classes: int, settings: Settings, seed: int) -> nn.Module:
    """Build a detector on a network; new layers' weights follow from the seed."""
    import torch
    from torchvision.models.resnet import ResNet

    from evaluate.detection.c4 import build_c4
    from evaluate.detection.fpn import build_fpn

    name = f"CHECKPOINT {loaded.source.checkpoint}"
    if not isinstance(loaded.model, ResNet):
        raise UserError(f"{name} is {loaded.source.arch}; detectors are built on ResNets.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.detector == "c4":
            return build_c4(loaded.model, classes, settings)
        return build_fpn(loaded.model, classes, settings, loaded.detector, name)


def _images_digest(images: Images) -> str:
    """Tells images and their boxes from others."""
    sha = hashlib.sha256()
    for name, objects in zip(images.names, images.objects, strict=True):
        sha.update(f"{name}\t".encode("utf-8", "surrogateescape"))
        sha.update(objects.boxes.tobytes() + objects.labels.tobytes())
    return sha.hexdigest()[:16]


# ---- what is told --------------------------------------------------------------------------------


def report(
    options: Options,
    settings: Settings,
    sentence: str,
    test: Images,
    rows: list[dict],
    answers: dict[str, list[dict]],
) -> Report:
    """Make JSON, table and page."""
    from data.gallery import Gallery
    from evaluate.detection import pictures
    from evaluate.detection.scores import detections_of

    described = [describe(row) for row in rows]
    columns = dict(COLUMNS)
    if "mask_ap" in described[0]["mean"]:
        columns |= MASK_COLUMNS
    table = [
        {"checkpoint": row["label"]}
        | {name: spread(row, key) for name, key in columns.items()}
        | {"runs": len(row["runs"])}
        for row in described
    ]
    protocol = f"{options.protocol} on {options.data}: {sentence}"
    shown = {label: detections_of(test, found) for label, found in answers.items()}
    gallery = Gallery(
        "Detections",
        [protocol, "As many detections as an image has objects, the highest scores first; green "
         "where one meets an object of its class with an IoU over .5."],
        ["truth", *shown],
        pictures.rows(test, shown),
        [{name: str(value) for name, value in row.items()} for row in table],
        pictures.figures({row["label"]: [r["scores"] for r in row["runs"]] for row in rows},
                         {row["label"]: [r["folder"] for r in row["runs"]] for row in rows}),
    )  # fmt: skip
    content = {
        "protocol": options.protocol,
        "data": options.data,
        "rule": sentence,
        "settings": settings.model_dump(),
        "test_images": len(test),
        "rows": described,
    }
    return Report(content, table, [sentence], gallery=gallery, rows=SHOWN_ROWS)


def describe(row: dict[str, Any]) -> dict[str, Any]:
    """A network's figures: of each run, their means, and their standard deviations."""
    from data.metrics import read_metrics

    runs = []
    for run in row["runs"]:
        losses = [line["loss"] for line in read_metrics(run["folder"] / "metrics.jsonl")]
        tenth = max(1, len(losses) // 10)
        scores: Scores = run["scores"]
        runs.append(
            {"seed": run["seed"], **scores.averages, "classes": scores.classes}
            | {"loss_first_tenth": float(np.mean(losses[:tenth]))}
            | {"loss_last_tenth": float(np.mean(losses[-tenth:]))}
        )
    values = {name: [run[name] for run in runs] for name in row["runs"][0]["scores"].averages}
    many = len(runs) > 1
    return {
        "label": row["label"],
        **row["source"],
        "mean": {name: float(np.mean(each)) for name, each in values.items()},
        "std": {n: float(np.std(each, ddof=1)) for n, each in values.items()} if many else None,
        "runs": runs,
    }


def spread(row: dict[str, Any], name: str) -> str:
    """A mean in percent, with the runs' standard deviation where there are several."""
    text = percent(row["mean"][name])
    return text if row["std"] is None else f"{text} ± {percent(row['std'][name])}"

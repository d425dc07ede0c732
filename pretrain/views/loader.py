"""Batches for pretraining: a deterministic order, an exact start at any step of an epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from data.backgrounds import BACKGROUNDS, open_source, read_chosen
from data.backgrounds.partner import Partners
from data.errors import UserError
from data.images.listing import list_images
from data.keys import Keys, texts_digest
from data.loading import EpochBatches
from data.loading import Loader as BatchLoader
from data.masks.read import MaskShards
from data.metrics import Metrics
from pretrain.views.dataset import Batch, ViewDataset
from pretrain.views.device_decode import DeviceDecoder
from pretrain.views.mask_rows import match_masks
from pretrain.views.recipes import PasteSettings, ViewRecipe
from pretrain.views.swaps import Swaps

_ORDER_STREAM = 1  # of the seed; 0 is the views', 2 the replacements'


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return an epoch's order, a permutation int64 (count,), from these numbers alone."""
    philox = np.random.Philox(key=[seed, _ORDER_STREAM], counter=[0, 0, 0, epoch])
    return np.random.Generator(philox).permutation(count)


class Loader(BatchLoader):
    """Iterates over the batches of an epoch, from its start step on; made by `build_loader`.

    A batch is a dict (B images, V views, S pixels a side, P = len(draws.PARAMETERS)):

    index        int64 (B,)             which image of `keys` each row shows
    label        int64 (B,)             only when labels were given
    image        uint8 (B, V, S, S, 3)  the crops, RGB; lies on `decode_on`'s device, if given
    mask         uint8 (B, V, S, S)     soft alpha, 255 where nothing is pasted; only with `paste`
    background   uint8 (B, V, S, S, 3)  only for backgrounds that are pictures
    saliency     uint8 (B, V, S, S)     each view's own mask; only with `saliency`
    parameters   float32 (B, V, P)      of the augmentation; columns: draws.PARAMETERS
    crops        float32 (B, V, 4)      what was cut: top, left, height, width, image's pixels
    unmoved      int64 (B,)             views that stay as they are, since the object's box, theirs
                                        or their partner's, is empty, below 2 % or above 90 %
    replaced                            list of str, "key: reason", of images that could not be
                                        read, and were replaced by others
    damaged                             list of str, "key: remark", of images damaged inside
    backgrounds_skipped                 list of str, unreadable backgrounds and why

    With `negative` there is one view more: another image's object on the first view's background.
    `DeviceAugment` makes views of it. With workers, one process loads one batch;
    the workers stay alive from epoch to epoch until `close`.

    keys : the images, in the order of `index`.
    masks : how many images have no mask, or a flat or poor one (used unpasted); None: no pasting.
    """

    def __init__(
        self,
        dataset: ViewDataset,
        requests: EpochBatches,
        workers: int = 0,
        pin_memory: bool = False,
        decoder: DeviceDecoder | None = None,
    ) -> None:
        super().__init__(dataset, requests, workers, pin_memory=pin_memory, keep_workers=True)
        self.keys, self.masks = dataset.keys, dataset.rows
        self.requests, self.decoder = requests, decoder

    def __len__(self) -> int:
        """Return the steps of a whole epoch; `iter` yields those from its start step on."""
        return self.requests.steps

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Let the next `iter` yield the steps of `epoch` from `start_step` on.

        The images of the skipped steps are not read.
        """
        self.requests.epoch, self.requests.start = epoch, start_step

    def describe_pastes(self) -> dict[str, str]:
        """Return what tells masks and backgrounds from others in their place.

        "masks": how they were made; "mask pixels": a digest of all of them; "backgrounds": one of
        their number and of the first that can be read. What is not used is left out.
        """
        told = {}
        if (shards := self.dataset.masks) is not None:
            told["masks"] = f"by {shards.method} {json.dumps(shards.parameters, sort_keys=True)}"
            told["mask pixels"] = shards.digest
        if (source := self.dataset.source) is not None:
            picture, _ = read_chosen(source, 0.0)
            facts = (str((len(source), picture.shape)).encode(), picture.tobytes())
            told["backgrounds"] = texts_digest(facts)
        return told

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            yield batch if self.decoder is None else self.decoder(batch)


def build_loader(
    images: str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    recipe: ViewRecipe,
    paste: PasteSettings | None = None,
    saliency: bool = False,
    negative: bool = False,
    batch_size: int,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    labels: Sequence[int] | np.ndarray | None = None,
    allow_missing_masks: bool = False,
    pin_memory: bool = False,
    keys: Keys | None = None,
    decode_on: torch.device | None = None,
) -> Loader:
    """Return the loader of a folder of images and its mask shards.

    Order and views follow from (seed, epoch, index, view) alone: the same for any number of
    workers, and after a resume. A step takes batch_size * world_size images of the epoch's
    permutation, of which rank r gets the r-th run; so several ranks together see what one process
    sees at the same global batch. An incomplete last step is dropped.

    images, masks : the image folder, and the folder of its mask shards (None without pasting).
    recipe, paste : the views, and the copy-paste augmentation. `paste` None or of probability 0:
        nothing is pasted.
    saliency : load the true mask of each view, pasted or not.
    negative : add a view of another image's object on the first view's background.
    batch_size : images a step in this process.
    seed : >= 0.
    workers : processes that load batches; 0 loads in this process.
    labels : a class number per image, in the order of the keys.
    allow_missing_masks : use images without a mask unpasted, instead of refusing.
    pin_memory : for transfer to CUDA.
    keys : the images, when they have been listed already.
    decode_on : decode plain JPEGs in this process, on this device (`device_decode`), and
        only the others in the workers; None: the workers decode all.

    Masks are read where something is pasted, for `saliency` and `negative`, and for object crops.

    UserError here: no images; a device that decodes no JPEGs, or is to decode views that show other
    images or moved objects; no masks though they are needed; fewer than two where partners are;
    masks of another folder; images without a mask, unless allowed. While iterating: a mask of
    another size of image; a damaged shard; a folder in which nothing can be read any more.
    """
    keys = list_images(images) if keys is None else keys
    if paste is not None and paste.paste_probability == 0:
        paste = None
    shards = rows = None
    pasting = paste if paste is not None and paste.needs_masks else None
    if why := _why_masks(pasting, saliency or negative, recipe.crop):
        if masks is None:
            raise UserError(why)
        shards = MaskShards(masks)
        coverage = (0.0, 1.0) if pasting is None else pasting.paste_coverage
        rows = match_masks(keys, shards, images, coverage)
        if rows.examples and not allow_missing_masks:
            raise UserError(
                f"{rows.complaint(images, masks)}; compute them, or allow missing masks to use "
                "these images unpasted."
            )
    partner = paste is not None and BACKGROUNDS[paste.background].partner
    if decode_on is not None and (
        negative or partner == "over" or (paste and paste.placement == "frame")
    ):
        raise UserError(
            "decode is 'device', which cuts whole views out of their own images alone; set it to "
            "'workers' for negatives on the same background, box-swap and placement = 'frame'."
        )
    swaps = None
    if partner or negative:
        swaps = Swaps(Partners(images, keys, shards, rows.rows), recipe)
    dataset = ViewDataset(
        images,
        keys,
        recipe,
        seed,
        paste,
        shards,
        rows,
        None if paste is None else open_source(paste.background, paste.background_pool),
        None if labels is None else np.asarray(labels, np.int64),
        keep_jpegs=decode_on is not None,
        saliency=saliency,
        swaps=swaps,
        negative=negative,
    )
    requests = EpochBatches(
        lambda epoch: epoch_order(seed, epoch, len(keys)),
        len(keys),
        batch_size,
        rank=rank,
        world_size=world_size,
    )
    decoder = None if decode_on is None else DeviceDecoder(dataset, decode_on)
    return Loader(dataset, requests, workers, pin_memory, decoder)


def _why_masks(paste: PasteSettings | None, looks: bool, crop: str) -> str:
    """Return what needs masks and the remedy, or nothing where they are not needed."""
    give = "give the folder of the mask shards"
    if looks:
        return f"a method that looks at the saliency needs masks; {give}."
    if crop == "object":
        return f"crop = 'object' needs masks; {give}."
    if paste is not None:
        what = f"copy-paste with probability {paste.paste_probability} needs masks"
        return f"{what}; {give}, or the probability 0."
    return ""


# ---- what became of images and views that could not be shown as they were to be ------------------


_WRITTEN = 10  # so many are named in metrics.jsonl
_NAMED = 3  # so many on the terminal

_KINDS = {  # name in metrics.jsonl: the lists of a batch, and what is said of them
    "replaced": (
        ("replaced", "backgrounds_skipped"),
        "unreadable images were replaced",
    ),
    "damaged": (
        ("damaged",),
        "images are damaged inside, and shown as far as they could be decoded",
    ),
}


class Remarks:
    """An epoch's, of this process; each image once, however often it was drawn."""

    def __init__(self) -> None:
        self._texts: dict[str, set[str]] = {name: set() for name in _KINDS}
        self._unmoved = 0

    def add(self, batch: dict) -> None:
        """Note what a batch of the loader says."""
        for name, (lists, _) in _KINDS.items():
            for entry in lists:
                self._texts[name].update(batch[entry])
        self._unmoved += int(batch["unmoved"].sum())

    def tell(
        self, gather: Callable[[list], list], log: Metrics, where: dict[str, int]
    ) -> list[str]:
        """Return sentences for the terminal, of all processes, and write a line of each kind.

        gather : joins the lists of all processes; each of them calls it.
        where : step and epoch.
        """
        sentences = []
        for name, (_, what) in _KINDS.items():
            texts = sorted(set(gather(sorted(self._texts[name]))))
            if texts:
                log.write(where | {name: len(texts), "reasons": texts[:_WRITTEN]})
                some = "; ".join(texts[:_NAMED]) + ("; ..." if len(texts) > _NAMED else "")
                sentences.append(f"{len(texts)} {what}: {some}")
        unmoved = sum(gather([self._unmoved]))
        if unmoved:
            log.write(where | {"unmoved": unmoved})
            sentences.append(
                f"{unmoved} views stay as they are: the object's box, theirs or their partner's, "
                "is empty, below 2 % or above 90 % of the image"
            )
        return sentences

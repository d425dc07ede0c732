"""RBD, MC and GS on one image: from pixels to maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.interrupts import uninterrupted
from saliency.methods import gs as geodesic
from saliency.methods import mc as markov_chain
from saliency.methods import rbd as robust_background
from saliency.regions import contacts as regions
from saliency.regions.frame import inside_frame
from saliency.regions.refine import refine
from saliency.regions.region_graph import RegionGraph
from saliency.regions.slic import slic_epfl

METHODS = ("rbd", "mc", "gs")


FINEST = 16.0  # pixels of the smallest superpixel that `auto` asks for


@dataclass(frozen=True)
class SuperpixelCount:
    """How many superpixels to ask for.

    Attributes
    ----------
    number : int or None
        A number an image, or None for `pixels_each`.
    pixels_each : float or None
        Pixels a superpixel. None, with `number` None too, is the authors' choice: one in 600 pixels
        for RBD and GS, 250 an image for MC.
    at_least, at_most : int or None
        Bounds on the authors' choice for RBD and GS, which was made for photographs of some 400 x
        300 pixels. Of a thumbnail it would make a few dozen superpixels, too coarse for any object;
        beyond, time grows with the number's square and cube. No superpixel is cut below
        `FINEST` pixels.
    """

    number: int | None = None
    pixels_each: float | None = None
    at_least: int | None = None
    at_most: int | None = None

    @classmethod
    def parse(cls, text: str) -> "SuperpixelCount":
        """Read 'auto', 'authors', a number an image ('250') or pixels a superpixel ('600px').

        'auto' is the authors' choice from 200 to 600 superpixels, 120,000 to 360,000 pixels.
        """
        if text == "auto":
            return cls(at_least=200, at_most=600)
        if text == "authors":
            return cls()
        if text.endswith("px"):
            pixels = float(text[:-2])
            if not 1 <= pixels < np.inf:
                raise ValueError(text)
            return cls(pixels_each=pixels)
        number = int(text)
        if number < 1:
            raise ValueError(text)
        return cls(number=number)

    def of_area(self, area: int) -> "SuperpixelCount":
        """The same wish for an image of so many pixels, both ways of asking filled in."""
        if self.number is not None:
            return SuperpixelCount(self.number, area / self.number)
        if self.pixels_each is not None:
            return SuperpixelCount(max(1, round(area / self.pixels_each)), self.pixels_each)
        pixels = 600.0
        if self.at_most:
            pixels = max(pixels, area / self.at_most)
        if self.at_least:
            pixels = min(pixels, max(FINEST, area / self.at_least))
        return SuperpixelCount(250, pixels)


@dataclass(frozen=True)
class Maps:
    """Saliency maps of one image.

    Attributes
    ----------
    by_method : dict of float32 (H, W) in [0, 1]
    flat : bool
        The image has one colour everywhere, so nothing stands out and the maps are zero.
    """

    by_method: dict[str, np.ndarray]
    flat: bool


@uninterrupted()
def saliency_maps(
    image: np.ndarray,
    methods: Sequence[str],
    superpixels: SuperpixelCount | None = None,
    remove_frame: bool = False,
    follow_edges: bool = False,
) -> Maps:
    """Compute several methods in one pass; RBD and GS share their superpixels.

    Parameters
    ----------
    image : uint8 (H, W, 3)
        RGB, of any size from 1 x 1.
    methods : sequence of {"rbd", "mc", "gs"}
    superpixels : SuperpixelCount, optional
        The authors' choice unless given.
    remove_frame : bool
        Leave an artificial frame out of the computation and give it saliency 0.
    follow_edges : bool
        Refine the maps by a guided filter (`saliency.regions.refine`); the authors do not.

    Returns
    -------
    Maps

    Raises
    ------
    ValueError
        The array is no uint8 RGB image, or a method is unknown.

    Notes
    -----
    Ctrl-C takes effect after the image. What numba compiles loads the types of its results by
    Python code, in which a signal's handler may run, and crashes the process where that raises.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"need a uint8 (H, W, 3) RGB image, got {image.dtype} {image.shape}")
    unknown = set(methods) - set(METHODS)
    if unknown:
        raise ValueError(f"unknown method {sorted(unknown)[0]!r}: choose from {METHODS}")
    if remove_frame:
        within = inside_frame(image)
        inner = saliency_maps(image[within], methods, superpixels, follow_edges=follow_edges)
        whole = {}
        for name, part in inner.by_method.items():
            whole[name] = np.zeros(image.shape[:2], np.float32)
            whole[name][within] = part
        return Maps(whole, inner.flat)

    image = np.ascontiguousarray(image)
    if (image == image[0, 0]).all():
        zero = np.zeros(image.shape[:2], np.float32)
        return Maps({name: zero.copy() for name in methods}, flat=True)
    asked = (superpixels or SuperpixelCount()).of_area(image.shape[0] * image.shape[1])
    maps = {}
    graph = None
    for name in methods:
        if name == "mc":
            segments = slic_epfl(image, asked.number)
            values = markov_chain.superpixel_saliency(segments, image)
        else:
            if graph is None:
                graph = RegionGraph.of(image, asked.pixels_each)
            segments = graph.superpixels
            method = robust_background if name == "rbd" else geodesic
            values = method.superpixel_saliency(graph)
        maps[name] = regions.paint(segments, values.astype(np.float32))
        if follow_edges:
            maps[name] = refine(maps[name], image)
    return Maps(maps, flat=False)


def compute(
    image: np.ndarray,
    methods: Sequence[str],
    superpixels: SuperpixelCount,
    remove_frame: bool,
    follow_edges: bool,
) -> dict[str, np.ndarray]:
    """What the batch stage calls for each image; see `saliency_maps`."""
    return saliency_maps(image, methods, superpixels, remove_frame, follow_edges).by_method


def kernels_are_compiled() -> bool:
    """Whether an earlier process has left compiled kernels for this one."""
    from saliency.regions import slic

    folder = Path(slic._k_means.stats.cache_path)
    return any(folder.glob("slic._k_means-*.nbi"))


def compile_kernels(methods: Sequence[str]) -> None:
    """Compile what the methods need, or load it, before many processes all do so at once."""
    sample = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    # Compiling takes long and is Python code nearly all the time: Ctrl-C may end it.
    make = saliency_maps if kernels_are_compiled() else saliency_maps.__wrapped__
    make(sample, methods)

"""Methods per pixel on one image: from pixels to maps."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.errors import UserError
from data.processes import uninterrupted
from saliency.methods import METHODS
from saliency.methods.protocol import Method, PixelSettings, superpixel_count
from saliency.regions import slic
from saliency.regions.frame import inside_frame
from saliency.regions.refine import check_contrib, refine
from saliency.regions.region_graph import RegionGraph
from saliency.regions.superpixels import Superpixels, paint


class Chosen(NamedTuple):
    """A method per pixel and its settings; picklable, and the same in workers elsewhere."""

    method: Method
    settings: PixelSettings


def choose(names: Iterable[str], values: Mapping[str, Any] | None = None) -> dict[str, Chosen]:
    """Return registered methods with their settings.

    values : of settings, each given to the methods that have it.

    Raises UserError: a name that is not registered or is a network's.
    """
    known = {name: method for name, method in METHODS.items() if not method.by_network}
    chosen = {}
    for name in names:
        if name not in known:
            raise UserError(f"no method per pixel is {name!r}; choose from {', '.join(known)}.")
        method = known[name]
        own = {k: v for k, v in (values or {}).items() if k in method.record.model_fields}
        chosen[name] = Chosen(method, method.record(**own))
    return chosen


class Context:
    """An image, and what methods share of it, computed when the first asks.

    image : uint8 (H, W, 3) RGB, contiguous, of at least two colours.
    """

    def __init__(self, image: np.ndarray, chosen: Mapping[str, Chosen]) -> None:
        self.image = image
        self._chosen = chosen
        self._shared = next(iter(chosen.values())).settings
        area = image.shape[0] * image.shape[1]
        self._number, self._pixels_each = superpixel_count(self._shared.superpixels, area)
        self._maps: dict[str, np.ndarray] = {}

    @cached_property
    def graph(self) -> RegionGraph:
        """The superpixels of RBD and GS, with their graph."""
        return RegionGraph.of(self.image, self._pixels_each)

    @cached_property
    def superpixels(self) -> Superpixels:
        """The superpixels of MC."""
        return slic.slic_epfl(self.image, self._number)

    def paint(self, superpixels: Superpixels, values: np.ndarray) -> np.ndarray:
        """Return float32 (H, W) that has each superpixel's value, (N,)."""
        return paint(superpixels, values.astype(np.float32))

    def saliency(self, name: str) -> np.ndarray:
        """Return the map, float32 (H, W), by this or another method, for methods that join maps."""
        if name not in self._maps:
            if name not in self._chosen:
                self._chosen = {**self._chosen, **choose([name], dict(self._shared))}
            method, settings = self._chosen[name]
            self._maps[name] = np.asarray(method.load().compute(self, settings), np.float32)
        return self._maps[name]


@uninterrupted()
def compute_maps(image: np.ndarray, chosen: Mapping[str, Chosen]) -> dict[str, np.ndarray]:
    """Compute the chosen methods in one pass; those that share superpixels cut them once.

    image : uint8 (H, W, 3) RGB, of any size from 1 x 1.
    chosen : by `choose`; what all methods share is set alike in all of them.

    Returns each method's map, float32 (H, W) in [0, 1]; zero where the image has a single colour.

    Raises ValueError: the array is no uint8 RGB image.

    Ctrl-C takes effect after the image, because numba's kernels do not survive it.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"need a uint8 (H, W, 3) RGB image, got {image.dtype} {image.shape}")
    shared = next(iter(chosen.values())).settings
    within = inside_frame(image) if shared.remove_frame else (slice(None), slice(None))
    inside = np.ascontiguousarray(image[within])
    maps = {name: np.zeros(image.shape[:2], np.float32) for name in chosen}
    values = inside.ravel()
    if (values[3:] == values[:-3]).all():  # each pixel is as the one before
        return maps
    context = Context(inside, chosen)
    for name, whole in maps.items():
        saliency = context.saliency(name)
        whole[within] = refine(saliency, inside) if shared.follow_edges else saliency
    return maps


def saliency_maps(
    image: np.ndarray,
    methods: Iterable[str],
    superpixels: str = "authors",
    remove_frame: bool = False,
    follow_edges: bool = False,
) -> dict[str, np.ndarray]:
    """Compute registered methods per pixel; arguments as `saliency-compute` has them.

    image, and what is returned: see `compute_maps`.

    Raises UserError: a method that is not registered. ValueError: another argument is wrong.
    """
    values = {
        "superpixels": superpixels,
        "remove_frame": remove_frame,
        "follow_edges": follow_edges,
    }
    return compute_maps(image, choose(methods, values))


def compile_kernels(chosen: Mapping[str, Chosen], say: Callable[[str], None] = print) -> None:
    """Compile what the methods need, or load it, before many processes all do so at once.

    say : is told where compiling takes long.

    Raises UserError: `follow_edges` is set, and OpenCV cannot do that.
    """
    if any(each.settings.follow_edges for each in chosen.values()):
        check_contrib()
    sample = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    compiled = any(Path(slic._k_means.stats.cache_path).glob("slic._k_means-*.nbi"))
    if compiled:
        compute_maps(sample, chosen)
    else:  # mostly Python code: Ctrl-C may end it
        say("Compiling the kernels, once after installation (about 25 s) ...")
        compute_maps.__wrapped__(sample, chosen)

"""Against maps that the authors' own programs made of ECSSD, where they are at hand."""

import numpy as np
import pytest
from PIL import Image
from saliency.unsupervised import METHODS, saliency_maps

from data.images.decode import decode


@pytest.fixture(scope="module")
def ours(shared_data):
    """Our maps of every fiftieth photograph, float64 in [0, 255], by number and method."""
    photographs = sorted((shared_data / "ecssd" / "images").glob("*.jpg"))[::50]
    if not photographs:
        pytest.skip("ECSSD is not on this machine")
    maps = {path.stem: saliency_maps(decode(path).image, METHODS).by_method for path in photographs}
    return {
        method: {stem: by[method].astype(np.float64) * 255 for stem, by in maps.items()}
        for method in METHODS
    }


@pytest.mark.parametrize(("method", "most"), [("rbd", 0.005), ("gs", 0.005), ("mc", 0.01)])
def test_maps_are_the_authors(method, most, ours, shared_data):
    folder = shared_data / "ecssd" / "author_maps" / method
    theirs = {}
    for stem in ours[method]:
        with Image.open(folder / f"{stem}.png") as picture:
            theirs[stem] = np.asarray(picture).astype(np.float64)
    # A copy of these maps is in circulation that was scaled to 255 twice and cut off at 255: almost
    # all of its pixels are black or white. Ours, treated alike, must still equal it.
    between = np.mean([((values > 0) & (values < 255)).mean() for values in theirs.values()])
    scale = 255 if between < 0.4 else 1
    differences, correlations = [], []
    for stem, values in theirs.items():
        mine = np.clip(np.floor(ours[method][stem] * scale + 0.5), 0, 255)
        differences.append(np.abs(mine - values).mean() / 255)
        if values.std() and mine.std():
            correlations.append(np.corrcoef(mine.ravel(), values.ravel())[0, 1])
    assert np.mean(differences) <= most
    assert np.median(correlations) >= 0.995

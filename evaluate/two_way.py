"""What explains a network's features: the object, the background, or how they go together?

Objects i and backgrounds j are drawn independently, and every object is pasted on every background:
a grid of I x J composites with features f_ij in R^D. As for any function of two independent
variables (Hoeffding 1948; Sobol 1993),

    f_ij = m + a_i + b_j + c_ij

with m the mean, a_i and b_j what remains of f, averaged over all backgrounds or all objects, and
c_ij the rest. The terms are uncorrelated, so the variance (the trace of the covariance) is the sum

    V = V_object + V_background + V_interaction.

**Estimators.** Half the mean squared distance of two composites that share nothing is V; of two
that share the background, V_object + V_interaction (a difference f_ij - f_lj is free of b); of two
that share the object, V_background + V_interaction. Three means over pairs, D_apart, D_background
and D_object, thus give

    V_object = D_apart - D_object,  V_background = D_apart - D_background,
    V_interaction = D_object + D_background - D_apart.

They equal the analysis of variance's (MS_a - MS_c) / J, (MS_b - MS_c) / I and MS_c.

**Bias.** The means run over pairs of different objects or backgrounds only (U-statistics), so the
three variances are unbiased for every I and J >= 2. (Shares of the sums of squares are not: a
background's share in them is too large by V_interaction / J and the like.) A fraction V_x / V is a
ratio of unbiased estimates: its bias falls as 1/I + 1/J. A fraction near 0 may come out below 0; it
is not clipped, which would make it biased.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evaluate.intervals import Estimate, spread, weights

TERMS = ("object", "background", "interaction")


def variances(
    features: np.ndarray, w: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three variances of the module's text, each (B,).

    features : (I, J, D)
    w, v : (B, I) and (B, J), how often each object and background is counted; ones for the grid
        itself. Copies of one object are never taken for two.
    """
    count, behind, dim = features.shape
    f = np.asarray(features, np.float64)
    f = f - f.mean((0, 1))  # distances do not change, and rounding matters less
    squares = np.square(f).sum(2)
    of_object = (v @ f.transpose(1, 0, 2).reshape(behind, -1)).reshape(-1, count, dim)
    of_background = (w @ f.reshape(count, -1)).reshape(-1, behind, dim)
    of_all = np.einsum("bi,bid->bd", w, of_object)
    w1, v1, pairs_w, pairs_v = w.sum(1), v.sum(1), _pairs(w), _pairs(v)
    # sums over ordered pairs of |f - f'|^2 / 2, by sum_jk v_j v_k |f_j - f_k|^2 / 2
    # = (sum v) sum v |f|^2 - |sum v f|^2
    within_object = v1[:, None] * (v @ squares.T) - np.square(of_object).sum(2)  # (B, I)
    within_background = w1[:, None] * (w @ squares) - np.square(of_background).sum(2)  # (B, J)
    everything = w1 * v1 * np.einsum("bi,ij,bj->b", w, squares, v) - np.square(of_all).sum(1)
    same_object = (w * within_object).sum(1) / (w1 * pairs_v)
    same_background = (v * within_background).sum(1) / (v1 * pairs_w)
    apart = everything - (w**2 * within_object).sum(1) - (v**2 * within_background).sum(1)
    apart /= pairs_w * pairs_v
    return apart - same_object, apart - same_background, same_object + same_background - apart


def _pairs(w: np.ndarray) -> np.ndarray:
    """How many ordered pairs of different objects weights (B, I) count: (B,)."""
    return np.square(w.sum(1)) - np.square(w).sum(1)


def fractions(features: np.ndarray, w: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """The variances as fractions of their sum, by `TERMS`; NaN where nothing varies.

    Arguments as above.
    """
    parts = np.stack(variances(features, w, v))
    total = parts.sum(0)
    varies = total > 1e-12 * np.square(features).mean() * features.shape[2]
    shares = np.where(varies, parts / np.where(varies, total, 1), np.nan)
    return dict(zip(TERMS, shares, strict=True))


class Distances(NamedTuple):
    """Squared distances from each composite (i, j) to its relatives, of features (I, J, D).

    same_object : (I, J, J), to (i, k); same_background : (I, J, I), to (l, j)
    scale : the features' mean square
    """

    same_object: np.ndarray
    same_background: np.ndarray
    scale: float

    @classmethod
    def of(cls, features: np.ndarray) -> Distances:
        """Measure them."""
        f = np.asarray(features, np.float64)
        same_object = np.stack([_pairwise(each) for each in f])
        same_background = np.stack([_pairwise(each) for each in f.transpose(1, 0, 2)])
        scale = np.square(f).sum(2).mean()
        return cls(same_object, same_background.transpose(1, 0, 2), scale)


def _pairwise(f: np.ndarray) -> np.ndarray:
    squares = np.square(f).sum(1)
    return np.maximum(squares[:, None] + squares - 2 * f @ f.T, 0)


def abx(distances: Distances, w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How often the same object is nearer than the same background, (B,).

    For X = (i, j), A = (i, k) on another background and B = (l, j) with another object on the same:
    the share of all such triples with |X - A| < |X - B|, ties half (the ABX test of Schatz et al.,
    2013). 1: features follow the object; 0: the background; it is a U-statistic, so unbiased.
    w, v as of `variances`.
    """
    total = np.zeros(len(w))
    pairs = zip(distances.same_object, distances.same_background, strict=True)
    for i, (a, b) in enumerate(pairs):
        # nearer[j, l, k]; a triple needs k != j and l != i
        difference = b[:, :, None] - a[:, None, :]
        slack = 1e-9 * (a.max() + b.max())
        nearer = 0.5 * (difference > slack) + 0.5 * (difference >= -slack)
        nearer[np.arange(len(a)), :, np.arange(len(a))] = 0
        nearer[:, i] = 0
        counted = (nearer.reshape(-1, a.shape[1]).astype(np.float32) @ v.T.astype(np.float32)).T
        counted = counted.reshape(len(w), len(a), -1)
        total += w[:, i] * np.einsum("bjl,bj,bl->b", counted, v, w, optimize=True)
    return total / (_pairs(w) * _pairs(v))


def swap_shares(distances: Distances, w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Of what changes when either is swapped, the share due to the object: (B, I).

    With d_o the mean squared distance from the composites of object i to those of other objects on
    the same backgrounds, and d_b to those of the same object on other backgrounds: d_o / (d_o +
    d_b). Over the population its two parts are V_object and V_background, each plus V_interaction.
    NaN where neither changes anything. w, v as of `variances`.
    """
    same_object, same_background, scale = distances
    others, behind = w.shape[1], v.shape[1]
    by_background = np.einsum("ijk,bj,bk->bi", same_object, v, v, optimize=True)
    by_background /= _pairs(v)[:, None]
    rows = (v @ same_background.transpose(1, 0, 2).reshape(behind, -1)).reshape(-1, others, others)
    left = w.sum(1)[:, None] - w  # other objects than i
    by_object = np.einsum("bil,bl->bi", rows, w) / (v.sum(1)[:, None] * np.maximum(left, 1))
    total = by_object + by_background
    return np.where(total > 1e-12 * scale, by_object / np.maximum(total, 1e-300), np.nan)


class Grid(NamedTuple):
    """A model's figures on a grid: `value` each once, `resampled` each (RESAMPLES,).

    The resamples draw objects and backgrounds anew, with replacement and independently (the
    pigeonhole bootstrap: McCullagh 2000, Owen 2007); by their seed the same for all models, so that
    differences of two models are paired. It is conservative: it counts the interaction's share of
    the error in both directions.
    """

    value: dict[str, float]
    resampled: dict[str, np.ndarray]
    shares: np.ndarray  # (I,) swap share of each object

    def estimate(self, name: str) -> Estimate:
        """A figure with its interval."""
        return Estimate(self.value[name], *spread(self.resampled[name]))

    def difference(self, other: Grid, name: str) -> Estimate:
        """A figure less another model's on the same grid, with its paired interval."""
        difference = self.resampled[name] - other.resampled[name]
        return Estimate(self.value[name] - other.value[name], *spread(difference))


def measure(features: np.ndarray, seed: int = 0) -> Grid:
    """All figures of a grid of features (I, J, D): the fractions, `abx` and `swap`."""
    count, behind, _ = features.shape
    ones, distances = (np.ones((1, count)), np.ones((1, behind))), Distances.of(features)

    def figures(w: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
        shares = swap_shares(distances, w, v)
        there = np.where(np.isnan(shares), 0, w)
        swap = (np.nan_to_num(shares) * there).sum(1) / np.maximum(there.sum(1), 1e-300)
        return {
            **fractions(features, w, v),
            "abx": abx(distances, w, v),
            "swap": np.where(there.sum(1) > 0, swap, np.nan),
        }

    drawn = zip(weights(count, (seed, 0)), weights(behind, (seed, 1)), strict=False)
    blocks = [figures(w, v) for w, v in drawn]
    value = {name: float(values[0]) for name, values in figures(*ones).items()}
    resampled = {name: np.concatenate([block[name] for block in blocks]) for name in value}
    return Grid(value, resampled, swap_shares(distances, *ones)[0])

"""Means over runs and cases that are fully crossed: their errors, and what their variance is of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from pipeline.statistics.definitions import Bounds
from pipeline.statistics.results import Interval, Variance

Values = NDArray[np.float64]
Groups = NDArray[np.int64]  # of each case (C,), equal for cases of one group
CONFIDENCE = 0.95
FEW_SEEDS = 5
FURTHEST = 80.0  # on a log scale: beyond it numbers end before intervals do


def by_group(values: Values, groups: Groups | None) -> Values:
    """Values (..., C) of cases as (..., G) of groups of cases, in the order of their first cases.
    Errors over cases are of these: a patient with five photographs is not five cases.

        z[..., g] = mean + (G / C) * sum over c in g of (y[..., c] - mean),

    mean being y's over its C cases. groups: (C,); None where each case is a group of its own, and z
    is y. Over its G groups z has the mean of y. It is linear in y. Its variance (n - 1) over G
    is the cluster-robust one of the mean, G / (G - 1) * sum over g of (sum over c in g of
    (y - mean))^2 / C^2, so what is right for independent cases is right for independent groups.
    Source: Cameron, Gelbach and Miller 2011, section 2.1, of a regression on a constant.
    """
    if groups is None:
        return values
    _, first, labels = np.unique(groups, return_index=True, return_inverse=True)
    if len(first) == values.shape[-1]:
        return values
    place = np.argsort(np.argsort(first))[labels]  # of each case's group, by its first case
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(first)))
    mean = values.mean(axis=-1, keepdims=True)
    sums = np.add.reduceat((values - mean)[..., order], starts, axis=-1)
    return np.asarray(mean + len(first) / values.shape[-1] * sums, dtype=np.float64)


def count_groups(groups: Groups) -> int:
    """How many groups the cases are of."""
    return len(np.unique(groups))


class Errors(NamedTuple):
    """Squared standard errors of a mean over S seeds and C cases, each of shape (...)."""

    seeds: Values  # a mean over S seeds, on these cases
    cases: Values  # a mean over C cases, with seeds' noise taken off; at least 0

    @property
    def total(self) -> Values:
        """The two-way standard error."""
        return np.sqrt(self.seeds + self.cases)

    def freedom(self, seeds: int, cases: int) -> Values:
        """Degrees of freedom of the sum, S - 1 where the cases add nothing (Satterthwaite 1946).

        S - 1 throughout would be safe and too wide: with eight seeds it covers 98 %. With fewer
        than five seeds it stands all the same: Satterthwaite's number is then itself too uncertain,
        and intervals by it cover 87 % with two seeds, 92 % with three.
        """
        if seeds < FEW_SEEDS:
            return np.full(self.seeds.shape, float(seeds - 1))
        spread = self.seeds**2 / (seeds - 1) + self.cases**2 / (cases - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = (self.seeds + self.cases) ** 2 / spread
        return np.where(spread > 0, freedom, seeds - 1)


def two_way(values: Values) -> Errors:
    """Errors of the mean of values (..., S, C) of seeds and of cases or groups of cases (by_group),
    both axes drawn at random, S and C at least 2.

    With seed, case and residual effects the mean's variance is s2_seed / S + s2_case / C +
    s2_rest / (S C). The seed means' variance over S estimates the first and the last; the case
    means' variance over C less the residual mean square over S C the second, 0 where negative.
    Source: the crossed two-factor random model (Searle, Casella and McCulloch 1992, ch. 4); the
    same sum as two-way clustering (Cameron, Gelbach and Miller 2011, eq. 2.11).
    """
    count_seeds, count_cases = values.shape[-2:]
    by_seed, by_case = values.mean(axis=-1), values.mean(axis=-2)
    grand = by_seed.mean(axis=-1)
    residuals = values - by_seed[..., :, None] - by_case[..., None, :] + grand[..., None, None]
    freedom = (count_seeds - 1) * (count_cases - 1)
    rest = np.square(residuals).sum(axis=(-2, -1)) / freedom
    seeds = by_seed.var(axis=-1, ddof=1) / count_seeds
    cases = by_case.var(axis=-1, ddof=1) / count_cases - rest / (count_seeds * count_cases)
    return Errors(seeds, np.maximum(cases, 0.0))


def around(mean: float, reach: float, bounds: Bounds | None = None) -> Interval:
    """mean +- reach; within `bounds`, which hold the mean, on the scale of how it lies to them, to
    first order (the delta method), and back. With 0 and 1:

        logit(mean) +- reach / (mean (1 - mean)),     with 0 alone:  log(mean) +- reach / mean.

    No end leaves the bounds, and the one at the nearer bound is the shorter one, as skewed scores
    have it: docs/simulation.md has what each scale holds. A mean that is at a bound has no such
    scale: its plain interval ends there.
    Source: the logit interval of Brown, Cai and DasGupta 2001, of a proportion.
    """
    if bounds is None or reach == 0:
        return Interval(low=mean - reach, high=mean + reach)
    low, high = bounds
    above = mean - low
    if high is None and above > 0:
        factor = float(np.exp(min(reach / above, FURTHEST)))
        return Interval(low=low + above / factor, high=low + above * factor, scale="log")
    if high is not None and low < mean < high:
        span = high - low
        middle, half = logit(above / span), reach * span / (above * (high - mean))
        ends = low + span * expit([middle - half, middle + half])
        return Interval(low=float(ends[0]), high=float(ends[1]), scale="logit")
    highest = mean + reach if high is None else min(high, mean + reach)
    return Interval(low=max(low, mean - reach), high=highest)


def mean_interval(values: Values, bounds: Bounds | None = None) -> Interval:
    """Of the mean of values (S, C) over seeds and cases or groups of cases: +- the t quantile times
    the two-way error, within the metric's bounds."""
    errors = two_way(values)
    freedom = errors.freedom(*values.shape)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * errors.total)
    return around(float(values.mean()), reach, bounds)


def case_interval(values: Values, bounds: Bounds | None = None) -> Interval:
    """Of the mean of values (C,) over cases alone, or groups of cases, C at least 2: Student's,
    within the metric's bounds."""
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return around(float(values.mean()), reach, bounds)


def variance_components(values: Values) -> Variance:
    """The split of a score's variance; values (V, S, C) of single cases, all at least 2.

    Score = mean + variant + seed within variant + case + rest, by the analysis of variance's
    estimators (expected mean squares), 0 where negative. `rest` holds how much a case suits a
    variant or a run.
    """
    variants, seeds, cases = values.shape
    grand = values.mean()
    by_variant, by_run, by_case = values.mean(axis=(1, 2)), values.mean(axis=2), values.mean((0, 1))
    mean_square_variant = seeds * cases * by_variant.var(ddof=1)
    mean_square_seed = cases * by_run.var(axis=1, ddof=1).mean()
    mean_square_case = variants * seeds * by_case.var(ddof=1)
    residuals = values - by_run[:, :, None] - by_case + grand
    rest = np.square(residuals).sum() / ((variants * seeds - 1) * (cases - 1))
    return Variance(
        variant=max(0.0, float(mean_square_variant - mean_square_seed) / (seeds * cases)),
        seed=max(0.0, float(mean_square_seed - rest) / cases),
        case=max(0.0, float(mean_square_case - rest) / (variants * seeds)),
        rest=float(rest),
    )

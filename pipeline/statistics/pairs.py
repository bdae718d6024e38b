"""Two variants at a time: tests on the seeds' means, family-wise over all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from pipeline.statistics.crossed import Values, mean_interval, two_way_p
from pipeline.statistics.results import BaselineDifference, Interval, Pair, Pairing

LEVEL = 0.05
THRESHOLD = 0.2  # correlation of seed means from which on seeds pair the variants
FEWEST_SEEDS = 7  # below, comparisons are descriptive
MOST_FLIPS = 2**14  # sign flips of up to 14 seeds are all taken, of more so many are drawn


def choose_pairing(means: Values) -> Pairing:
    """The rule that was fixed beforehand, on means (V, S): V at least 2, S at least 2.

    Variants whose means do not vary have no correlation and are passed over; if all are so, seeds
    do not pair.
    """
    varying = means[np.ptp(means, axis=1) > 0]
    correlation = None
    if len(varying) > 1:
        matrix = np.corrcoef(varying)
        correlation = float(matrix[np.triu_indices(len(varying), 1)].mean())
    paired = correlation is not None and correlation >= THRESHOLD
    return Pairing(
        correlation=correlation,
        threshold=THRESHOLD,
        paired=paired,
        test="exact sign-flip test on paired seed means, Holm over all pairs"
        if paired
        else "Tukey's honestly significant difference on seed means",
    )


def compare_pairs(
    values: Values, names: Sequence[str], paired: bool, *, margin: float, draws: int, seed: int
) -> list[Pair]:
    """Every two variants of values (V, S, C), V and S at least 2, in the order of `names`.

    A test of seed means asks whether the variants differ on these very cases, and finds what a
    handful of lucky cases make; so the two-way error's p-value, which asks it of all such cases,
    must agree: the adjusted p-value is the larger of both, each adjusted over all pairs (an
    intersection-union test). Equivalence likewise.
    """
    means = values.mean(axis=2)  # (V, S)
    variants, seeds = means.shape
    places = list(combinations(range(variants), 2))
    first, second = np.array(places).T
    differences = means[first] - means[second]  # (pairs, S)
    by_case = values[first] - values[second]  # (pairs, S, C)
    two_way = two_way_p(by_case)
    p_values = exact = None
    if paired:
        p_values, exact = paired_t(differences), sign_flip(differences, seed)
        of_seeds = holm(exact)
    else:
        of_seeds = tukey(means)[first, second]
    adjusted = np.maximum(of_seeds, holm(two_way))
    equivalence = holm(
        [
            max(_two_one_sided(means[a], means[b], paired, margin), _two_way_equal(each, margin))
            for (a, b), each in zip(places, by_case, strict=True)
        ]
    )
    wins, reach = _superiority(means, places, paired, draws, seed)
    descriptive = seeds < FEWEST_SEEDS
    return [
        Pair(
            first=names[a],
            second=names[b],
            difference=float(differences[place].mean()),
            interval=mean_interval(by_case[place]),
            p_value=None if p_values is None else float(p_values[place]),
            exact_p_value=None if exact is None else float(exact[place]),
            two_way_p_value=float(two_way[place]),
            adjusted_p_value=float(adjusted[place]),
            shown=None if descriptive else bool(adjusted[place] < LEVEL),
            equivalence_p_value=float(equivalence[place]),
            equivalent=None if descriptive else bool(equivalence[place] < LEVEL),
            superiority=float(wins[place]),
            superiority_interval=reach[place],
        )
        for place, (a, b) in enumerate(places)
    ]


def paired_t(differences: Values) -> Values:
    """scipy's paired t test (ttest_rel) of each row of differences (pairs, S); 1 where all are 0,
    0 where all are the same and not 0."""
    p_values = np.where(differences.any(axis=1), 0.0, 1.0)
    varying = np.ptp(differences, axis=1) > 0
    if varying.any():
        found = differences[varying]
        p_values[varying] = stats.ttest_rel(found, np.zeros_like(found), axis=1).pvalue
    return p_values


def sign_flip(differences: Values, seed: int = 0) -> Values:
    """The two-sided sign-flip test of each row of differences (pairs, S), exact up to 14 seeds;
    `seed` draws the flips of more."""
    test = stats.permutation_test(
        (differences,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        n_resamples=MOST_FLIPS,
        vectorized=True,
        axis=1,
        rng=np.random.default_rng(seed),
    )
    return np.asarray(np.minimum(test.pvalue, 1.0), dtype=np.float64)


def tukey(means: Values) -> Values:
    """p-values (V, V) of scipy's tukey_hsd on means (V, S); 0 or 1 where no mean varies."""
    if not np.ptp(means, axis=1).any():
        return np.where(means[:, :1] == means[:, :1].T, 1.0, 0.0)
    return np.asarray(stats.tukey_hsd(*means).pvalue, dtype=np.float64)


def against_baseline(
    means: Values, names: Sequence[str], baseline: str, seed: int
) -> list[BaselineDifference]:
    """Dunnett's test (1955) of every other variant against `baseline`, means (V, S); `seed` for
    scipy's integration. None where no mean varies."""
    if not np.ptp(means, axis=1).any():
        return []
    control = names.index(baseline)
    others = [place for place in range(len(names)) if place != control]
    test = stats.dunnett(*means[others], control=means[control], rng=np.random.default_rng(seed))
    bounds = test.confidence_interval()
    return [
        BaselineDifference(
            variant=names[place],
            difference=float(means[place].mean() - means[control].mean()),
            interval=Interval(low=float(bounds.low[row]), high=float(bounds.high[row])),
            p_value=float(np.clip(test.pvalue[row], 0, 1)),
        )
        for row, place in enumerate(others)
    ]


def _two_one_sided(first: Values, second: Values, paired: bool, margin: float) -> float:
    """statsmodels' equivalence test of seed means (S,) and (S,) within +- margin."""
    difference = first - second
    if not (np.ptp(difference) if paired else np.ptp(first) + np.ptp(second)):
        return 0.0 if abs(difference.mean()) < margin else 1.0
    if paired:
        return float(DescrStatsW(difference).ttost_mean(-margin, margin)[0])
    samples = CompareMeans(DescrStatsW(first), DescrStatsW(second))
    return float(samples.ttost_ind(-margin, margin, usevar="unequal")[0])


def _two_way_equal(values: Values, margin: float) -> float:
    """Two one-sided tests of the mean of values (S, C) within +- margin, by the two-way error."""
    inside = abs(float(values.mean())) < margin
    larger = float(max(two_way_p(values, -margin), two_way_p(values, margin)))
    return larger / 2 if inside else 1 - larger / 2


def holm(p_values: Sequence[float] | Values) -> Values:
    """Adjusted by Holm's procedure over all of them."""
    return np.asarray(multipletests(p_values, alpha=LEVEL, method="holm")[1], dtype=np.float64)


def _superiority(
    means: Values, places: Sequence[tuple[int, int]], paired: bool, draws: int, seed: int
) -> tuple[Values, list[Interval]]:
    """P(a run of the first beats a run of the second), ties half, with percentile intervals.

    A seed's runs against each other where seeds pair, else every run against every run
    (Mann-Whitney). Source: Bouthillier et al. 2021, section 4.2.
    """
    seeds = means.shape[1]
    weights = resample(np.random.default_rng(seed), draws, seeds)  # (draws, S)
    others = weights if paired else resample(np.random.default_rng(seed + 1), draws, seeds)
    estimates, intervals = [], []
    for first, second in places:
        if paired:
            won = (np.sign(means[first] - means[second]) + 1) / 2  # (S,)
            estimate, drawn = won.mean(), weights @ won
        else:
            each = (np.sign(means[first][:, None] - means[second]) + 1) / 2  # (S, S)
            estimate, drawn = each.mean(), ((weights @ each) * others).sum(axis=1)
        low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
        estimates.append(estimate)
        intervals.append(Interval(low=float(low), high=float(high)))
    return np.array(estimates), intervals


def resample(rng: np.random.Generator, draws: int, size: int) -> Values:
    """Bootstrap weights (draws, size): how often each of `size` is drawn, over `size`."""
    drawn = rng.integers(size, size=(draws, size)) + size * np.arange(draws)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size)
    return counts / size

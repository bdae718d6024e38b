"""What a study can show, and what it would take to show more."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import optimize, stats

from pipeline.statistics.crossed import Values
from pipeline.statistics.definitions import FEWEST_SEEDS
from pipeline.statistics.failures import RATE_TO_RULE_OUT, runs_for_rate
from pipeline.statistics.pairs import ALPHA, ENDLESS
from pipeline.statistics.results import Power
from pipeline.statistics.typical import (
    SAME,
    Failed,
    contrasts,
    is_descriptive,
    kept,
    typical_run,
)

POWER = 0.8
SAFETY = 1.15  # what trimming and the larger of two errors add to a variance; simulated
MOST_SEEDS = 1000
EXPECTED_DEVIATION = 0.0036  # of Dice over seeds: resunet's on real cases, see docs/real-cases.md

# (difference, seeds) -> the chance that a pair with that true difference is found
Chance = Callable[[float, int], float]


def plan(
    values: Values, failed: Failed, paired: bool, gap: float | None, margin: float | None
) -> Power:
    """From values (V, S, C) of cases or groups of cases, all at least 2, and failed (V, S); gap,
    margin: differences of typical runs that one would want to see.

    The chance that a pair is shown: the noncentral t distribution beyond Tukey's critical value,
    with the mean error of the pairs found and the degrees of freedom of two variants' own runs.
    Safe: where pairs take the pooled error, they have more.
    """
    variants, seeds, cases = values.shape
    first, second = np.triu_indices(variants, 1)
    weights = np.eye(variants)[first] - np.eye(variants)[second]
    runs = [typical_run(*own) for own in zip(values, failed, strict=True)]
    found = contrasts(runs, weights, paired)
    by_seed = float(np.mean([each.seeds for each in found])) * seeds  # squared, of one seed
    by_case = float(np.mean([each.cases for each in found]))

    def chance(difference: float, number: int) -> float:
        error = by_seed / number + by_case
        of_seeds = (1 if paired else 2) * (kept(number) - 1)
        parts = (by_seed / number) ** 2 / of_seeds + by_case**2 / (cases - 1)
        freedom = error**2 / parts
        centre = difference / float(np.sqrt(error))
        return _found(centre, critical_t(variants, round(freedom)), freedom)

    deviation = noise(values.mean(axis=2), failed, paired)
    noisy = by_seed > SAME**2 and deviation is not None
    return Power(
        power=POWER,
        standard_deviation=deviation if noisy or deviation is None else 0.0,
        detectable=smallest_difference(chance, seeds, np.sqrt(by_seed))
        if noisy and not is_descriptive(failed)
        else None,
        gap=gap,
        seeds_for_gap=seeds_needed(chance, gap, FEWEST_SEEDS) if noisy and gap else None,
        seeds_for_margin=seeds_needed(chance, margin, FEWEST_SEEDS) if noisy and margin else None,
        failure_rate=RATE_TO_RULE_OUT,
        seeds_for_failure_rate=runs_for_rate(),
    )


def expected_difference(
    variants: int, seeds: int, deviation: float = EXPECTED_DEVIATION
) -> float | None:
    """Before there are results: the smallest difference on these very cases that seeds which do not
    pair the variants find, if each variant's means have that standard deviation over seeds. None
    for one variant, and for so few seeds that nothing is called shown."""
    if variants < 2 or seeds < FEWEST_SEEDS:
        return None

    def chance(difference: float, seeds: int) -> float:
        freedom = 2 * (kept(seeds) - 1)
        centre = difference / (deviation * np.sqrt(2 * SAFETY / seeds))
        return _found(centre, critical_t(variants, freedom), freedom)

    return smallest_difference(chance, seeds, deviation)


def noise(means: Values, failed: Failed, paired: bool) -> float | None:
    """Pooled standard deviation over seeds of means (V, S), or of their paired differences, of runs
    that did not fail (V, S); None where no two of a row did not."""
    usable = np.where(failed, np.nan, means)
    if paired:
        first, second = np.triu_indices(len(means), 1)
        usable = usable[first] - usable[second]
    rows = [row[np.isfinite(row)] for row in usable]
    rows = [row for row in rows if len(row) > 1]
    if not rows:
        return None
    squares = sum(float(np.square(row - row.mean()).sum()) for row in rows)
    return float(np.sqrt(squares / sum(len(row) - 1 for row in rows)))


def _found(centre: float, critical: float, freedom: float) -> float:
    """The noncentral t distribution's tail on the difference's own side."""
    return float(stats.nct.sf(critical, freedom, centre))


@cache
def critical_t(variants: int, freedom: int) -> float:
    """The t beyond which one of all pairs' differences is found: Tukey's.

    Scipy's quantile takes up to a second where freedom is large: from 1,000 on that of infinity.
    """
    endless = freedom if freedom < ENDLESS else np.inf
    return float(stats.studentized_range.ppf(1 - ALPHA, variants, endless) / np.sqrt(2))


def smallest_difference(chance: Chance, seeds: int, scale: float) -> float:
    """The difference that is found with the power asked; scale: of its order."""
    high = scale
    while chance(high, seeds) < POWER:
        high *= 2
    found = optimize.brentq(lambda each: chance(each, seeds) - POWER, 0.0, high, xtol=1e-4 * scale)
    return float(found)


def seeds_needed(chance: Chance, difference: float, fewest: int) -> int | None:
    """The fewest seeds, `fewest` at least, that find `difference` with the power asked; None above
    1,000."""
    enough, too_few = MOST_SEEDS, fewest - 1
    if chance(difference, enough) < POWER:
        return None
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if chance(difference, middle) < POWER:
            too_few = middle
        else:
            enough = middle
    return enough

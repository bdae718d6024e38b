"""What a study can show, and what it would take to show more."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import optimize, stats

from pipeline.statistics.crossed import Errors, Values, two_way
from pipeline.statistics.pairs import FEWEST_SEEDS, LEVEL
from pipeline.statistics.results import Power

POWER = 0.8
MOST_SEEDS = 1000
EXPECTED_DEVIATION = 0.0036  # of Dice over seeds: resunet's on real cases, see docs/real-cases.md

# (difference, seeds) -> the chance that a pair with that true difference is found
Chance = Callable[[float, int], float]


def plan(values: Values, paired: bool, gap: float | None) -> Power:
    """From values (V, S, C), all at least 2; gap: a difference that one would want to see."""
    variants, seeds, cases = values.shape
    means = values.mean(axis=2)
    deviation = noise(means, paired)
    pairs = variants * (variants - 1) // 2
    first, second = np.triu_indices(variants, 1)
    errors = two_way(values[first] - values[second])
    by_seed = float(errors.seeds.mean()) * seeds  # a pair's squared error of one seed, of cases
    by_case = float(errors.cases.mean())

    on_these_cases = by_seed_means(variants, deviation, paired)

    def generally(difference: float, seeds: int) -> float:
        """By the two-way error's test at the first step of Holm's procedure."""
        expected = Errors(np.array(by_seed / seeds), np.array(by_case))
        freedom = float(expected.freedom(seeds, cases))
        critical = float(stats.t.ppf(1 - LEVEL / (2 * pairs), freedom))
        return _found(difference / float(expected.total), critical, freedom)

    for_exact = int(np.ceil(np.log2(2 * pairs / LEVEL)))
    fewest = max(FEWEST_SEEDS, for_exact if paired else 0)
    noisy = deviation > 0
    able = noisy and seeds >= fewest
    return Power(
        power=POWER,
        standard_deviation=deviation,
        detectable=smallest_difference(on_these_cases, seeds, deviation) if able else None,
        detectable_generally=smallest_difference(generally, seeds, deviation) if able else None,
        gap=gap,
        seeds_for_gap=seeds_needed(on_these_cases, gap, fewest) if noisy and gap else None,
        seeds_for_gap_generally=seeds_needed(generally, gap, fewest) if noisy and gap else None,
        exact_floor=2.0 ** (1 - seeds),
        seeds_for_exact=for_exact,
        fewest_seeds=fewest,
    )


def expected_difference(
    variants: int, seeds: int, deviation: float = EXPECTED_DEVIATION
) -> float | None:
    """Before there are results: the smallest difference on these very cases that seeds which do not
    pair the variants find, if each variant's means have that standard deviation over seeds. None
    for one variant, and for so few seeds that nothing is called shown."""
    if variants < 2 or seeds < FEWEST_SEEDS:
        return None
    return smallest_difference(by_seed_means(variants, deviation, paired=False), seeds, deviation)


def by_seed_means(variants: int, deviation: float, paired: bool) -> Chance:
    """Of Tukey's test, or of the paired t test at the first step of Holm's procedure (the sign-flip
    test is close to it where it is not at its floor)."""

    def chance(difference: float, seeds: int) -> float:
        error = deviation * np.sqrt((1 if paired else 2) / seeds)
        return _found(difference / error, *critical_t(seeds, variants, paired))

    return chance


def noise(means: Values, paired: bool) -> float:
    """Pooled standard deviation over seeds of means (V, S), or of their paired differences."""
    if not paired:
        return float(np.sqrt(means.var(axis=1, ddof=1).mean()))
    first, second = np.triu_indices(len(means), 1)
    return float(np.sqrt((means[first] - means[second]).var(axis=1, ddof=1).mean()))


def _found(centre: float, critical: float, freedom: float) -> float:
    """The noncentral t distribution's tail on the difference's own side."""
    return float(stats.nct.sf(critical, freedom, centre))


@cache
def critical_t(seeds: int, variants: int, paired: bool) -> tuple[float, int]:
    """The t beyond which a pair's difference is found, and its degrees of freedom."""
    if paired:
        pairs = variants * (variants - 1) // 2
        return float(stats.t.ppf(1 - LEVEL / (2 * pairs), seeds - 1)), seeds - 1
    freedom = variants * (seeds - 1)
    # Scipy's quantile takes up to a second where freedom is large; from 1,000 on it is within
    # 0.2 % of that of infinity.
    quantile = stats.studentized_range.ppf(
        1 - LEVEL, variants, freedom if freedom < 1000 else np.inf
    )
    return float(quantile) / np.sqrt(2), freedom


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

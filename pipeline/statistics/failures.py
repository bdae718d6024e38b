"""Which runs failed, and how often a variant's runs do.

A run has failed where its mean Dice lies below the upper quartile of its variant's runs by more
than the study's `compare.failure_drop`, and by more than four robust standard deviations of a run.
With the quartile nearly half of the runs may fail, and one lucky run decides nothing.
The standard deviation is that of the better half of each variant's runs, which failures do not
reach: 2.5 times the median distance from its median, over all variants. So runs of a study that
spread widely are not called failed for that alone; those of one variant that spreads more than the
others are. Of fewer than five runs none is. The rule is fixed before looking and knows the figures
alone.
Source: the modified z-score (Iglewicz and Hoaglin 1993, section 3.3), 3.5 from the median there.

Assumed: fewer than half of a variant's runs fail, or a failed one is its upper quartile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from pipeline.statistics.crossed import CONFIDENCE, Values, mean_interval
from pipeline.statistics.definitions import Bounds
from pipeline.statistics.results import FailureRate, Interval
from pipeline.statistics.typical import Failed, is_descriptive

SPREADS = 4.0  # robust standard deviations
TO_NORMAL = 2.5057  # times that distance: a normal deviation, by the half-normal's quantiles
FEWEST_RUNS = 5  # of fewer none is called failed: their upper quartile may itself have failed
RATE_TO_RULE_OUT = 0.1  # a failure rate that a study may want to rule out


def failure_rates(
    dice: pd.Series, drop: float, pooled: Collection[str] | None = None
) -> list[FailureRate]:
    """Of each variant, in the order of `dice`: a run's mean Dice, indexed by (variant, seed). A run
    whose Dice is not a number has not failed by this rule; it is left out of comparisons. pooled:
    the variants whose runs say how far runs spread, all if None."""
    runs = {
        str(name): own.droplevel("variant").dropna()
        for name, own in dice.groupby(level="variant", sort=False)
    }
    quartiles = {name: upper_quartile(own.to_numpy()) for name, own in runs.items()}
    spread = [own.to_numpy() for name, own in runs.items() if pooled is None or name in pooled]
    cut = _cut(spread, drop)
    found = []
    for name, own in runs.items():
        failed = [int(seed) for seed in own.index[_failed(own.to_numpy(), quartiles[name], cut)]]
        known = len(own) >= FEWEST_RUNS
        found.append(
            FailureRate(
                variant=name,
                runs=len(own),
                failed=failed,
                rate=len(failed) / len(own) if known else None,
                interval=rate_interval(len(failed), len(own)) if known else None,
                upper_quartile=quartiles[name],
                drop=cut,
                mean_interval=None,
            )
        )
    return found


def upper_quartile(runs: Values) -> float | None:
    """The upper quartile of a variant's runs, one of them; None of none."""
    return float(np.quantile(runs, 0.75, method="higher")) if len(runs) else None


def _failed(runs: Values, quartile: float | None, cut: float) -> Failed:
    if quartile is None or len(runs) < FEWEST_RUNS:
        return np.zeros(len(runs), dtype=bool)
    return runs < quartile - cut


def _cut(runs: Sequence[Values], drop: float) -> float:
    """How far below the quartile a failed run lies: the drop, or SPREADS standard deviations."""
    better = [np.sort(own)[len(own) // 2 :] for own in runs if len(own)]
    away = np.concatenate([np.abs(own - np.median(own)) for own in better] or [np.zeros(1)])
    return max(drop, SPREADS * TO_NORMAL * float(np.median(away)))


def rate_interval(failed: int, runs: int) -> Interval:
    """Clopper and Pearson's exact interval (1934) of the share of runs that fail, by statsmodels:
    it holds the truth in at least 95 % whatever that is, if runs fail independently and are told
    apart."""
    low, high = proportion_confint(failed, runs, alpha=1 - CONFIDENCE, method="beta")
    return Interval(low=float(low), high=float(high))


def mean_with_failures(
    values: Values, failed: Failed, rate: Interval, bounds: Bounds
) -> Interval | None:
    """Of the mean over all runs and cases, failed runs with them; values (S, C) of cases or groups
    of cases, failed (S,), bounds: the metric's. None where there are too few runs
    (typical.is_descriptive), or one case.

    From the lower end of the mean over runs that did not fail (crossed.mean_interval), with as many
    runs at the least that the metric can be as the failure rate's interval allows, to its upper
    end. So it holds the truth however deep runs fail that were not seen, at the price of its
    width.
    """
    if min(values.shape) < 2 or is_descriptive(failed):
        return None
    found, worst = mean_interval(values[~failed], bounds), bounds[0]
    low = found.low - rate.high * (found.low - worst)
    return found.model_copy(update={"low": low})


def runs_for_rate(failed: int = 0, rate: float = RATE_TO_RULE_OUT) -> int:
    """The fewest runs of a variant, `failed` of them failed, that show a rate under `rate`."""
    runs = max(1, failed)
    while rate_interval(failed, runs).high >= rate:
        runs += 1
    return runs

"""Which runs failed, and how often a variant's runs do.

A run has failed where its mean Dice lies below the median run of its variant by more than the
study's `compare.failure_drop`, and by more than 3.5 robust standard deviations of a run: 1.4826
times the median distance from a variant's median, over the variant's runs and over those of all
variants, whichever is larger. The second part keeps runs of a study that spread widely from being
called failed for that alone. The rule is fixed before looking and knows the figures alone.
Source: the modified z-score and its 3.5 (Iglewicz and Hoaglin 1993, section 3.3).

Assumed: fewer than half of a variant's runs fail, or the median is a failed one, and none is found.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from pipeline.statistics.crossed import LEVEL, Values, mean_interval
from pipeline.statistics.results import FailureRate, Interval
from pipeline.statistics.typical import Failed

SPREADS = 3.5  # robust standard deviations
RATE = 0.1  # a failure rate that a study may want to rule out


def failure_rates(dice: pd.Series, drop: float) -> list[FailureRate]:
    """Of each variant, in the order of `dice`: a run's mean Dice, indexed by (variant, seed). A run
    whose Dice is not a number has not failed by this rule; it is left out of comparisons."""
    runs = {
        str(name): own.droplevel("variant").dropna()
        for name, own in dice.groupby(level="variant", sort=False)
    }
    away = {name: (own - own.median()).to_numpy() for name, own in runs.items()}
    common = _spread(np.concatenate(list(away.values())))
    found = []
    for name, own in runs.items():
        cut = max(drop, SPREADS * common, SPREADS * _spread(away[name]))
        failed = [int(seed) for seed in own.index[away[name] < -cut]]
        found.append(
            FailureRate(
                variant=name,
                runs=len(own),
                failed=failed,
                rate=len(failed) / len(own) if len(own) else None,
                interval=rate_interval(len(failed), len(own)) if len(own) else None,
                median=float(own.median()) if len(own) else None,
                drop=cut,
                mean_interval=None,
            )
        )
    return found


def _spread(away: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The standard deviation of distances from a median, by their own median."""
    if not len(away):
        return 0.0
    return float(stats.median_abs_deviation(away, center=lambda *_, **__: 0.0, scale="normal"))


def rate_interval(failed: int, runs: int) -> Interval:
    """Clopper and Pearson's exact interval (1934) of the share of runs that fail, by statsmodels:
    it holds the truth in at least 95 % whatever that is, if runs fail independently."""
    low, high = proportion_confint(failed, runs, alpha=1 - LEVEL, method="beta")
    return Interval(low=float(low), high=float(high))


def mean_with_failures(
    values: Values, failed: Failed, rate: Interval, worst: float
) -> Interval | None:
    """Of the mean over all runs and cases, failed runs with them; values (S, C), failed (S,), two
    runs at least that did not fail, else None.

    From the lower end of the mean over runs that did not fail (crossed.mean_interval), with as many
    runs at `worst`, the least that the metric can be, as the failure rate's interval allows, to its
    upper end. So it holds the truth however deep runs fail that were not seen, at the price of its
    width.
    """
    own = values[~failed]
    if min(own.shape) < 2:
        return None
    bounds = mean_interval(own)
    return Interval(low=bounds.low - rate.high * (bounds.low - worst), high=bounds.high)


def runs_for_rate(failed: int = 0, rate: float = RATE) -> int:
    """The fewest runs of which `failed` fail that show a failure rate under `rate`."""
    runs = max(1, failed)
    while rate_interval(failed, runs).high >= rate:
        runs += 1
    return runs

"""Which runs of baseline and candidate failed, and do the candidate's fail more often?

The baseline's failed runs are found among its own (statistics/failures.py, FAILURE_DROP): so each
variant has an upper quartile and a drop, and a run more than the drop below that is low. Of the
candidate's runs those that are low have failed, if they lie as far below its others' quartile. So
one of two is found, and most of ten, where the baseline's rule finds none; a change that makes
training erratic does not widen its own drop; and one that makes most runs better fails no others.

Where every run of a variant is low, none of them tells what a typical one is: they are taken for
typical ones, and worse. Unless failures explain it: of a variant of which one run in five fails,
both of two do so in 4 % of unharmed changes. `explained` says when: runs of it failed in the
baseline too, and no less often by the test below. Then it is unclear, and the runs may lie as deep
as the baseline's failed ones.

The test is Boschloo's (1970), one-sided, by scipy: exact, whatever the rate of failures is, and
more powerful than Fisher's, which with few runs finds next to nothing: of 2 of 2 after 0 of 10 it
makes p = 0.015, Boschloo's 0.0045. Runs are taken to fail independently of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.gate.baseline import Baseline, RunFigures
from pipeline.statistics.failures import failure_rates, upper_quartile

FAILURE_DROP = 0.03  # the default of a study's compare.failure_drop


class Counts(NamedTuple):
    """k of S runs failed in the baseline, k of n in the candidate."""

    failed_then: int
    then: int
    failed_now: int
    now: int

    @property
    def p_value(self) -> float:
        """That the candidate's runs fail no more often."""
        return p_more_failures(*self)


@cache
def p_more_failures(failed_then: int, then: int, failed_now: int, now: int) -> float:
    if failed_now == 0 or failed_then == then:
        return 1.0
    table = [[failed_then, failed_now], [then - failed_then, now - failed_now]]
    return float(stats.boschloo_exact(table, alternative="less").pvalue)


def added(counts: Sequence[Counts]) -> Counts:
    return Counts(*map(sum, zip(*counts, strict=True)))


@dataclass(frozen=True)
class Runs:
    """A variant's, told apart. A run without a Dice has not failed."""

    typical: list[RunFigures]
    failed: list[RunFigures]

    @property
    def all(self) -> list[RunFigures]:
        return [*self.typical, *self.failed]


@dataclass(frozen=True)
class Variant:
    """unclear: every run of the candidate is low, and failures explain it; all count as failed."""

    then: Runs
    now: Runs
    unclear: bool = False

    @property
    def counts(self) -> Counts:
        then, now = (
            (len(runs.failed), sum(run.metrics.get("dice") is not None for run in runs.all))
            for runs in (self.then, self.now)
        )
        return Counts(*then, *now)


def tell_apart(baseline: Baseline, candidate: Baseline, level: float) -> dict[str, Variant]:
    """Of each variant of the baseline; `level`: below it failures explain no low runs."""
    rates = {rate.variant: rate for rate in failure_rates(_dice(baseline), FAILURE_DROP)}
    found, low = {}, []
    for name in baseline.spreads:
        rate = rates[name]
        assert rate.upper_quartile is not None
        before = [run for run in baseline.runs if run.variant == name]
        after = [run for run in candidate.runs if run.variant == name]
        values = [dice for run in after if (dice := run.metrics.get("dice")) is not None]
        reached = [dice for dice in values if dice >= rate.upper_quartile - rate.drop]
        if values and not reached:
            low.append(name)
        others = upper_quartile(np.array(reached or values or [rate.upper_quartile]))
        assert others is not None
        middle = min(rate.upper_quartile, others)
        found[name] = Variant(
            then=_split(before, [run.seed in rate.failed for run in before]),
            now=_split(after, [_below(run, middle - rate.drop) for run in after]),
        )
    for name in explained(found, low, level):
        then, now = found[name].then, found[name].now
        found[name] = Variant(then, Runs(typical=[], failed=now.all), unclear=True)
    return found


def _dice(figures: Baseline) -> pd.Series[float]:
    index = pd.MultiIndex.from_tuples(
        [(run.variant, run.seed) for run in figures.runs], names=["variant", "seed"]
    )
    return pd.Series([run.metrics["dice"] for run in figures.runs], index=index, dtype=float)


def _below(run: RunFigures, least: float) -> bool:
    dice = run.metrics.get("dice")
    return dice is not None and dice < least


def _split(runs: Sequence[RunFigures], failed: Sequence[bool]) -> Runs:
    pairs = list(zip(runs, failed, strict=True))
    return Runs([run for run, bad in pairs if not bad], [run for run, bad in pairs if bad])


def explained(variants: Mapping[str, Variant], low: Sequence[str], level: float) -> list[str]:
    """Which of `low` may have failed in all their runs, as runs of the baseline did: those of the
    variant or, where most variants had some, those of all. None, where the candidate then had more
    failed runs of all variants."""
    every = {
        name: found.counts._replace(failed_now=found.counts.now) if name in low else found.counts
        for name, found in variants.items()
    }
    total = added(list(every.values()))
    if total.p_value < level:
        return []
    common = 2 * sum(counts.failed_then > 0 for counts in every.values()) > len(every)

    def may_have_failed(counts: Counts) -> bool:
        of_all = counts._replace(failed_then=total.failed_then, then=total.then)
        return (counts.failed_then > 0 and counts.p_value >= level) or (
            common and of_all.p_value >= level
        )

    return [name for name in low if may_have_failed(every[name])]

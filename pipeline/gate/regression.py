"""Is a retrained study worse than its baseline by more than seeds explain? Figures in, checks out.

A variant's metric regresses where the mean of its n runs is worse than the baseline's, over S
seeds, by more than

    max(floor, t(1 - alpha / m, df) * s * sqrt(1 / S + 1 / n))

s is the baseline's standard deviation over seeds and df = S - 1: the one-sided two-sample bound for
the mean of n further runs. The candidate's own spread has no part in it, or a change that makes
training erratic would widen its own bound. The mean over all variants, a value a seed, is compared
in the same way: most harm is in code that every variant runs, and there it shows at a third of the
size, for seven of them.

m is the number of comparisons: metrics times the baseline's variants and their mean. The gate fails
if any of them does, so alpha is shared out over all (Bonferroni), and an unharmed change fails the
whole gate with a probability of at most alpha. Shared over the metrics alone it would be alpha a
variant, 7 % for seven.

Few seeds: t(1 - 0.01 / 24, 1) is 764, a bound that no harm exceeds. With S below FEW_SEEDS, s is
therefore the larger of the variant's own deviation and the pooled one (root of the mean variance
over variants, weighted by S - 1; over the root of their number for their mean), and df is that of
the pooled: 7 for seven variants of two seeds, t = 5.6. Pooling takes the variants to vary alike
over seeds, and apart from each other; the larger of the two guards what varies more. Simulated
(test_regression.py), two seeds of seven variants alarm falsely in less than 1 % of unharmed
changes with equal deviations, 2 % where they spread threefold, 4 % tenfold (pooling alone: 7 %),
and 4 % where a seed's luck is half shared by all variants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from scipy import stats

from pipeline.gate.baseline import GATED, Baseline, RunFigures, Spread, spread_of
from pipeline.statistics.definitions import METRICS
from pipeline.study.errors import UserError
from pipeline.study.run_files import range_of
from pipeline.study.values import quantity

ALPHA = 0.01
FLOOR = 0.001  # 0.1 Dice points, the last digit that the field prints
FEW_SEEDS = 5  # with fewer, t(1 - 0.01 / 24, S - 1) exceeds 12
ALL = "all variants"


@dataclass(frozen=True)
class Check:
    """One figure held against what it was; None where there is none.

    worse_by: in the metric's units, negative where the candidate is better. allowed: the most that
    passes. note: what a reader should know beside.
    """

    subject: str
    metric: str
    baseline: float | None
    candidate: float | None
    worse_by: float | None
    allowed: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.worse_by is not None and (
            self.allowed is not None and self.worse_by <= self.allowed
        )


def check_comparable(baseline: Baseline, candidate: Baseline) -> None:
    """Raise UserError, saying why, unless the figures are of one study, its cases and definitions.

    Seeds may be others, and the candidate may have more variants.
    """
    then, now = baseline.study, candidate.study
    if then.name != now.name:
        raise UserError(
            f"the baseline is of the study {then.name!r}, the candidate of {now.name!r}"
        )
    if then.cases_sha256 != now.cases_sha256:
        raise UserError(
            f"the test cases differ: sha256 {then.cases_sha256[:12]!r} in the baseline, "
            f"{now.cases_sha256[:12]!r} now"
        )
    names = then.definitions.keys() | now.definitions.keys()
    others = [n for n in sorted(names) if then.definitions.get(n) != now.definitions.get(n)]
    if others:
        raise UserError(f"definitions differ: {', '.join(map(repr, others))}")
    if then.folds != now.folds:
        raise UserError(f"the baseline has the folds {then.folds}, the candidate {now.folds}")
    others = differing(baseline.params, candidate.params)
    others = [key for key in others if key.removeprefix("models.") not in now.variants]
    if others:
        raise UserError(f"params differ: {', '.join(others)}; if that was meant: --update-baseline")
    if baseline.miscounted():
        raise UserError("the baseline has not one run for each of its variants and seeds")
    missing = [repr(name) for name in baseline.spreads if name not in candidate.spreads]
    if missing:
        raise UserError(f"the candidate has no runs of {', '.join(missing)}")


def differing(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys of nested blocks, joined by points, under which the two do not hold the same."""
    keys = []
    for name in sorted(then.keys() | now.keys()):
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            keys += differing(old, new, f"{prefix}{name}.")
        elif old != new:
            keys.append(f"{prefix}{name}")
    return keys


def compare_means(
    baseline: Baseline, candidate: Baseline, *, alpha: float = ALPHA, floor: float = FLOOR
) -> list[Check]:
    """Every variant of the baseline, and their mean, in every metric of GATED.

    Raises UserError where the two do not compare, or the baseline has no deviation over seeds.
    """
    check_comparable(baseline, candidate)
    if not baseline.spreads:
        raise UserError("the baseline has no runs")
    pairs = pairs_to_compare(baseline, candidate)
    checks = []
    for pair in pairs:
        every = [metrics[pair.metric] for metrics in baseline.spreads.values()]
        deviation, degrees, pooled = deviation_over_seeds(pair.then, every, pair.averaged)
        bound = margin(
            deviation,
            degrees,
            seeds=pair.then.seeds,
            runs=pair.now.seeds,
            alpha=alpha / len(pairs),
            floor=floor,
        )
        checks.append(
            Check(
                pair.subject,
                pair.metric,
                pair.then.mean,
                pair.now.mean,
                _worse_by(pair),
                bound,
                _note(pair, bound, pooled=pooled),
            )
        )
    for variant, seed in candidate.miscounted():
        note = f"seed {seed} has not exactly one run"
        checks.append(Check(variant, "runs", None, None, None, None, note))
    return checks


class Pair(NamedTuple):
    """A figure then and now; `averaged`: the number of variants that it is the mean of."""

    subject: str
    metric: str
    then: Spread
    now: Spread
    averaged: int


def pairs_to_compare(baseline: Baseline, candidate: Baseline) -> list[Pair]:
    """Each variant of the baseline in each metric, then their mean: a value for each of the seeds
    that all of them have. Without it where there is one variant, or no such seed."""
    variants = list(baseline.spreads)
    pairs = [
        Pair(name, metric, baseline.spreads[name][metric], candidate.spreads[name][metric], 1)
        for name in variants
        for metric in GATED
    ]
    for metric in GATED if len(variants) > 1 else ():
        then, now = (
            means_over(variants, metric, figures.runs) for figures in (baseline, candidate)
        )
        if then and now:
            pairs.append(Pair(ALL, metric, spread_of(then), spread_of(now), len(variants)))
    return pairs


def means_over(
    variants: Sequence[str], metric: str, runs: Sequence[RunFigures]
) -> list[float | None]:
    """The mean over `variants` for each seed that they all have; None where a value is missing."""
    by_seed: dict[int, dict[str, float | None]] = {}
    for run in runs:
        by_seed.setdefault(run.seed, {})[run.variant] = run.metrics.get(metric)
    means: list[float | None] = []
    for found in by_seed.values():
        if all(name in found for name in variants):
            values = [found[name] for name in variants]
            finite = [value for value in values if value is not None]
            means.append(fmean(finite) if len(finite) == len(values) else None)
    return means


def margin(
    deviation: float, degrees: int, *, seeds: int, runs: int, alpha: float, floor: float
) -> float:
    """By how much the mean of `runs` may be worse than that of `seeds`; `alpha` of one comparison.

    deviation: over seeds, with `degrees` of freedom; floor and result in the same units.
    """
    quantile = float(stats.t.isf(alpha, degrees))
    return max(floor, quantile * deviation * math.sqrt(1 / seeds + 1 / runs))


def deviation_over_seeds(
    own: Spread, every: Sequence[Spread], averaged: int = 1
) -> tuple[float, int, bool]:
    """s, its degrees of freedom, and whether it is pooled (few seeds).

    own: the figure's; every: those of all variants in that metric; averaged: how many of them the
    figure is the mean of. Raises UserError where no variant has two seeds, or a value is missing.
    """
    if any(found.mean is None for found in every):
        raise UserError("the baseline has runs without a finite value: write another")
    if own.seeds >= FEW_SEEDS:
        assert own.standard_deviation is not None
        return own.standard_deviation, own.seeds - 1, False
    degrees = sum(found.seeds - 1 for found in every)
    if degrees == 0:
        raise UserError(
            "the baseline has one seed a variant: without a deviation over seeds no change can be "
            "told from luck; write one of at least two seeds"
        )
    squares = sum((found.seeds - 1) * (found.standard_deviation or 0.0) ** 2 for found in every)
    pooled = math.sqrt(squares / degrees / averaged)
    return max(own.standard_deviation or 0.0, pooled), degrees, True


def _worse_by(pair: Pair) -> float | None:
    then, now = pair.then.mean, pair.now.mean
    if then is None or now is None:
        return None
    return then - now if METRICS[pair.metric].better == "higher" else now - then


def _note(pair: Pair, bound: float, *, pooled: bool) -> str:
    if pair.now.mean is None:
        return "missing or not finite"
    words = f"{pair.now.seeds} against {quantity(pair.then.seeds, 'run')}"
    if pooled:
        words += ", pooled"
    higher = METRICS[pair.metric].better == "higher"
    blind = higher and (pair.then.mean or 0.0) - bound <= range_of(pair.metric)[0]
    return f"{words}; blind: no fall is that deep, store more seeds" if blind else words

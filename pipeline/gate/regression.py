"""Is a retrained study worse than its baseline by more than seeds explain? Figures in, checks out.

Two questions, each with checks of its own: is a typical run worse, and do more runs fail?

A typical run is one that did not fail (gate/failed_runs.py says which did, by Dice). A variant's
metric regresses where the mean of its n such runs is worse than the baseline's, over S of them, by
more than

    max(floor, t(1 - alpha / m, df) * s * sqrt(1 / S + 1 / n))

s is the baseline's standard deviation over seeds and df = S - 1: the one-sided two-sample bound for
the mean of n further runs. Runs that failed have no part in s either, or one of them would widen
the bound for all. The candidate's own spread has no part in it, or a change that makes training
erratic would widen its own bound.

The mean over all variants, a value a seed, is compared in the same way: most harm is in code that
every variant runs, and there it shows at a third of the size, for seven of them. A seed's value is
the mean over the variants that did not fail with it, each as its distance from the variant's
typical run in the baseline: else a good variant's failure would lower the mean of the others. A
seed with which more than half of the variants failed is left out.

The number of failed runs regresses where Boschloo's exact test finds it higher at alpha / m, for
each variant and for all together. Where more than half of a variant's runs failed, the share of
alpha of all these checks, a quarter, is enough, if the failed runs of all the baseline's variants
do not explain it either: else five of seven failed runs would pass, after none of ten.

m is the number of comparisons: of the metrics and the failed runs, for the baseline's variants and
for all together. The gate fails if any of them does, so alpha is shared out over all (Bonferroni),
and an unharmed change fails the whole gate with a probability of at most alpha, if no runs fail.
Shared over the metrics alone it would be alpha a variant, 7 % for seven.

With failures it depends on which run is held for one. Simulated (test_regression.py), Dice and
failed runs against ten seeds, false alarms are 0.7 % where one of seven variants fails in 10 or 20
% of runs, with two seeds, and 0.3 % with seven, as without failures; means over all runs alarmed in
4 to 18 %. They are more where several variants fail: with two seeds 1.3 % for seven in 6 or 10 %,
1.6 % for three in 20 %; with seven seeds 1.4 % for seven in 30 %. With one seed they are 4 %:
nothing tells its failure from a worse typical run. Runs as skewed as the demo's, redrawn from its
baseline, alarm falsely in 2 to 3 %.

Few seeds: t(1 - 0.01 / 32, 1) is 1019, a bound that no harm exceeds. With S below FEW_SEEDS, s is
therefore the larger of the variant's own deviation and the pooled one (root of the mean variance
over variants, weighted by S - 1; over the root of their number for their mean), and df is that of
the pooled: 7 for seven variants of two seeds, t = 5.9. Pooling takes the variants to vary alike
over seeds, and apart from each other; the larger of the two guards what varies more. Simulated
(test_regression.py), two seeds of seven variants alarm falsely in less than 1 % of unharmed
changes with equal deviations, 2 % where they spread threefold, 4 % tenfold (pooling alone: 7 %),
and 4 % where a seed's luck is half shared by all variants.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any, NamedTuple

from scipy import stats

from pipeline.gate.baseline import Baseline, Spread, gated, plain, spread_of, spreads_of
from pipeline.gate.failed_runs import Counts, Runs, Variant, added, p_more_failures, tell_apart
from pipeline.statistics.definitions import METRICS
from pipeline.study.errors import UserError
from pipeline.study.run_files import range_of
from pipeline.study.values import HEADLINES, quantity

ALPHA = 0.01
FLOOR = 0.001  # 0.1 Dice points, the last digit that the field prints
FEW_SEEDS = 5  # with fewer, t(1 - 0.01 / 32, S - 1) exceeds 15
ALL = "all variants"
FAILED = "failed runs"
RUNS = "runs"
MISSING = "missing or not finite"


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


def alarms(checks: Sequence[Check]) -> str:
    """What the checks that fail tell of which subjects, in words; empty where all pass."""
    told: dict[str, list[str]] = {}
    for check in checks:
        if not check.passed:
            if check.metric == RUNS:
                question = "a run is missing, or there twice"
            elif check.candidate is None:
                question = MISSING
            elif check.metric == FAILED:
                question = "more runs fail"
            else:
                question = "a typical run is worse"
            subjects = told.setdefault(question, [])
            if check.subject not in subjects:
                subjects.append(check.subject)
    return "; ".join(f"{question}: {', '.join(names)}" for question, names in told.items())


def sight(checks: Sequence[Check]) -> str:
    """`a fall of 0.04 (resunet) to 0.33 (unet) in Dice would be seen`: of which depth on the checks
    of variants' typical runs see one; empty where there is none."""
    metric = HEADLINES[0]
    seen = {
        check.subject: check.allowed
        for check in checks
        if check.metric == metric and check.subject != ALL and check.allowed is not None
    }
    if not seen:
        return ""
    least, most = (choose(seen, key=lambda name: seen[name]) for choose in (min, max))
    ends = {f"{seen[name]:.2g}": name for name in (least, most)}
    told = " to ".join(f"{fall} ({name})" for fall, name in ends.items())
    if len(ends) == 1:
        (told,) = ends
    return f"a fall of {told} in {METRICS[metric].label} would be seen"


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
    if others := [n for n, known in then.external.items() if now.external.get(n) != known]:
        raise UserError(
            f"the cases of external test sets differ, or are not there now: {', '.join(others)}; "
            "if that was meant: --update-baseline"
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


def compare_studies(
    baseline: Baseline, candidate: Baseline, *, alpha: float = ALPHA, floor: float = FLOOR
) -> list[Check]:
    """Of every variant of the baseline, then of all together: each `gated` metric of a typical
    run, and how many runs failed.

    Raises UserError where the two do not compare, or the baseline has no deviation over seeds.
    """
    check_comparable(baseline, candidate)
    if not baseline.spreads:
        raise UserError("the baseline has no runs")
    if any(found.mean is None for every in baseline.spreads.values() for found in every.values()):
        raise UserError("the baseline has runs without a finite value: write another")
    subjects = len(baseline.spreads) + (len(baseline.spreads) > 1)
    kinds = len(gated(baseline.runs)) + 1
    of_one, of_kind = alpha / (kinds * subjects), alpha / kinds
    variants = tell_apart(baseline, candidate, of_kind)
    checks = typical_checks(variants, alpha=of_one, floor=floor)
    checks += failure_checks(variants, alpha=of_one, of_kind=of_kind)
    order = {subject: place for place, subject in enumerate([*variants, ALL])}
    checks.sort(key=lambda check: order[check.subject])
    for variant, seed in candidate.miscounted():
        note = f"seed {seed} has not exactly one run"
        checks.append(Check(variant, RUNS, None, None, None, None, note))
    return checks


def typical_checks(variants: Mapping[str, Variant], *, alpha: float, floor: float) -> list[Check]:
    """Is a typical run worse? `alpha`: of one comparison."""
    spreads = spreads_of([run for found in variants.values() for run in found.then.typical])
    checks = []
    for pair in pairs_to_compare(spreads, variants):
        every = [metrics[pair.metric] for metrics in spreads.values()]
        deviation, degrees, pooled = deviation_over_seeds(pair.then, every, pair.averaged)
        bound = pair.deepest + margin(
            deviation,
            degrees,
            seeds=pair.then.seeds,
            runs=pair.now.seeds,
            alpha=alpha,
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
    return checks


class Pair(NamedTuple):
    """A typical run's figure then and now.

    averaged: the number of variants that it is the mean of. left_out: runs failed, and are not in
    it. unclear: failed_runs.Variant's, then all of the candidate's are in it, and deepest is how
    far below a typical run the baseline's failed ones lie.
    """

    subject: str
    metric: str
    then: Spread
    now: Spread
    averaged: int = 1
    left_out: bool = False
    unclear: bool = False
    deepest: float = 0.0


Spreads = Mapping[str, Mapping[str, Spread]]  # variant -> metric


def pairs_to_compare(typical: Spreads, variants: Mapping[str, Variant]) -> list[Pair]:
    """Each variant in each metric, then their mean: a value for each of the seeds that all of them
    have, and with which most do not fail. Without it where there is one variant, or no such seed.

    typical: of the baseline's runs that did not fail.
    """
    pairs = []
    for metric in next(iter(typical.values())):
        usual = {name: typical[name][metric].mean or 0.0 for name in variants}
        falls = {name: _falls(runs, metric, usual[name]) for name, runs in variants.items()}
        for name, runs in variants.items():
            seen = falls[name] or chain(*falls.values())
            pairs.append(
                Pair(
                    name,
                    metric,
                    typical[name][metric],
                    spread_of(_compared(runs, metric)),
                    left_out=bool(runs.then.failed or runs.now.failed) and not runs.unclear,
                    unclear=runs.unclear,
                    deepest=max(0.0, *seen) if runs.unclear else 0.0,
                )
            )
        then = means_over({name: runs.then for name, runs in variants.items()}, metric, usual)
        now = means_over({name: runs.now for name, runs in variants.items()}, metric, usual)
        if len(variants) > 1 and then and now:
            left_out = any(runs.then.failed or runs.now.failed for runs in variants.values())
            pairs.append(
                Pair(ALL, metric, spread_of(then), spread_of(now), len(variants), left_out)
            )
    return pairs


def _falls(runs: Variant, metric: str, usual: float) -> list[float]:
    """By how much the baseline's failed runs are worse than its typical one."""
    values = [run.metrics[metric] for run in runs.then.failed]
    return [_worse(metric, usual, value) for value in values if value is not None]


def _compared(runs: Variant, metric: str) -> list[float | None]:
    """The candidate's values. One that is missing is missing, whether its run failed or not."""
    failed = [run.metrics.get(metric) for run in runs.now.failed]
    typical = [run.metrics.get(metric) for run in runs.now.typical]
    return [*typical, *(value for value in failed if runs.unclear or value is None)]


def means_over(
    variants: Mapping[str, Runs], metric: str, usual: Mapping[str, float]
) -> list[float | None]:
    """A mean over `variants` for each seed that they all have, of those whose run did not fail;
    without a seed with which more than half failed. None where a value is missing.

    usual: each variant's typical run in the baseline. The mean is theirs, and the mean distance of
    a seed's runs from them: so it does not change with the variant that failed.
    """
    by_seed: dict[int, dict[str, tuple[float | None, bool]]] = {}
    for name, runs in variants.items():
        for failed, found in ((False, runs.typical), (True, runs.failed)):
            for run in found:
                by_seed.setdefault(run.seed, {})[name] = (run.metrics.get(metric), failed)
    middle = fmean(usual.values())
    means: list[float | None] = []
    for values in by_seed.values():
        if len(values) < len(variants):
            continue
        if any(value is None for value, _ in values.values()):
            means.append(None)
            continue
        away = [
            value - usual[name]
            for name, (value, failed) in values.items()
            if value is not None and not failed
        ]
        if 2 * len(away) >= len(variants):
            means.append(middle + fmean(away))
    return means


def failure_checks(variants: Mapping[str, Variant], *, alpha: float, of_kind: float) -> list[Check]:
    """Do more runs fail? `alpha`: of one comparison; of_kind: of these together."""
    every = {name: runs.counts for name, runs in variants.items()}
    total = added(list(every.values()))
    checks = [failure_check(name, own, total, alpha, of_kind) for name, own in every.items()]
    if len(every) > 1:
        checks.append(failure_check(ALL, total, total, alpha, alpha))
    return checks


def failure_check(subject: str, own: Counts, total: Counts, alpha: float, of_kind: float) -> Check:
    """`total`: of all variants."""
    before = own.failed_then / own.then
    if not own.now:
        return Check(subject, FAILED, before, None, None, None, MISSING)

    def level(failed: int) -> float:
        return of_kind if 2 * failed > own.now else alpha

    def regressed(failed: int) -> bool:
        found = p_more_failures(own.failed_then, own.then, failed, own.now)
        if found < alpha or 2 * failed <= own.now:
            return found < alpha
        others = p_more_failures(total.failed_then, total.then, failed, own.now)
        return max(found, others) < of_kind

    most = bisect_left(range(own.now + 1), True, key=regressed) - 1
    words = f"{own.failed_now} of {quantity(own.now, 'run')} failed, "
    words += f"{own.failed_then} of {own.then} before"
    rate = own.failed_now / own.now
    if rate > before:
        words += f"; p = {own.p_value:.2g}, regressed if below {level(own.failed_now):.2g}"
    if most == own.now:
        words += "; blind: too few runs to show more"
    return Check(subject, FAILED, before, rate, rate - before, most / own.now - before, words)


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
    figure is the mean of. Raises UserError where no variant has two seeds.
    """
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
    return None if then is None or now is None else _worse(pair.metric, then, now)


def _worse(metric: str, then: float, now: float) -> float:
    return then - now if METRICS[plain(metric)].better == "higher" else now - then


def _note(pair: Pair, bound: float, *, pooled: bool) -> str:
    if pair.now.mean is None:
        return MISSING
    words = f"{pair.now.seeds} against {quantity(pair.then.seeds, 'run')}"
    if pair.left_out:
        words += " that did not fail"
    if pooled:
        words += ", pooled"
    if pair.unclear:
        words += "; all as low as failed ones, and may fall as deep: train more seeds to tell"
    metric = plain(pair.metric)
    higher = METRICS[metric].better == "higher"
    blind = higher and (pair.then.mean or 0.0) - bound <= range_of(metric)[0]
    return f"{words}; blind: no fall is that deep, store more seeds" if blind else words

"""The protocol: from a table of scores to what can be said of the variants.

It knows of no file: a table in, records of pipeline/statistics/results.py out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np
import pandas as pd

from pipeline.statistics.crossed import (
    Groups,
    Values,
    by_group,
    count_groups,
    variance_components,
)
from pipeline.statistics.definitions import POOLED, Better, Bounds, metric_of
from pipeline.statistics.factorial import effects
from pipeline.statistics.ordering import order_all, rank_all
from pipeline.statistics.pairs import (
    CASES_ALONE,
    THRESHOLD,
    choose_pairing,
    compare_cases,
    compare_pairs,
)
from pipeline.statistics.power import plan
from pipeline.statistics.results import (
    AveragedEstimate,
    Comparison,
    Effect,
    Estimate,
    Interval,
    Pairing,
    without_inference,
)
from pipeline.statistics.typical import (
    Failed,
    is_descriptive,
    more_runs_interval,
    seeds_alone_interval,
    typical_interval,
    typical_mean,
)
from pipeline.study.paper import Paper, half_unit, value_of
from pipeline.study.values import Averaging, quantity

FailedRuns = Collection[tuple[str, int]]  # variant and seed of each
ONE_RUN = (
    "One run of each variant: what follows is over cases alone. What another seed would give is "
    "in no interval, so no difference is called shown."
)


@dataclass(frozen=True)
class Protocol:
    """What is asked of a table of one metric, fixed before looking at it.

    metric: its name. margin: of equivalence, in the metric's units; None where none is known.
    baseline: that the others are held against. printed: a variant's figure in the paper, for those
    of which it prints one. claims: of the paper, orderings of variants, best first. factors: a
    crossed design, variant -> those that it has (study/paper.py). draws, seed: of the bootstrap.
    better: higher or lower values.
    """

    metric: str
    margin: float | None
    baseline: str | None = None
    printed: Mapping[str, float] = field(default_factory=dict)
    claims: Sequence[Sequence[str]] = ()
    factors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    draws: int = 10_000
    seed: int = 0
    better: Better = "higher"

    def oriented(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with values of which the higher are better: negative ones where it is not."""
        return table if self.better == "higher" else table.assign(value=-table["value"])


class Design:
    """The fully crossed part of a table: `scores` (V, S, C) of `variants`, `seeds`, `cases`, which
    runs `failed` (V, S), and the `groups` of cases (C,), None where each is of its own.

    Variants that were not scored on the same cases as most, or that have a score that is not a
    number, are left out; then seeds that not every variant has; `notes` tell of both.
    Source of the order: the table. Raises ValueError if a (variant, seed, case) stands twice.
    """

    def __init__(self, table: pd.DataFrame, failed_runs: FailedRuns = ()) -> None:
        self.notes: list[str] = []
        keys = table.set_index(["variant", "seed", "case"])["value"]
        if keys.index.has_duplicates:
            raise ValueError("a (variant, seed, case) stands in the table twice")
        wide = keys.where(np.isfinite(keys)).unstack()  # noqa: PD010 - pivot_table would average
        sets = {
            str(name): frozenset(own["case"]) for name, own in table.groupby("variant", sort=False)
        }
        most, _ = Counter(sets.values()).most_common(1)[0]
        self.cases = [case for case in dict.fromkeys(table["case"]) if case in most]
        wide = wide[self.cases]
        self.variants = [
            name
            for name, scored in sets.items()
            if self._usable(name, wide.loc[[name]].droplevel("variant"), table, len(scored - most))
        ]
        runs = {name: set(wide.loc[name].index) for name in self.variants}
        every = dict.fromkeys(table["seed"])
        self.seeds = [seed for seed in every if all(seed in seeds for seeds in runs.values())]
        for seed in every:
            lacking = [name for name, seeds in runs.items() if seed not in seeds]
            if lacking and len(lacking) < len(runs):
                self.notes.append(
                    f"Seed {seed} is left out of comparisons: no run of {', '.join(lacking)}."
                )
        rows = [(name, seed) for name in self.variants for seed in self.seeds]
        shape = (len(self.variants), len(self.seeds), len(self.cases))
        self.scores: Values = wide.loc[rows].to_numpy(dtype=np.float64).reshape(shape)
        self.failed: Failed = np.array([row in failed_runs for row in rows], dtype=bool).reshape(
            shape[:2]
        )
        self.groups = _groups_of(table, self.cases)

    @property
    def units(self) -> int:
        """How many cases there are, those of one group as one."""
        return len(self.cases) if self.groups is None else count_groups(self.groups)

    @property
    def fewest_usable(self) -> int:
        """Of a variant's runs that did not fail, the fewest; 0 where there is no variant."""
        return int((~self.failed).sum(axis=1).min(initial=len(self.seeds)))

    def _usable(self, name: str, runs: pd.DataFrame, table: pd.DataFrame, others: int) -> bool:
        """Whether every run of a variant has a number for every case, and none for `others`; `runs`
        (seeds, cases)."""
        gaps = runs.isna().to_numpy()
        if not gaps.any() and not others:
            return True
        scored = len(table[(table["variant"] == name) & table["case"].isin(runs.columns)])
        if others:
            found = quantity(others, "case")
            what = f"it was scored on {found} that most were not (unequal case sets)"
        elif scored < runs.size:
            what = f"{runs.size - scored} of {runs.size} scores are missing (unequal case sets)"
        else:
            what = f"it has no number for {int(gaps.sum())} of {runs.size} scores"
        self.notes.append(f"{name} is left out of comparisons: {what}.")
        return False


def _groups_of(table: pd.DataFrame, cases: Sequence[str]) -> Groups | None:
    if "group" not in table:
        return None
    group_of = table.drop_duplicates("case").set_index("case")["group"]
    return as_groups(group_of.loc[list(cases)])


def as_groups(names: pd.Series | Groups) -> Groups | None:
    """The groups of cases by their names (C,); None where each case is of its own."""
    groups = np.asarray(pd.factorize(np.asarray(names))[0], dtype=np.int64)
    return None if count_groups(groups) == len(groups) else groups


def estimate(
    values: Values | None,
    failed: Failed,
    *,
    variant: str,
    metric: str,
    paper: Paper | None = None,
    groups: Groups | None = None,
) -> Estimate:
    """A variant's values (S, C) summed up, beside the paper's figure where it prints one; None or
    values that are not numbers give no figure of ours.

    failed: (S,), the runs that did. groups: of cases (C,), as of by_group.
    """
    printed = {} if paper is None else paper.figures(metric)
    figure = printed.get(variant)
    value = None if figure is None else value_of(figure)
    rounding = None if figure is None else half_unit(figure)
    if values is None or not np.isfinite(values).all():
        shape = (0, 0) if values is None else values.shape
        return Estimate(
            variant=variant, metric=metric, mean=None, standard_deviation=None, typical=None,
            interval=None, seeds=shape[0], cases=shape[1], paper=value,
            paper_rounding=rounding, paper_interval=None,
        )  # fmt: skip
    seeds, cases = values.shape
    units, bounds = by_group(values, groups), _bounds_of(metric, values)
    expected = None
    if figure is not None and paper is not None:
        runs = paper.runs or 1
        if metric in POOLED and cases == 1:
            expected = seeds_alone_interval(
                values[:, 0], failed, bounds, figures=len(printed), runs=runs
            )
        else:
            # The paper's cases, too, belong together as these do.
            theirs = None if paper.cases is None else paper.cases * units.shape[1] / cases
            expected = more_runs_interval(
                units, failed, bounds, figures=len(printed), runs=runs, cases=theirs
            )
    return Estimate(
        variant=variant,
        metric=metric,
        mean=float(values.mean()),
        standard_deviation=float(values.mean(axis=1).std(ddof=1)) if seeds > 1 else None,
        typical=typical_mean(values, failed),
        interval=typical_interval(units, failed, bounds),
        seeds=seeds,
        cases=cases,
        paper=value,
        paper_rounding=rounding,
        paper_interval=expected,
    )


def _bounds_of(metric: str, values: Values) -> Bounds | None:
    """The metric's; None where a value lies beyond them: it is not what its name says."""
    bounds = metric_of(metric).bounds
    if bounds is None or values.min() < bounds[0]:
        return None
    return None if bounds[1] is not None and values.max() > bounds[1] else bounds


def beside_each_other(estimates: Sequence[Estimate]) -> list[Estimate]:
    """A study's estimates such that they compare: where other variants have several runs, the
    interval of one run, which is over its cases alone, does not stand beside theirs."""
    several = any(each.seeds > 1 for each in estimates)
    return [
        each.model_copy(update={"interval": None}) if several and each.seeds == 1 else each
        for each in estimates
    ]


def estimate_averaged(
    values: Values,
    single: Values,
    failed: Failed,
    *,
    variant: str,
    averaging: Averaging,
    metric: str,
    groups: Groups | None = None,
) -> AveragedEstimate:
    """Averaged probabilities' scores, (S, C) with flips and (1, C) of an ensemble, held against
    `single`, the (S, C) of the networks themselves, of which `failed` (S,) did; same seeds and
    cases in the same order. groups: of cases (C,), as of by_group."""
    ensemble = averaging != "flips"
    gains = values - (single.mean(axis=0) if ensemble else single)
    runs, cases = values.shape
    left_out = np.zeros(runs, dtype=bool) if ensemble else failed
    known, known_gains = (bool(np.isfinite(found).all()) for found in (values, gains))

    def interval(found: Values, known: bool, bounds: Bounds | None = None) -> Interval | None:
        if not known or is_descriptive(failed) or (runs < 2 and not ensemble):
            return None
        return typical_interval(by_group(found, groups), left_out, bounds)

    return AveragedEstimate(
        variant=variant,
        averaging=averaging,
        metric=metric,
        runs=runs,
        cases=cases,
        mean=float(values.mean()) if known else None,
        standard_deviation=float(values.mean(axis=1).std(ddof=1)) if known and runs > 1 else None,
        interval_over="cases" if ensemble else "seeds and cases",
        interval=interval(values, known, _bounds_of(metric, values)),
        difference=typical_mean(gains, left_out) if known_gains else None,
        difference_interval=interval(gains, known_gains),
    )


def compare(table: pd.DataFrame, protocol: Protocol, failed_runs: FailedRuns = ()) -> Comparison:
    """The whole protocol on a table with the columns variant, seed, case and value, and group where
    cases belong together: in errors over cases those of one group count as one.

    failed_runs: (variant, seed) of each.
    Source: the protocol of the design, fixed before any result was looked at.
    """
    crossed = Design(protocol.oriented(table), failed_runs)
    names, values, failed, notes = crossed.variants, crossed.scores, crossed.failed, crossed.notes
    pairing, pairs, factorial = None, [], []
    design: dict[str, list[str]] = {}
    ranks = ordering = variance = power = None
    descriptive = is_descriptive(failed)
    if len(names) < 2:
        notes.append("There are no two variants to compare.")
    elif len(crossed.seeds) == 0:
        notes.append("No seed was run by all variants: nothing can be compared.")
    elif len(crossed.cases) == 1:
        notes.append("With one test case nothing can be said of others.")
    elif crossed.units == 1:
        notes.append("With test cases of one group nothing can be said of others.")
    elif len(crossed.seeds) == 1:
        notes.insert(0, ONE_RUN)
        pairing = Pairing(correlation=None, threshold=THRESHOLD, paired=True, test=CASES_ALONE)
        pairs = compare_cases(values[:, 0], names, crossed.groups)
    elif crossed.fewest_usable < 2:
        notes.append("Of a variant no two runs of these seeds did not fail: nothing is compared.")
    else:
        means = values.mean(axis=2)
        pairing = choose_pairing(means)
        pairs = compare_pairs(
            values, failed, names, pairing.paired, margin=protocol.margin, groups=crossed.groups
        )
        units = by_group(values, crossed.groups)
        if protocol.factors and set(protocol.factors) <= set(names):
            design = {name: list(having) for name, having in protocol.factors.items()}
            places = {name: names.index(name) for name in design}
            factorial = effects(
                {
                    name: (having, units[places[name]], failed[places[name]])
                    for name, having in design.items()
                },
                pairing.paired,
            )
        ranks = rank_all(means, names)
        if descriptive:
            ranks = without_inference(ranks).model_copy(update={"groups": []})
        sign = 1 if protocol.better == "higher" else -1
        printed = {n: sign * protocol.printed[n] for n in names if n in protocol.printed}
        factorial = [turn(effect) for effect in factorial] if sign < 0 else factorial
        ordering = order_all(
            units, failed, names, _best_first(printed), pairing.paired,
            draws=0 if descriptive else protocol.draws, seed=protocol.seed,
        )  # fmt: skip
        variance = variance_components(values)
        power = plan(units, failed, pairing.paired, _first_gap(printed), protocol.margin)
    return Comparison(
        metric=protocol.metric,
        variants=names,
        seeds=crossed.seeds,
        cases=len(crossed.cases),
        groups=None if crossed.groups is None else crossed.units,
        descriptive=descriptive,
        notes=notes,
        pairing=pairing,
        pairs=pairs,
        baseline=protocol.baseline if protocol.baseline in names else None,
        equivalence_margin=protocol.margin,
        better=protocol.better,
        claims=_claimed_pairs(protocol.claims, names),
        design=design,
        factorial=factorial,
        ranks=ranks,
        ordering=ordering,
        variance=variance,
        power=power,
    )


def _claimed_pairs(claims: Sequence[Sequence[str]], names: Sequence[str]) -> list[tuple[str, str]]:
    """Neighbours in the orderings, of those variants that are compared; each pair once."""
    orderings = [[name for name in claim if name in names] for claim in claims]
    return list(dict.fromkeys(chain.from_iterable(pairwise(each) for each in orderings)))


def turn(effect: Effect) -> Effect:
    """An effect on the negative of a metric as that on the metric."""
    bounds = effect.interval
    return effect.model_copy(
        update={
            "difference": -effect.difference,
            "interval": None if bounds is None else Interval(low=-bounds.high, high=-bounds.low),
        }
    )


def _best_first(printed: Mapping[str, float]) -> list[str]:
    """The paper's ordering; none where two of its figures are equal, which orders nothing."""
    if len(set(printed.values())) < len(printed):
        return []
    return sorted(printed, key=lambda name: -printed[name])


def _first_gap(printed: Mapping[str, float]) -> float | None:
    """Between the paper's two best figures."""
    best = sorted(printed.values(), reverse=True)
    return best[0] - best[1] if len(best) > 1 else None

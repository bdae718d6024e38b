"""The protocol: from a table of scores to what can be said of the variants.

It knows of no file: a table in, records of pipeline/statistics/results.py out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.statistics.crossed import Values, case_interval, variance_components
from pipeline.statistics.factorial import effects
from pipeline.statistics.ordering import order_all, rank_all
from pipeline.statistics.pairs import (
    FEWEST_SEEDS,
    choose_pairing,
    compare_pairs,
    is_descriptive,
)
from pipeline.statistics.power import plan
from pipeline.statistics.results import AveragedEstimate, Comparison, Estimate, Interval
from pipeline.statistics.typical import (
    Failed,
    single_run_interval,
    typical_interval,
    typical_mean,
)
from pipeline.study.values import Averaging, quantity

NO_SPREAD = "With one seed no interval and no test can be had: how much is chance cannot be told."


class Design:
    """The fully crossed part of a table: `scores` (V, S, C) of `variants`, `seeds`, `cases`, and
    which runs `failed` (V, S).

    Variants that were not scored on the same cases as most, or that have a score that is not a
    number, are left out; then seeds that not every variant has; `notes` tell of both.
    Source of the order: the table. Raises ValueError if a (variant, seed, case) stands twice.
    """

    def __init__(self, table: pd.DataFrame, failed_runs: Collection[tuple[str, int]] = ()) -> None:
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


def estimate(
    values: Values | None,
    failed: Failed,
    *,
    variant: str,
    metric: str,
    paper: float | None = None,
    figures: int = 1,
) -> Estimate:
    """A variant's values (S, C) summed up; None or values that are not numbers give no figure.

    failed: (S,), the runs that did. figures: of the paper in this metric,
    which are all held against its variants' single runs.
    """
    if values is None or not np.isfinite(values).all():
        shape = (0, 0) if values is None else values.shape
        return Estimate(
            variant=variant, metric=metric, mean=None, standard_deviation=None, typical=None,
            interval=None, seeds=shape[0], cases=shape[1], paper=paper, single_run=None,
        )  # fmt: skip
    seeds, cases = values.shape
    crossed = (~failed).sum() > 1 and cases > 1
    held = crossed and paper is not None
    return Estimate(
        variant=variant,
        metric=metric,
        mean=float(values.mean()),
        standard_deviation=float(values.mean(axis=1).std(ddof=1)) if seeds > 1 else None,
        typical=typical_mean(values, failed),
        interval=typical_interval(values, failed) if crossed else None,
        seeds=seeds,
        cases=cases,
        paper=paper,
        single_run=single_run_interval(values, failed, figures) if held else None,
    )


def estimate_averaged(
    values: Values,
    single: Values,
    failed: Failed,
    *,
    variant: str,
    averaging: Averaging,
    metric: str,
) -> AveragedEstimate:
    """Averaged probabilities' scores, (S, C) with flips and (1, C) of an ensemble, held against
    `single`, the (S, C) of the networks themselves, of which `failed` (S,) did; same seeds and
    cases in the same order."""
    ensemble = averaging != "flips"
    gains = values - (single.mean(axis=0) if ensemble else single)
    runs, cases = values.shape
    left_out = np.zeros(runs, dtype=bool) if ensemble else failed
    known, known_gains = (bool(np.isfinite(found).all()) for found in (values, gains))

    def interval(found: Values, known: bool) -> Interval | None:
        if not known or cases < 2 or ((~left_out).sum() < 2 and not ensemble):
            return None
        return case_interval(found[0]) if ensemble else typical_interval(found, left_out)

    return AveragedEstimate(
        variant=variant,
        averaging=averaging,
        metric=metric,
        runs=runs,
        cases=cases,
        mean=float(values.mean()) if known else None,
        standard_deviation=float(values.mean(axis=1).std(ddof=1)) if known and runs > 1 else None,
        interval_over="cases" if ensemble else "seeds and cases",
        interval=interval(values, known),
        difference=typical_mean(gains, left_out) if known_gains else None,
        difference_interval=interval(gains, known_gains),
    )


def compare(
    table: pd.DataFrame,
    *,
    metric: str,
    baseline: str | None,
    margin: float,
    paper: Mapping[str, float],
    factors: Mapping[str, tuple[bool, bool]],
    failed_runs: Collection[tuple[str, int]] = (),
    draws: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """The whole protocol on a table with the columns variant, seed, case and value.

    Values are of the primary metric, higher is better. margin: of equivalence, in its units.
    paper: the figures of the variants that the paper reports. factors: variant -> (gates, encoder
    attention), the 2 x 2 design's four. failed_runs: (variant, seed) of each. draws, seed: of the
    bootstrap.
    Source: the protocol of the design, fixed before any result was looked at.
    """
    design = Design(table, failed_runs)
    names, values, failed, notes = design.variants, design.scores, design.failed, design.notes
    pairing, pairs, factorial = None, [], []
    ranks = ordering = variance = power = None
    enough = len(names) > 1
    if not enough:
        notes.append("There are no two variants to compare.")
    elif len(design.seeds) == 0:
        notes.append("No seed was run by all variants: nothing can be compared.")
    elif len(design.seeds) == 1:
        notes.append(NO_SPREAD)
    elif len(design.cases) == 1:
        notes.append("With one test case nothing can be said of others.")
    elif design.fewest_usable < 2:
        notes.append("Of a variant no two runs of these seeds did not fail: nothing is compared.")
    else:
        if len(design.seeds) < FEWEST_SEEDS:
            notes.append(
                f"Descriptive only: {len(design.seeds)} seeds; below {FEWEST_SEEDS} no difference "
                "is called shown."
            )
        elif is_descriptive(failed):
            few = [
                f"{name} {left} of {len(design.seeds)}"
                for name, left in zip(names, (~failed).sum(axis=1), strict=True)
                if 2 * left < FEWEST_SEEDS
            ]
            notes.append(
                f"Descriptive only: too few runs did not fail ({'; '.join(few)}); no difference is "
                "called shown."
            )
        means = values.mean(axis=2)
        pairing = choose_pairing(means)
        pairs = compare_pairs(values, failed, names, pairing.paired, margin=margin)
        if factors and set(factors) <= set(names):
            places = {levels: names.index(name) for name, levels in factors.items()}
            cells = {levels: (values[place], failed[place]) for levels, place in places.items()}
            factorial = effects(cells, pairing.paired)
        ranks = rank_all(means, names)
        ordering = order_all(
            values, failed, names, _best_first(paper, names), pairing.paired, draws=draws, seed=seed
        )
        variance = variance_components(values)
        power = plan(values, failed, pairing.paired, _first_gap(paper), margin)
    return Comparison(
        metric=metric,
        variants=names,
        seeds=design.seeds,
        cases=len(design.cases),
        notes=notes,
        pairing=pairing,
        pairs=pairs,
        baseline=baseline if baseline in names else None,
        equivalence_margin=margin,
        factorial=factorial,
        ranks=ranks,
        ordering=ordering,
        variance=variance,
        power=power,
    )


def _best_first(paper: Mapping[str, float], names: Sequence[str]) -> list[str]:
    return sorted((name for name in names if name in paper), key=lambda name: -paper[name])


def _first_gap(paper: Mapping[str, float]) -> float | None:
    """Between the paper's two best figures."""
    best = sorted(paper.values(), reverse=True)
    return best[0] - best[1] if len(best) > 1 else None

"""A typical run: one that has not failed. What a variant's is, and the error of its differences.

Of a variant's S runs those that failed (statistics/failures.py) are set aside; of seven or more
that are left, a tenth at either end, one at least, is trimmed. The mean of the h that are kept,
over cases, is the typical run. Its squared error is the sum of two:

- seeds: SSD / (h (h - 1)), SSD the winsorised sum of squares of the runs that did not fail, with
  h - 1 degrees of freedom (Yuen 1974, Tukey and McLaughlin 1963; without trimming it is a mean's).
  A difference of two variants has the sum of theirs, or, where seeds pair them, with the winsorised
  covariance (Yuen's test for dependent groups, Wilcox 2012, section 5.9). Where the variants' own
  error is smaller than the one pooled over all variants, the pooled one stands: with few runs one
  that is small by luck finds what is not there.
- cases: their variance over C, with the noise of runs taken off, as of crossed.two_way. Where cases
  belong together, as a patient's, C are their groups and values those of crossed.by_group.

The degrees of freedom of the sum are Welch's (Satterthwaite 1946).

Assumed: the variants' runs that did not fail are alike in shape, or symmetric, or nearly normal:
the trimmed mean of skewed runs is not their mean, and differs from it the more, the more they
spread. Runs that fail do so by much: a failure by less than the rule's drop counts as a run like
others, and trimming bounds what it does where there are seven. Cases are many, or not skewed.
The larger of own and pooled error is this suite's choice, made for few runs: docs/simulation.md
says what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.crossed import CONFIDENCE, FEW_SEEDS, Values, around, case_interval
from pipeline.statistics.definitions import FEWEST_SEEDS, Bounds
from pipeline.statistics.results import Interval

TRIMMED = 0.1  # of the runs that did not fail, at either end, but one at least
FEWEST_TRIMMED = 7  # of fewer none is trimmed: too few would be left to tell how much runs differ
SAME = 1e-12  # below it a difference of means is rounding
Failed = NDArray[np.bool_]  # whether each run did


def is_descriptive(failed: Failed) -> bool:
    """Whether runs (V, S) or (S,), more than one of a variant, are too few to conclude from: fewer
    than seven seeds, or of a variant fewer than four, more than half of seven, that did not
    fail."""
    seeds = failed.shape[-1]
    sound = (~failed).sum(axis=-1).min(initial=seeds)
    return bool(seeds > 1 and min(seeds, 2 * sound) < FEWEST_SEEDS)


@dataclass(frozen=True)
class TypicalRun:
    """by_case: the kept runs' mean of each case (C,). moves: each run's part in the mean over
    seeds (S,), the sum of whose squares is its squared error; 0 for one that failed. rest: the
    variance of by_case that is noise of runs. kept: runs in the mean, h."""

    by_case: Values
    moves: Values
    rest: float
    kept: int

    @property
    def mean(self) -> float:
        return float(self.by_case.mean())

    @property
    def seeds(self) -> float:
        """The squared error over seeds."""
        return float(np.square(self.moves).sum())

    @property
    def pooling(self) -> tuple[float, int]:
        """The winsorised sum of squares, and its degrees of freedom."""
        return self.seeds * self.kept * (self.kept - 1), self.kept - 1


def trimmed(runs: int) -> int:
    """How many of `runs` that did not fail are trimmed at either end."""
    return max(1, int(TRIMMED * runs)) if runs >= FEWEST_TRIMMED else 0


def kept(runs: int) -> int:
    """How many of `runs` that did not fail are in the typical run's mean."""
    return runs - 2 * trimmed(runs)


def _order(means: Values) -> NDArray[np.intp]:
    """Which of a variant's runs that did not fail, by their means (n,), are kept, the worst
    first."""
    cut = trimmed(len(means))
    return np.argsort(means, kind="stable")[cut : len(means) - cut]


def typical_run(values: Values, failed: Failed) -> TypicalRun:
    """Of values (S, C) and failed (S,); two runs at least that did not fail, and two cases."""
    own = np.flatnonzero(~failed)
    means = values[own].mean(axis=1)
    order = _order(means)
    used = values[own[order]]
    number, cases = used.shape
    winsorised = np.clip(means, means[order[0]], means[order[-1]])
    moves = np.zeros(len(values))
    moves[own] = (winsorised - winsorised.mean()) / np.sqrt(number * (number - 1))
    by_case = used.mean(axis=0)
    residuals = used - used.mean(axis=1, keepdims=True) - by_case + by_case.mean()
    rest = np.square(residuals).sum() / ((number - 1) * (cases - 1)) / number
    return TypicalRun(by_case, moves, float(rest), number)


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of typical runs: its value, its squared errors, and their degrees of freedom.
    The cases' are C - 1, of each set of cases."""

    value: float
    seeds: float
    cases: float
    freedom: float  # of the sum

    @property
    def error(self) -> float:
        return float(np.sqrt(self.seeds + self.cases))

    @property
    def distance(self) -> float:
        """From 0, in errors."""
        return _in_errors(abs(self.value), self.error)

    @property
    def p_value(self) -> float:
        """Two-sided, that the value is 0: Student's."""
        return float(2 * stats.t.sf(self.distance, self.freedom))

    def interval(self, level: float = CONFIDENCE, bounds: Bounds | None = None) -> Interval:
        """bounds: of the metric, where the value is one of it and no difference."""
        reach = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error
        return around(self.value, reach, bounds)

    def equivalence(self, margin: float) -> float:
        """The p-value of two one-sided tests that the value lies within +- margin."""
        inside = margin - abs(self.value)
        return float(
            stats.t.sf(np.sign(inside) * _in_errors(abs(inside), self.error), self.freedom)
        )


def _in_errors(distance: float, error: float) -> float:
    if error > 0:
        return distance / error
    return np.inf if distance > SAME else 0.0


def contrasts(
    runs: Sequence[TypicalRun], weights: Sequence[Sequence[float]] | Values, paired: bool
) -> list[Contrast]:
    """Weighted sums of the variants' typical runs, one for each row of `weights` (rows, V)."""
    found = []
    for row in np.asarray(weights, dtype=np.float64):
        value, of_cases = _over_cases(runs, row)
        found.append(_contrast(value, runs, row, [of_cases], paired))
    return found


def changes(
    here: Sequence[TypicalRun],
    there: Sequence[TypicalRun],
    weights: Sequence[Sequence[float]] | Values,
    paired: bool,
) -> list[Contrast]:
    """By how much weighted sums of the variants' typical runs differ between two sets of cases,
    that on `there` less that on `here`: of one weight a variant's own change, of 1 and -1 the
    difference of two differences.

    The same runs in the same order were scored on both, so what a seed moves on one it moves on the
    other: the squared error over seeds is of each run's parts in the two means, subtracted (Yuen's
    for dependent groups). No case is in both: their squared errors over cases add up.
    """
    both = [
        TypicalRun(b.by_case, b.moves - a.moves, b.rest, min(a.kept, b.kept))
        for a, b in zip(here, there, strict=True)
    ]
    found = []
    for row in np.asarray(weights, dtype=np.float64):
        (before, cases_here), (after, cases_there) = (
            _over_cases(runs, row) for runs in (here, there)
        )
        found.append(_contrast(after - before, both, row, [cases_here, cases_there], paired))
    return found


Parts = list[tuple[float, float]]  # squared errors, each with its degrees of freedom


def _over_cases(runs: Sequence[TypicalRun], row: Values) -> tuple[float, tuple[float, float]]:
    """The weighted sum, and its squared error over cases with its degrees of freedom."""
    differences = row @ np.array([run.by_case for run in runs])
    rests = np.array([run.rest for run in runs])
    cases = len(differences)
    error = max(0.0, float(differences.var(ddof=1) - np.square(row) @ rests) / cases)
    return float(differences.mean()), (error, cases - 1)


def _contrast(
    value: float, runs: Sequence[TypicalRun], row: Values, cases: Parts, paired: bool
) -> Contrast:
    seeds = (_paired_error if paired else _unpaired_error)(runs, row)
    least = min(run.kept for run, weight in zip(runs, row, strict=True) if weight)
    return Contrast(
        value=value,
        seeds=sum(part for part, _ in seeds),
        cases=sum(part for part, _ in cases),
        freedom=_freedom(seeds, cases, least, len(runs[0].moves)),
    )


def _unpaired_error(runs: Sequence[TypicalRun], row: Values) -> Parts:
    """Of seeds: each variant's own, or for all whose own is smaller the pooled one together."""
    squares, freedom = np.array([run.pooling for run in runs]).T
    pooled = float(squares.sum() / freedom.sum())
    own: Parts = []
    common = 0.0
    for run, weight in zip(runs, row, strict=True):
        if weight and run.seeds > (1 + SAME) * pooled / run.kept:
            own.append((float(weight**2 * run.seeds), run.kept - 1))
        else:
            common += float(weight**2 * pooled / run.kept)
    return [*own, (common, float(freedom.sum()))]


def _paired_error(runs: Sequence[TypicalRun], row: Values) -> Parts:
    """Of seeds: the contrast's own, or the pooled one of all pairs if it is smaller."""
    moves = np.array([run.moves for run in runs])
    numbers = np.array([run.kept for run in runs])
    least = int(numbers[row != 0].min())
    own = float(np.square(row @ moves).sum())
    between = [
        np.square(moves[a] - moves[b]).sum() * min(numbers[a], numbers[b])
        for a, b in combinations(range(len(runs)), 2)
    ]
    # Of variants that are alike: a weight's square is worth half a difference's.
    pooled = float(np.square(row).sum() / 2 * np.mean(between) / least)
    if own >= pooled:
        return [(own, least - 1)]
    return [(pooled, (len(runs) - 1) * (least - 1))]


def _freedom(seeds: Parts, cases: Parts, kept: int, runs: int) -> float:
    """Satterthwaite's, of a sum of squared errors, each with its own. The least of the seeds' where
    there is no error and of fewer than five kept runs, and h - 1 where there were fewer than five
    `runs` at all: Satterthwaite's number is then itself too uncertain (crossed.Errors.freedom)."""
    if runs < FEW_SEEDS:
        return float(kept - 1)
    parts = [*seeds, *cases]
    total = sum(part for part, _ in parts)
    if total <= 0 or kept < FEW_SEEDS:
        used = [freedom for part, freedom in seeds if part > 0]
        return float(min(used or [freedom for _, freedom in seeds]))
    return float(total**2 / sum(part**2 / freedom for part, freedom in parts))


def typical_mean(values: Values, failed: Failed) -> float:
    """Of a variant's typical run over cases; values (S, C), failed (S,), one run at least that did
    not fail. What is not a number gives none."""
    means = values[~failed].mean(axis=1)
    return float(means[_order(means)].mean() if np.isfinite(means).all() else np.nan)


def typical_interval(
    values: Values, failed: Failed, bounds: Bounds | None = None
) -> Interval | None:
    """Of a variant's typical run over seeds and cases, within the metric's bounds; values (S, C),
    failed (S,). Of one run over cases alone. None where there are too few runs (is_descriptive), or
    one case."""
    if is_descriptive(failed) or values.shape[1] < 2 or failed.all():
        return None
    if len(values) == 1:
        return case_interval(values[0], bounds)
    return _alone(typical_run(values, failed)).interval(bounds=bounds)


def _alone(run: TypicalRun) -> Contrast:
    (found,) = contrasts([run], [[1.0]], paired=False)
    return found


def seeds_alone_interval(
    means: Values,
    failed: Failed,
    bounds: Bounds | None = None,
    *,
    figures: int = 1,
    runs: int = 1,
) -> Interval | None:
    """As more_runs_interval on these very cases, of figures that no case has a part of its own in,
    as a Dice of all pixels; means (S,), failed (S,). No other cases are in it."""
    if len(means) < 2 or is_descriptive(failed):
        return None
    own = means[~failed]
    variance = float(own.var(ddof=1))
    found = Contrast(float(own.mean()), variance / len(own) + variance / runs, 0.0, len(own) - 1)
    return found.interval(1 - (1 - CONFIDENCE) / figures, bounds)


def more_runs_interval(
    values: Values,
    failed: Failed,
    bounds: Bounds | None = None,
    *,
    figures: int = 1,
    runs: int = 1,
    cases: float | None = None,
) -> Interval | None:
    """Where the mean of `runs` more runs lies that do not fail, on another test set, of `cases`
    cases, as many as here if None, within the metric's bounds; values (S, C), failed (S,). Where C
    are groups of cases, so are `cases`. None of one run, too few (is_descriptive), or one case.

    They have seeds and cases of their own: to the typical run's error come the variance of their
    mean and once more that of the cases. At 95 % for all of `figures` together (Bonferroni). The
    degrees of freedom are those of the runs alone: safe where runs are skewed or heavy-tailed,
    which no few of them show, and a little wide where they are not.
    """
    if min(values.shape) < 2 or is_descriptive(failed):
        return None
    own = values[~failed]
    alone = _alone(typical_run(values, failed))
    seeds = alone.seeds + float(own.mean(axis=1).var(ddof=1)) / runs
    share = 1.0 if cases is None else values.shape[1] / cases
    of_cases = (1 + share) * alone.cases
    found = Contrast(alone.value, seeds, of_cases, len(own) - 1)
    return found.interval(1 - (1 - CONFIDENCE) / figures, bounds)

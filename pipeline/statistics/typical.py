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
- cases: their variance over C, with the noise of runs taken off, as of crossed.two_way.

The degrees of freedom of the sum are Welch's (Satterthwaite 1946).

Assumed: the kept runs of a variant are alike but for luck, and runs that fail do so by much. A
failure by less than the rule's drop counts as a run like others, and trimming bounds what it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.crossed import FEW_SEEDS, LEVEL, Values, case_interval
from pipeline.statistics.results import Interval

TRIMMED = 0.1  # of the runs that did not fail, at either end, but one at least
FEWEST_TRIMMED = 7  # of fewer none is trimmed: too few would be left to tell how much runs differ
Failed = NDArray[np.bool_]


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


def typical_run(values: Values, failed: Failed) -> TypicalRun:
    """Of values (S, C) and failed (S,); two runs at least that did not fail, and two cases."""
    own = np.flatnonzero(~failed)
    means = values[own].mean(axis=1)
    cut = max(1, int(TRIMMED * len(own))) if len(own) >= FEWEST_TRIMMED else 0
    order = np.argsort(means, kind="stable")[cut : len(own) - cut]
    kept = values[own[order]]
    number, cases = kept.shape
    winsorised = np.clip(means, means[order[0]], means[order[-1]])
    moves = np.zeros(len(values))
    moves[own] = (winsorised - winsorised.mean()) / np.sqrt(number * (number - 1))
    by_case = kept.mean(axis=0)
    residuals = kept - kept.mean(axis=1, keepdims=True) - by_case + by_case.mean()
    rest = np.square(residuals).sum() / ((number - 1) * (cases - 1)) / number
    return TypicalRun(by_case, moves, float(rest), number)


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of typical runs: its value, its squared errors, and their degrees of freedom.
    The cases' are C - 1."""

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

    def interval(self, level: float = LEVEL) -> Interval:
        reach = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.error
        return Interval(low=self.value - reach, high=self.value + reach)

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


SAME = 1e-12  # below it a difference of means is rounding


def contrasts(
    runs: Sequence[TypicalRun], weights: Sequence[Sequence[float]] | Values, paired: bool
) -> list[Contrast]:
    """Of the variants' typical runs, one for each row of `weights` (rows, V), whose sum is 0."""
    squares, freedom = np.array([run.pooling for run in runs]).T
    pooled = squares.sum() / freedom.sum()
    kept = np.array([run.kept for run in runs])
    moves = np.array([run.moves for run in runs])
    by_case = np.array([run.by_case for run in runs])
    rests = np.array([run.rest for run in runs])
    if paired:
        between = [
            np.square(moves[a] - moves[b]).sum() * min(kept[a], kept[b])
            for a, b in combinations(range(len(runs)), 2)
        ]
        pooled_pair = float(np.mean(between)) if between else 0.0
    found = []
    for row in np.asarray(weights, dtype=np.float64):
        used = np.flatnonzero(row)
        if paired:
            least = int(kept[used].min())
            parts = [
                _larger(
                    (float(np.square(row @ moves).sum()), least - 1),
                    # Of variants that are alike: a weight's square is worth half a difference's.
                    (
                        np.square(row).sum() / 2 * pooled_pair / least,
                        max(1, len(runs) - 1) * (least - 1),
                    ),
                )
            ]
        else:
            parts = [
                _larger(
                    (row[v] ** 2 * float(np.square(moves[v]).sum()), kept[v] - 1),
                    (row[v] ** 2 * pooled / kept[v], freedom.sum()),
                )
                for v in used
            ]
        cases = len(by_case[0])
        differences = row @ by_case
        of_cases = max(0.0, float(differences.var(ddof=1) - np.square(row) @ rests) / cases)
        seeds = float(sum(part for part, _ in parts))
        found.append(
            Contrast(
                value=float(differences.mean()),
                seeds=seeds,
                cases=of_cases,
                freedom=_freedom(parts, (of_cases, cases - 1), int(kept[used].min())),
            )
        )
    return found


def _larger(own: tuple[float, float], pooled: tuple[float, float]) -> tuple[float, float]:
    """A squared error and its degrees of freedom: the pooled one where the own is smaller."""
    return own if own[0] >= pooled[0] else pooled


def _freedom(seeds: Sequence[tuple[float, float]], cases: tuple[float, float], kept: int) -> float:
    """Satterthwaite's, of a sum of squared errors, each with its own; the least of the seeds' where
    there is no error, and of fewer than five kept runs (crossed.Errors.freedom says why)."""
    parts = [*seeds, cases]
    total = sum(part for part, _ in parts)
    if total <= 0 or kept < FEW_SEEDS:
        return float(min(freedom for _, freedom in seeds))
    return float(total**2 / sum(part**2 / freedom for part, freedom in parts))


def typical_mean(values: Values, failed: Failed) -> float:
    """Of a variant's typical run over cases; values (S, C), failed (S,), one run at least that did
    not fail. What is not a number gives none."""
    own = values[~failed]
    if min(own.shape) < 2 or not np.isfinite(own).all():
        return float(own.mean())
    return typical_run(values, failed).mean


def typical_interval(values: Values, failed: Failed) -> Interval:
    """Of a variant's typical run over seeds and cases; values (S, C), failed (S,). Of one run that
    did not fail over cases alone."""
    if (~failed).sum() < 2:
        return case_interval(values[~failed].mean(axis=0))
    return _alone(typical_run(values, failed)).interval()


def _alone(run: TypicalRun) -> Contrast:
    (found,) = contrasts([run], [[1.0]], paired=False)
    return found


def single_run_interval(values: Values, failed: Failed, figures: int = 1) -> Interval:
    """Where one more run's mean lies that does not fail, on another test set of as many cases;
    values (S, C), failed (S,).

    It has a seed and cases of its own: to the typical run's error come the variance of a run's mean
    and once more that of the cases. At 95 % for all of `figures` together (Bonferroni). The degrees
    of freedom are those of the runs alone: safe where runs are skewed or heavy-tailed, which no few
    of them show, and a little wide where they are not.
    """
    own = values[~failed]
    alone = _alone(typical_run(values, failed))
    seeds = alone.seeds + float(own.mean(axis=1).var(ddof=1))
    cases = 2 * alone.cases
    found = Contrast(alone.value, seeds, cases, len(own) - 1)
    return found.interval(1 - (1 - LEVEL) / figures)

"""From a printed table alone: how likely each claimed ordering is false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from pipeline.judge.paper_file import PaperFile
from pipeline.reporting.tables import Cell, Row, Table
from pipeline.statistics.crossed import Values
from pipeline.statistics.definitions import names_dice
from pipeline.statistics.power import noise
from pipeline.statistics.results import Results
from pipeline.statistics.typical import SAME
from pipeline.statistics.verdict import probability
from pipeline.study.errors import UserError
from pipeline.study.values import quantity

METRIC = "dice"
CORRELATIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
RUNS = (0.0, 0.002, 0.004, 0.006, 0.01)  # standard deviations of a run's mean over seeds

MEANS_TERMS = [
    (
        "Probability that a claim is false",
        "Of two printed means with a gap d on n cases: Student's t with n - 1 degrees of freedom "
        "below -d / sqrt(2 s^2 (1 - r) / n), s a method's standard deviation over cases, r the "
        "correlation of the two (arXiv 2505.04720). With seeds 2 v^2 / k is added under the root: "
        "v the standard deviation of a run's mean over seeds, k the runs behind a figure (arXiv "
        "2511.02453). It assumes that the cases are a random sample, and that large differences "
        "were no less likely beforehand than small ones.",
    ),
]


@dataclass(frozen=True)
class Spread:
    """How far Dice spreads, and where that is from.

    cases: a method's standard deviation over cases. correlation: of two methods over cases. runs:
    the standard deviation of a run's mean over seeds. The sources are in words.
    """

    cases: float
    correlation: float
    runs: float
    of_cases: str
    of_correlation: str
    of_runs: str


STATED = "as stated"
USUAL = Spread(  # where neither the file nor a study tells it
    cases=0.197,
    correlation=0.7,
    runs=0.006,
    of_cases="of segmentations in arXiv 2511.02453",
    of_correlation="assumed, for want of a published figure",
    of_runs="assumed, as networks on skin lesions have it",
)


@dataclass(frozen=True)
class Printed:
    """A claimed pair of a printed table: the better method, the worse, and their figures."""

    better: str
    worse: str
    figures: tuple[str, str]
    gap: float


def claimed(file: PaperFile, path: str) -> list[Printed]:
    """Of each claim, neighbours with a printed Dice each. Raises UserError where there is none, or
    where the paper's test cases are not told."""
    paper = file.paper
    values, figures = paper.values(METRIC), paper.figures(METRIC)
    if paper.averaging == "pixels":
        raise UserError(
            f"{path}: paper.averaging must not be pixels with --means: a Dice of all pixels "
            "together is no mean over cases"
        )
    if paper.cases is None or paper.cases < 2:
        raise UserError(
            f"{path}: paper.cases must be the number of test cases behind a row, two at least, got "
            f"{'nothing' if paper.cases is None else paper.cases}; write it there, or give --cases"
        )
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise UserError(
                f"{path}: paper.rows.{name}.figures.dice must be from 0 to 1, or from 0 % to "
                f"100 %, got {figures[name]!r}"
            )
    orders = [[name for name in order if name in values] for order in paper.orderings()]
    pairs = dict.fromkeys(pair for order in orders for pair in pairwise(order))
    if not pairs:
        raise UserError(
            f"{path}: paper.claims must have an ordering of two variants with a printed dice under "
            "paper.rows, such as a > b"
        )
    return [
        Printed(a, b, (figures[a], figures[b]), round(values[a] - values[b], 9)) for a, b in pairs
    ]


def false_of_means(
    gap: float, cases: int, spread: float, correlation: float, runs: float = 0.0, of: int = 1
) -> float:
    """The probability that a claimed `gap` of two printed means is not above 0, with nothing known
    beforehand.

    Over cases alone: t with n - 1 degrees of freedom below -gap / sqrt((s_a^2 + s_b^2 -
    2 r s_a s_b) / n), both s the `spread` over cases (arXiv 2505.04720). runs: a run's standard
    deviation over seeds, which adds 2 runs^2 / `of`, the runs behind each mean, to the squared
    error (arXiv 2511.02453).
    """
    squared = 2 * spread**2 * (1 - correlation) / cases + 2 * runs**2 / of
    if squared <= SAME**2:
        return 0.5 if gap == 0 else float(gap < 0)
    return float(stats.t.sf(gap / np.sqrt(squared), cases - 1))


def false_both_ways(pair: Printed, file: PaperFile, spread: Spread) -> tuple[float, float]:
    """The probability that a claim is false, over cases alone and with seeds."""
    cases, runs = file.paper.cases or 0, file.paper.runs or 1
    assumed = (pair.gap, cases, spread.cases, spread.correlation)
    return false_of_means(*assumed), false_of_means(*assumed, spread.runs, runs)


def spreads_of(results: Results) -> Spread:
    """As measured in a study: over its variants the mean of a run's deviation over cases, of two
    variants' correlation over cases, a run of each, and the pooled deviation of runs that did not
    fail. Raises UserError where it has not two variants of two runs with all scores."""
    if not names_dice(results.comparison.metric):
        raise UserError(
            f"--like must be of a Dice, got a results.json of {results.comparison.metric!r}"
        )
    failed = {(each.variant, seed) for each in results.failures for seed in each.failed}
    scores: dict[str, Values] = {}
    for variant, runs in results.cases.dice.items():
        sound = [
            np.array(run, dtype=np.float64)
            for seed, run in runs.items()
            if (variant, int(seed)) not in failed and None not in run
        ]
        if len(sound) > 1:
            scores[variant] = np.array(sound)
    if len(scores) < 2 or len(results.cases.ids) < 3:
        raise UserError(
            "--like must be of a study with two variants at least, each of two runs or more that "
            f"did not fail, got {quantity(len(scores), 'such variant')}"
        )
    first = [own[0] for own in scores.values()]
    matrix = np.corrcoef(first)
    means = [own.mean(axis=1) for own in scores.values()]
    longest = max(map(len, means))
    padded = np.array([np.pad(own, (0, longest - len(own))) for own in means])
    absent = np.array([np.arange(longest) >= len(own) for own in means])
    source = f"measured in the study {results.study.name}"
    return Spread(
        cases=float(np.mean([own.std(axis=1, ddof=1).mean() for own in scores.values()])),
        correlation=float(matrix[np.triu_indices(len(matrix), 1)].mean()),
        runs=noise(padded, absent, paired=False) or 0.0,
        of_cases=source,
        of_correlation=source,
        of_runs=source,
    )


def choose_spread(file: PaperFile, measured: Spread | None, source: str = STATED) -> Spread:
    """What the paper's file states, which is from `source`, else what a study of ours measured,
    else what is usual."""
    base = measured or USUAL
    stated: dict[str, Any] = {
        name: value for name, value in file.spreads.model_dump().items() if value is not None
    }
    return replace(base, **stated | {f"of_{name}": source for name in stated})


def answer(pairs: Sequence[Printed], file: PaperFile, spread: Spread) -> str:
    """Whether the claims hold, in one sentence: by the one that is most likely false."""
    weakest = max(pairs, key=lambda pair: false_both_ways(pair, file, spread)[1])
    alone, seeds = map(probability, false_both_ways(weakest, file, spread))
    which = "The claim" if len(pairs) == 1 else "The weakest of the claims"
    return (
        f"{which}, {weakest.better} > {weakest.worse}, is false with a probability of {seeds} by "
        f"the printed figures alone, and of {alone} if no seed is counted."
    )


def sentences(pairs: Sequence[Printed], file: PaperFile, spread: Spread) -> list[str]:
    """What a reviewer can paste, a claim a sentence or two."""
    paper = file.paper
    cases, runs = paper.cases or 0, paper.runs or 1
    behind = "one run" if runs == 1 else f"the mean of {runs} runs"
    if paper.runs is None:
        behind = "of a number of runs that is not said, which we take for one"
    told = [
        f"{paper.title} ({paper.reference}) gives each figure on {cases:,} test cases, {behind}."
    ]
    for pair in pairs:
        alone, seeds = false_both_ways(pair, file, spread)
        told.append(
            f"The claim that {_label(file, pair.better)} ({pair.figures[0]}) is better than "
            f"{_label(file, pair.worse)} ({pair.figures[1]}) is, from these figures alone, false "
            f"with a probability of {probability(alone)} over the test cases, and of "
            f"{probability(seeds)} if both networks were trained anew with other seeds, too."
        )
    told += [
        f"Assumed: a method's Dice has a standard deviation of {spread.cases:.3g} over cases "
        f"({spread.of_cases}); two methods' correlate by {spread.correlation:.2f} over cases "
        f"({spread.of_correlation}); a run's mean has a standard deviation of {spread.runs:.3g} "
        f"over seeds ({spread.of_runs}); nothing was known of the difference beforehand.",
        "The scores of each case, of several runs of each network, would settle it.",
    ]
    return told


def _label(file: PaperFile, variant: str) -> str:
    return file.paper.rows[variant].label


def claims_of_means(pairs: Sequence[Printed], file: PaperFile, spread: Spread) -> Table:
    """Each claim's probability to be false, over cases alone and with seeds."""
    cases = file.paper.cases or 0
    rows = []
    for pair in pairs:
        alone, seeds = false_both_ways(pair, file, spread)
        cells = [*pair.figures, f"{pair.gap:.4g}", probability(alone), probability(seeds)]
        rows.append(Row(f"{pair.better} > {pair.worse}", None, [Cell(text) for text in cells]))
    caption = (
        f"How likely is each claim false, given the printed Dice on {cases:,} test cases? Over "
        "cases alone: if these very runs saw other cases. With seeds: if the networks were trained "
        "anew, too."
    )
    header = ["Better, printed", "Worse, printed", "Gap", "False, cases alone", "False, with seeds"]
    return Table("claims", caption, header, rows, subject="Claim")


def sensitivity(pair: Printed, place: int, file: PaperFile, spread: Spread) -> Table:
    """How one claim's probability changes with both assumptions that a printed table needs."""
    cases, runs = file.paper.cases or 0, file.paper.runs or 1
    rows = [
        Row(
            f"{correlation:.2f}",
            None,
            [
                Cell(
                    probability(
                        false_of_means(pair.gap, cases, spread.cases, correlation, deviation, runs)
                    )
                )
                for deviation in _with(RUNS, spread.runs)
            ],
        )
        for correlation in _with(CORRELATIONS, spread.correlation)
    ]
    caption = (
        f"How likely is {pair.better} > {pair.worse} false, by what is assumed? Down: the "
        "correlation of the two methods over cases. Across: the standard deviation of a run's mean "
        f"over seeds; 0 is over cases alone. A method's standard deviation over cases is "
        f"{spread.cases:.3g}."
    )
    header = [f"{deviation:.4g}" for deviation in _with(RUNS, spread.runs)]
    return Table(f"assumed-{place}", caption, header, rows, subject="Correlation")


def _with(grid: Sequence[float], own: float) -> list[float]:
    """The grid with the value that is assumed in it."""
    near = any(abs(own - each) < 1e-9 for each in grid)
    return sorted(grid) if near else sorted([*grid, own])

"""How often the protocol is right, on simulated studies whose truth is known.

    PYTHONPATH=.:tests/helpers python tests/simulation.py --studies 1000 --out docs/simulation.md

writes the tables; statistics/test_simulation.py runs a short form. Beside the protocol stands the
one that takes every run alike: `plain`, means over all runs with Student's intervals and tests.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, pairwise
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.interpolate import RectBivariateSpline
from scipy.special import expit, logit

from pipeline.statistics import pairs
from pipeline.statistics.crossed import by_group, mean_interval, two_way
from pipeline.statistics.definitions import AMOUNT, SHARE, Bounds
from pipeline.statistics.factorial import effects
from pipeline.statistics.failures import failure_rates, mean_with_failures
from pipeline.statistics.ordering import order_all
from pipeline.statistics.pairs import choose_pairing, compare_pairs, holm
from pipeline.statistics.results import Interval
from pipeline.statistics.tuning import Settings, choose, tuned_run
from pipeline.statistics.typical import (
    Contrast,
    TypicalRun,
    is_descriptive,
    more_runs_interval,
    typical_interval,
)
from studies import simulate

MEAN = 0.85
CASES = 1000  # the official test set's
MARGIN = 0.005  # of equivalence, by which the last variant lies lower
DROP = 0.03  # compare.failure_drop
RUN = 0.003  # a seed's standard deviation, as of studies.simulate
STEP = 0.008  # a difference whose finding is counted
LEVEL = 0.05
SURE = 0.975  # share of draws
ALIKE = 0.8  # of a case's variance is its patient's, where patients have several
PAPER = 4  # variants whose figures a paper has
CELLS: list[list[str]] = [[], ["gates"], ["attention"], ["gates", "attention"]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What is true of simulated studies.

    fails, by: how often a run of the first variants fails, `failing` of them, and by how much Dice,
    between none and twice as much where `vary`. equal: in what the variants are. correlation: of
    seeds' luck between variants, of which failures are part. runs, cases: the distribution of a
    run's luck and of a case's. spread: how many times more the first variant's runs spread. number:
    of test cases. photographs: of each patient, cases that have most of their luck in common. step:
    how much better the second is.
    """

    name: str
    variants: int = 5
    fails: float = 0.0
    by: float = 0.13
    failing: int = 1
    vary: bool = False
    equal: str = "typical run"
    correlation: float = 0.0
    runs: str = "normal"
    cases: str = "normal"
    spread: float = 1.0
    number: int = CASES
    photographs: int = 1
    step: float = 0.0

    def draw(self, rng: np.random.Generator, seeds: int) -> tuple[Values, Values, Values]:
        """Values (V, S, C), the variants' true typical runs (V,) and true means over runs (V,)."""
        shape = (self.variants, seeds)
        rate = self.rates()
        typical = np.full(self.variants, MEAN)
        typical[-1] -= MARGIN * (self.variants > 2)
        typical[1] += self.step
        if self.equal == "mean":
            typical = typical + rate * self.by
        common = rng.random((1, seeds)) if self.correlation else rng.random(shape)
        failed = common < rate[:, None]
        luck = np.sqrt(self.correlation) * _noise(rng, self.runs, (1, seeds)) + np.sqrt(
            1 - self.correlation
        ) * _noise(rng, self.runs, shape)
        luck = RUN * luck
        luck[0] *= self.spread
        usual = self.cases == "normal" and self.photographs == 1
        values = simulate(
            rng, typical, seeds=seeds, cases=self.number, seed_deviation=0,
            case_deviation=0.1 if usual else 0, fit_deviation=0.03 if usual else 0,
        )  # fmt: skip
        if self.photographs > 1:
            values += 0.1 * self._of_patients(rng, 1)
            values += 0.03 * self._of_patients(rng, self.variants)
        elif self.cases != "normal":
            values += 0.1 * _noise(rng, self.cases, (1, 1, self.number))
            values += 0.03 * _noise(rng, self.cases, (self.variants, 1, self.number))
        depth = self.by * (rng.uniform(0, 2, shape) if self.vary else 1)
        values += (luck - depth * failed)[:, :, None]
        return values, typical, typical - rate * self.by

    def _of_patients(self, rng: np.random.Generator, variants: int) -> Values:
        """Cases' luck (variants, 1, C) of variance 1, most of it their patient's."""
        patients = self.number // self.photographs
        common = np.repeat(rng.normal(0, 1, (variants, 1, patients)), self.photographs, axis=2)
        own = rng.normal(0, 1, (variants, 1, self.number))
        return np.sqrt(ALIKE) * common + np.sqrt(1 - ALIKE) * own

    def groups(self) -> NDArray[np.int64] | None:
        """Of cases (C,): their patients, where these have several."""
        return np.arange(self.number) // self.photographs if self.photographs > 1 else None

    def rates(self) -> Values:
        """How often a run of each variant fails (V,)."""
        return self.fails * (np.arange(self.variants) < self.failing)


def _noise(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Values:
    """Of mean 0 and standard deviation 1."""
    if kind == "heavy-tailed":
        return rng.standard_t(3, shape) / np.sqrt(3)
    if kind == "skewed":  # to the left, as Dice is
        return (0.5 - rng.gamma(0.5, 1, shape)) / np.sqrt(0.5)
    return rng.normal(0, 1, shape)


FAILING = [
    Truth(f"{fails:.0%} fail by {by:g}, equal in {equal}", fails=fails, by=by, equal=equal)
    for equal in ("typical run", "mean")
    for fails in (0.02, 0.05, 0.1, 0.2)
    for by in (0.05, 0.13, 0.2)
]
TRUTHS = [
    Truth("nothing fails"),
    Truth("nothing fails, seeds correlate 0.5", correlation=0.5),
    *FAILING,
    Truth("10% of all variants' runs fail by 0.13", fails=0.1, failing=5),
    Truth("10% fail by 0.13, seeds correlate 0.5", fails=0.1, correlation=0.5),
    Truth("10% of all fail by 0.13, on the same seeds", fails=0.1, failing=5, correlation=0.5),
    Truth("20% fail by 0.02: less than the rule's drop", fails=0.2, by=0.02),
    Truth("10% fail by 0.13, heavy-tailed cases", fails=0.1, cases="heavy-tailed"),
    Truth("10% fail by 0.13, skewed cases", fails=0.1, cases="skewed"),
    Truth("10% fail by 0.13, heavy-tailed runs", fails=0.1, runs="heavy-tailed"),
    Truth("10% fail by 0.13, skewed runs", fails=0.1, runs="skewed"),
    Truth("the first's runs spread three times as much", spread=3),
    Truth("50% fail by 0.13", fails=0.5),
    Truth("20% of two variants' runs fail by 0 to 0.26", fails=0.2, failing=2, vary=True),
    Truth("10% fail by 0.13, 100 cases", fails=0.1, number=100),
    Truth("10% fail by 0.13, 100 skewed cases", fails=0.1, cases="skewed", number=100),
    Truth("patients of five photographs", photographs=5),
    Truth("two variants, patients of five photographs", variants=2, photographs=5),
    Truth("two variants, nothing fails", variants=2),
    Truth("two variants, 10% fail by 0.13", variants=2, fails=0.1),
    Truth("three variants, 20% fail by 0.05", variants=3, fails=0.2, by=0.05),
    Truth("seven variants, nothing fails", variants=7),
    Truth("seven variants, 10% fail by 0.13", variants=7, fails=0.1),
]
STEPS = [
    Truth("nothing fails", variants=7, step=STEP),
    Truth("nothing fails, seeds correlate 0.5", variants=7, step=STEP, correlation=0.5),
    Truth("10% of the first's runs fail by 0.13", variants=7, step=STEP, fails=0.1),
]

CLAIMS = [  # of two variants, that the one found better is
    Truth("nothing fails", variants=2),
    Truth("nothing fails, seeds correlate 0.5", variants=2, correlation=0.5),
    Truth("10% fail by 0.13", variants=2, fails=0.1),
    Truth("skewed cases", variants=2, cases="skewed"),
    Truth("heavy-tailed runs", variants=2, runs="heavy-tailed"),
    Truth("100 cases", variants=2, number=100),
    Truth("patients of five photographs", variants=2, photographs=5),
]
WIDE = 0.03  # up to which the truth of a claim lies, either way, all alike
PER_ROW = 10  # times as many studies: most claims of such differences are sure
TOLD = (0.0, 0.01, 0.05, 0.2, 0.5)  # bounds of the probabilities told


@dataclass(frozen=True)
class Bounded:
    """Scores of cases that cannot leave bounds: on the logit, or the log, a case's own level, a
    run's luck and a run's luck with a case add up.

    level: of how many cases given, by a generator, on that scale.
    """

    name: str
    bounds: Bounds
    level: Callable[[np.random.Generator, int], Values]

    def draw(self, rng: np.random.Generator, luck: Values, cases: int) -> Values:
        """Values (S, C) of runs of that luck (S,)."""
        scores = self.level(rng, cases) + luck[:, None]
        scores = scores + RUN_WITH_CASE * rng.normal(0, 1, scores.shape)
        return np.asarray(np.exp(scores) if self.bounds[1] is None else expit(scores))


def _dice(mean: float, deviation: float) -> Callable[[np.random.Generator, int], Values]:
    """Logits of a beta distribution with that mean and standard deviation."""
    size = mean * (1 - mean) / deviation**2 - 1

    def level(rng: np.random.Generator, cases: int) -> Values:
        drawn = rng.beta(mean * size, (1 - mean) * size, cases)
        return np.asarray(logit(np.clip(drawn, 1e-9, 1 - 1e-9)))

    return level


def _missing_some(rng: np.random.Generator, cases: int) -> Values:
    missed = logit(rng.uniform(0.2, 0.9, cases))
    return np.where(rng.random(cases) < 0.03, missed, _dice(0.985, 0.008)(rng, cases))


LUCK, RUN_WITH_CASE = 0.1, 0.3  # standard deviations of a run, and of a run with a case, of these
BOUNDED = [
    Bounded("Dice 0.99", SHARE, _dice(0.99, 0.02)),
    Bounded("Dice 0.98", SHARE, _dice(0.98, 0.03)),
    Bounded("Dice 0.97, 3 % of cases are missed", SHARE, _missing_some),
    Bounded("Dice 0.85", SHARE, _dice(0.85, 0.12)),
    Bounded("a distance of 5", AMOUNT, lambda rng, cases: rng.normal(1.3, 0.7, cases)),
]
SIZES = ((1, 20), (1, 100), (7, 20), (7, 100), (7, 1000), (10, 20), (10, 100))  # seeds and cases


@dataclass(frozen=True)
class Tuned:
    """Three networks that are equally good at the best of their settings.

    settings: of each network how far each setting lies below the best, its own first. rate: of the
    first network's runs at its own settings that fail, by 0.13.
    """

    name: str
    settings: tuple[tuple[float, ...], ...]
    rate: float = 0.0

    def draw(self, rng: np.random.Generator, seeds: int) -> list[Settings]:
        """Scores and validation of each network; a run's luck is in both."""
        below = [offset for own in self.settings for offset in own]
        luck = TUNED_RUN * rng.normal(0, 1, (len(below), seeds))
        luck -= np.array(below)[:, None]
        failed = np.zeros(luck.shape, dtype=bool)
        failed[0] = rng.random(seeds) < self.rate
        luck -= 0.13 * failed
        effects = [MEAN] * len(below)
        values = simulate(rng, effects, seeds=seeds, cases=CASES, seed_deviation=0.0)
        values += luck[:, :, None]
        validation = MEAN + luck + VALIDATION * rng.normal(0, 1, luck.shape)
        ends = np.cumsum([len(own) for own in self.settings])
        parts = [slice(end - len(own), end) for end, own in zip(ends, self.settings, strict=True)]
        return [Settings(values[part], validation[part], failed[part]) for part in parts]


TUNED_RUN, VALIDATION = 0.01, 0.004  # of short trainings; of few validation cases
ALL_ALIKE, NEAR, APART = (0.0, 0.0, 0.0), (0.002, 0.0, 0.002), (0.005, 0.0, 0.01)
FAR = (0.03, 0.0, 0.06)
TUNED = [
    Tuned("one setting each", ((0.0,), (0.0,), (0.0,))),
    Tuned("of each three, alike", (ALL_ALIKE, ALL_ALIKE, ALL_ALIKE)),
    Tuned("of the first three, alike", (ALL_ALIKE, (0.0,), (0.0,))),
    Tuned("of the first nine, alike", (3 * ALL_ALIKE, (0.0,), (0.0,))),
    Tuned("of each three, the best 0.002 ahead", (NEAR, NEAR, NEAR)),
    Tuned("of each three, the best 0.005 ahead", (APART, APART, APART)),
    Tuned("of each three, the best 0.03 ahead", (FAR, FAR, FAR)),
    Tuned("of each three, alike; 10 % fail by 0.13", (ALL_ALIKE, ALL_ALIKE, ALL_ALIKE), 0.1),
]

COLUMNS = (
    "pair_alarm", "equal_alarm", "effect_alarm", "paper_alarm", "best_alarm", "found",
    "difference", "typical", "run", "rate", "mean",
    "alone_alarm", "alone_difference", "alone_typical",
    "plain_alarm", "plain_found", "plain_difference", "plain_mean",
)  # fmt: skip


def rates(truth: Truth, seeds: int, studies: int, seed: int) -> dict[str, float]:
    """Shares of simulated studies (alarms, found) and of their intervals (covered)."""
    pairs.tukey = fast_tukey
    gc.freeze()  # statsmodels' multipletests collects garbage each time it is called
    rng = np.random.default_rng([seeds, seed, *truth.name.encode()])
    found = pd.DataFrame(
        [study(truth, rng, seeds, drawn=place % 5 == 0) for place in range(studies)],
        columns=COLUMNS,
    )
    return {str(name): float(share) for name, share in found.mean().items()}


def study(truth: Truth, rng: np.random.Generator, seeds: int, *, drawn: bool = True) -> list[float]:
    """One study: COLUMNS, shares of 0 to 1. drawn: whether orderings are, which takes the longest;
    else that share is NaN."""
    values, typical, means = truth.draw(rng, seeds)
    names = [chr(ord("a") + place) for place in range(truth.variants)]
    runs = values.mean(axis=2)
    index = pd.MultiIndex.from_product([names, range(seeds)], names=["variant", "seed"])
    failures = failure_rates(pd.Series(runs.ravel(), index), DROP)
    failed = np.array([[seed in each.failed for seed in range(seeds)] for each in failures])
    paired = choose_pairing(runs).paired
    groups = truth.groups()
    units = by_group(values, groups)
    compared = compare_pairs(values, failed, names, paired, margin=MARGIN, groups=groups)
    places = list(combinations(range(truth.variants), 2))
    apart = np.array([typical[a] - typical[b] for a, b in places])
    shown = np.array([bool(pair.shown) for pair in compared])
    same = np.isclose(apart, 0)
    equal = np.array([bool(pair.equivalent) for pair in compared])
    # The paper's run has another seed and other cases, and is one that did not fail.
    one = replace(truth, fails=0.0, equal="typical run", step=0.0)
    further, others, _ = one.draw(rng, 1)
    figures = further.mean(axis=(1, 2)) - others + typical
    told = [
        (more_runs_interval(units[v], failed[v], figures=PAPER), figures[v])
        for v in range(min(PAPER, truth.variants))
    ]
    plain = _plain(values, paired, places, means)
    alone = [np.nan] * 3
    if groups is not None:
        single = compare_pairs(values, failed, names, paired, margin=MARGIN)
        alone = [
            (np.array([bool(pair.shown) for pair in single]) & same).any(),
            _held([pair.interval for pair in single], apart),
            _held(map(typical_interval, values, failed), typical),
        ]
    return [
        (shown & same).any(),
        (equal & (np.abs(apart) > MARGIN - 1e-9)).any(),
        _wrong_effect(units, failed, typical, paired) if truth.variants >= PAPER else np.nan,
        any(bounds is not None and not _holds(bounds, figure) for bounds, figure in told),
        _wrong_best(units, failed, typical, paired) if drawn else np.nan,
        shown[places.index((1, 2))] if truth.step else np.nan,
        _held([pair.interval for pair in compared], apart),
        _held(map(typical_interval, units, failed), typical),
        _held(map(more_runs_interval, units, failed), figures),
        _held([each.interval for each in failures], truth.rates()),
        _held(
            [
                mean_with_failures(each, lost, f.interval, SHARE)
                for each, lost, f in zip(units, failed, failures, strict=True)
            ],
            means,
        ),
        *alone,
        *plain,
    ]


def claims(truth: Truth, seeds: int, studies: int, seed: int) -> pd.DataFrame:
    """A row a study: of the claim that the variant found better is, the probability told that it is
    false with `seeds` and over `cases` alone, and whether it `false`ly is claimed."""
    gc.freeze()  # as in rates
    rng = np.random.default_rng([seeds, seed, *truth.name.encode(), 1])
    rows = []
    for _ in range(studies):
        one = replace(truth, step=rng.uniform(-WIDE, WIDE))
        values, typical, _ = one.draw(rng, seeds)
        runs = values.mean(axis=2)
        index = pd.MultiIndex.from_product([["a", "b"], range(seeds)], names=["variant", "seed"])
        failures = failure_rates(pd.Series(runs.ravel(), index), DROP)
        failed = np.array([[seed in each.failed for seed in range(seeds)] for each in failures])
        if is_descriptive(failed):
            continue
        (pair,) = compare_pairs(
            values, failed, ["a", "b"], True, margin=MARGIN, groups=truth.groups()
        )
        better = pair.difference > 0
        told = (pair.false or 0.0, pair.false_over_cases or 0.0)
        rows.append(
            (*(each if better else 1 - each for each in told), (typical[0] > typical[1]) != better)
        )
    return pd.DataFrame(rows, columns=["seeds", "cases", "false"])


def scales(truth: Bounded, seeds: int, cases: int, studies: int, seed: int) -> pd.DataFrame:
    """A row an interval (of the typical run, of one more run) and a scale: the shares of studies in
    which it `beyond` goes a bound and is `held`, and its mean `width`. Of one seed the truth is
    that run's over all cases."""
    rng = np.random.default_rng([seeds, cases, seed, *truth.name.encode()])
    every = truth.draw(rng, np.zeros(1), 200_000)[0]
    every = np.log(every) if truth.bounds[1] is None else logit(np.clip(every, 1e-9, 1 - 1e-9))

    def expected(luck: Values) -> float:
        shown = every[:, None] + luck if len(luck) > 1 else every + luck
        return float((np.exp(shown) if truth.bounds[1] is None else expit(shown)).mean())

    of_all = expected(LUCK * stats.norm.ppf((np.arange(20) + 0.5) / 20))
    none, rows = np.zeros(seeds, dtype=bool), []
    for _ in range(studies):
        luck = LUCK * rng.normal(0, 1, seeds)
        values = truth.draw(rng, luck, cases)
        typical = of_all if seeds > 1 else expected(luck)
        rows += _on_each("typical run", typical_interval, values, none, truth.bounds, typical)
        if seeds > 1:
            more = truth.draw(rng, LUCK * rng.normal(0, 1, 1), cases).mean()
            rows += _on_each("one more run", more_runs_interval, values, none, truth.bounds, more)
    table = pd.DataFrame(rows, columns=["of", "scale", "beyond", "held", "width"])
    return table.groupby(["of", "scale"], sort=False).mean()


def tuned(truth: Tuned, seeds: int, studies: int, seed: int) -> dict[str, float]:
    """Shares of simulated studies in which a difference is shown (`alarm`), and of differences'
    intervals that hold the truth, 0 (`held`): the report's; `alone` without the choices in the
    error; the `usual` way, where all seeds choose a setting and its own runs are reported."""
    pairs.tukey = fast_tukey
    rng = np.random.default_rng([seeds, seed, *truth.name.encode()])
    rows = []
    for _ in range(studies):
        networks = truth.draw(rng, seeds)
        chosen = [found.chosen(choose(found.validation)) for found in networks]
        best = [
            found.chosen(np.full(seeds, found.validation.mean(axis=1).argmax()))
            for found in networks
        ]
        runs = [run for found in networks if (run := tuned_run(found)) is not None]
        rows.append([*_shown(chosen, runs), *_shown(chosen, None), *_shown(best, None)])
    names = [f"{of}{what}" for of in ("", "alone_", "usual_") for what in ("alarm", "held")]
    shares = pd.DataFrame(rows, columns=names).mean()
    return {str(name): float(share) for name, share in shares.items()}


def _shown(
    chosen: Sequence[tuple[Values, NDArray[np.bool_]]], runs: Sequence[TypicalRun] | None
) -> tuple[float, float]:
    values, failed = (np.stack(parts) for parts in zip(*chosen, strict=True))
    paired = choose_pairing(values.mean(axis=2)).paired
    found = compare_pairs(values, failed, "abc", paired, margin=None, runs=runs)
    held = [_holds(pair.interval, 0.0) for pair in found]
    return float(any(pair.shown for pair in found)), float(np.mean(held))


def _on_each(
    name: str,
    interval: Callable[..., Interval | None],
    values: Values,
    failed: NDArray[np.bool_],
    bounds: Bounds,
    truth: float,
) -> list[tuple[str, str, bool, bool, float]]:
    plain, own = interval(values, failed), interval(values, failed, bounds)
    assert plain is not None
    assert own is not None
    highest = np.inf if bounds[1] is None else bounds[1]
    low, high = max(plain.low, bounds[0]), min(plain.high, highest)
    return [
        (name, scale, bool(ends[0] < bounds[0] or ends[1] > highest),
         bool(ends[0] <= truth <= ends[1]), ends[1] - ends[0])
        for scale, ends in (
            ("plain", (plain.low, plain.high)), ("cut", (low, high)), ("own", (own.low, own.high)),
        )
    ]  # fmt: skip


def calibration(found: pd.DataFrame, told: str) -> list[tuple[int, float, float]]:
    """Within each two bounds of TOLD: how many claims, the mean probability told, the share that is
    false."""
    inside = pd.cut(found[told], TOLD, labels=False, include_lowest=True)
    return [
        (int((inside == place).sum()), float(own[told].mean()), float(own["false"].mean()))
        for place in range(len(TOLD) - 1)
        for own in [found[inside == place]]
    ]


def _wrong_effect(values: Values, failed: NDArray[np.bool_], typical: Values, paired: bool) -> bool:
    """Whether an effect of the first four variants' 2 x 2 design that is none is shown."""
    neither, gates, attention, both = typical[:PAPER]
    truth = [
        (gates + both - neither - attention) / 2,
        (attention + both - neither - gates) / 2,
        both - attention - gates + neither,
    ]
    cells = {str(v): (cell, values[v], failed[v]) for v, cell in enumerate(CELLS)}
    told = [effect.shown for effect in effects(cells, paired)]
    return any(bool(shown) and abs(each) < 1e-9 for shown, each in zip(told, truth, strict=True))


def _wrong_best(values: Values, failed: NDArray[np.bool_], typical: Values, paired: bool) -> bool:
    """Whether one of several that are equally good is the best in nearly all draws; of runs too few
    to conclude from nothing is drawn."""
    if is_descriptive(failed):
        return False
    names = [str(place) for place in range(len(values))]
    best = order_all(values, failed, names, [], paired, draws=1000, seed=0).best
    likely = max(best, key=lambda name: best[name])
    return best[likely] >= SURE and np.isclose(typical[int(likely)], typical).sum() > 1


def _plain(
    values: Values, paired: bool, places: Sequence[tuple[int, int]], means: Values
) -> list[float]:
    """Every run taken alike: an alarm for a pair that is equal in mean, the second found better
    than the third, and the means' differences and the means covered. A pair is shown where the
    two-way error's p-value after Holm, and that of seed means (sign flips after Holm where seeds
    pair, else Tukey's), are below 0.05."""
    first, second = np.array(places).T
    by_case = values[first] - values[second]
    seeds, cases = values.shape[1:]
    errors = two_way(by_case)
    freedom = errors.freedom(seeds, cases)
    differences = by_case.mean(axis=(1, 2))
    both = holm(2 * stats.t.sf(np.abs(differences) / errors.total, freedom))
    runs = values.mean(axis=2)
    if paired:
        signs = np.array(np.meshgrid(*[[1, -1]] * seeds)).reshape(seeds, -1)
        flips = np.abs((runs[first] - runs[second]) @ signs) / seeds
        alone = holm((flips >= np.abs(differences)[:, None] - 1e-12).mean(axis=1))
    else:
        error = np.sqrt(runs.var(axis=1, ddof=1).mean() / seeds)
        alone = _tukey(len(values), len(values) * (seeds - 1))(np.abs(differences) / error)
    shown = np.maximum(both, alone) < LEVEL
    true = means[first] - means[second]
    reach = stats.t.ppf(1 - LEVEL / 2, freedom) * errors.total
    return [
        (shown & np.isclose(true, 0)).any(),
        shown[places.index((1, 2))] if len(values) > 2 else np.nan,
        (np.abs(differences - true) <= reach).mean(),
        _held(map(mean_interval, values), means),
    ]


def _held(intervals: Iterable[object], truths: Values) -> float:
    """The share of intervals that hold their truths, of those that there are; else NaN."""
    found = [
        _holds(bounds, truth)
        for bounds, truth in zip(intervals, truths, strict=True)
        if bounds is not None
    ]
    return float(np.mean(found)) if found else np.nan


def _holds(interval: object, truth: float) -> bool:
    return interval.low <= truth <= interval.high  # type: ignore[attr-defined]


@cache
def _tukey(variants: int, freedom: float) -> Callable[[Values], Values]:
    grid = np.linspace(0, 12, 121)
    tail = stats.studentized_range.sf(grid, variants, freedom)
    return lambda reached: np.interp(reached, grid, tail, right=0.0)


DISTANCES = np.linspace(0, 8, 41)
FREEDOMS = np.array([2, 3, 4, 5, 6, 8, 10, 14, 20, 32, 64, 200, 1000.0])


@cache
def _tail(variants: int) -> RectBivariateSpline:
    """The studentized range's log tail on a grid: a value of scipy's takes 20 ms."""
    inverse = 1 / FREEDOMS[::-1]
    tail = stats.studentized_range.sf(
        np.sqrt(2) * DISTANCES[:, None], variants, FREEDOMS[::-1][None]
    )
    return RectBivariateSpline(DISTANCES, inverse, np.log(np.maximum(tail, 1e-12)))


def fast_tukey(contrast: Contrast, variants: int) -> float:
    """pipeline.statistics.pairs.tukey, interpolated (within 0.0005: test_simulation.py)."""
    distance = min(contrast.distance, DISTANCES[-1])
    inverse = 1 / np.clip(contrast.freedom, FREEDOMS[0], FREEDOMS[-1])
    return float(min(1.0, np.exp(_tail(variants)(distance, inverse)[0, 0])))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, marks, *rows])


def _claim_rows(claimed: Mapping[tuple[Truth, int], pd.DataFrame], told: str) -> list[list[str]]:
    rows = []
    for (truth, seeds), found in claimed.items():
        cells = [
            f"{100 * mean:.1f}: {100 * false:.1f} of {number:,}" if number else ""
            for number, mean, false in calibration(found, told)
        ]
        rows.append([truth.name.replace("%", " %"), str(seeds), *cells])
    return rows


def scale_section(found: Mapping[tuple[Bounded, int, int], pd.DataFrame], studies: int) -> str:
    """The tables of intervals on each scale with their explanation."""
    tables = {}
    for of in ("typical run", "one more run"):
        rows = []
        for (truth, seeds, cases), table in found.items():
            if of not in table.index:
                continue
            own = table.loc[of]
            cells = [f"{100 * each.held:.1f} ({each.width:.2g})" for each in own.itertuples()]
            beyond = f"{100 * own.loc['plain', 'beyond']:.1f}"
            rows.append([truth.name, str(seeds), f"{cases:,}", beyond, *cells])
        tables[of] = _table(
            ["Scores", "Seeds", "Cases", "Plain: beyond", "Plain", "Cut", "Logit or log"], rows
        )
    return f"""## Intervals within bounds: 95

A Dice cannot exceed 1, nor a distance fall below 0. Plain: mean +- t times the error. Cut: the
same, its part within the bounds. Logit or log: the report's, as far to either side on the logit of
a Dice, on the log of a distance, by the delta method. "93.1 (0.02)": it holds the truth in 93.1 %
of {studies:,} studies, and is 0.02 wide on average. Plain: beyond: how often the plain one leaves
the bounds. Cases are skewed: beta distributions of standard deviation 0.02, 0.03 and 0.12, with a
mean of 0.98 and 3 % between 0.2 and 0.9, and a log-normal one.

The logit and the log hold the truth as often as the plain interval or more often, within the
simulation's error, and are a little wider; cutting alone makes the plain one no truer. With 1,000
cases, as of the official set, all are the same. Of 20 cases near 1 none holds it in 95 %, nor of
100 where a few are missed: a sample without a hard case does not know of them, which no scale
mends.

The typical run; of one seed over cases alone, for that run:

{tables["typical run"]}

One more run, on as many other cases:

{tables["one more run"]}
"""


def tuned_section(found: Mapping[tuple[Tuned, int], Mapping[str, float]], studies: int) -> str:
    names = ("usual_alarm", "alone_alarm", "alarm", "usual_held", "alone_held", "held")
    rows = [
        [truth.name, str(seeds), *(f"{100 * shares[name]:.1f}" for name in names)]
        for (truth, seeds), shares in found.items()
    ]
    table = _table(
        ["Settings", "Seeds", "Usual: pair", "Alone: pair", "Pair", "Usual: difference",
         "Alone: difference", "Difference"],
        rows,
    )  # fmt: skip
    return f"""## Settings chosen by validation

Three networks, equally good at the best of their settings; {studies:,} studies a row. A seed's
standard deviation is {TUNED_RUN:g} Dice, in validation and test alike, and {VALIDATION:g} more in
validation. "0.002 ahead": of the other two settings, the network's own among them.

- Usual: all seeds choose a setting, and its own runs are reported. Alone: the other seeds choose
  each seed's, and the choices are not in the error. Else the report's.
- Pair: any two networks are shown to differ, at most 5. Difference: its interval holds the truth,
  95.

Where one network has nine settings and the others one, the usual way takes luck for a difference
too often. Without the choices in the error that is so wherever settings are nearly alike. The
report's intervals are wider than need be there.

{table}
"""


def markdown(
    truths: Mapping[tuple[Truth, int], Mapping[str, float]],
    steps: Mapping[tuple[Truth, int], Mapping[str, float]],
    claimed: Mapping[tuple[Truth, int], pd.DataFrame],
    bounded: Mapping[tuple[Bounded, int, int], pd.DataFrame],
    of_settings: Mapping[tuple[Tuned, int], Mapping[str, float]],
    studies: int,
) -> str:
    """The tables with their explanation."""

    def row(
        truth: Truth, seeds: int, found: Mapping[str, float], names: Sequence[str]
    ) -> list[str]:
        shares = ["" if np.isnan(found[name]) else f"{100 * found[name]:.1f}" for name in names]
        return [truth.name.replace("%", " %"), str(seeds), *shares]

    alarms = (
        "plain_alarm",
        "pair_alarm",
        "effect_alarm",
        "equal_alarm",
        "paper_alarm",
        "best_alarm",
    )
    covers = ("plain_difference", "plain_mean", "difference", "typical", "run", "rate", "mean")
    alarm_table = _table(
        ["Truth", "Seeds", "Plain: pair", "Pair", "2 x 2", "Equal", "Paper's figure", "Best"],
        [row(*key, found, alarms) for key, found in truths.items()],
    )
    cover_table = _table(
        ["Truth", "Seeds", "Plain: difference", "Plain: mean", "Difference", "Typical run",
         "Next run", "Failure rate", "Mean"],
        [row(*key, found, covers) for key, found in truths.items()],
    )  # fmt: skip
    patients = {key: found for key, found in truths.items() if key[0].photographs > 1}
    patient_table = _table(
        ["Truth", "Seeds", "Alone: pair", "Alone: difference", "Alone: typical run", "Pair",
         "Difference", "Typical run"],
        [
            row(*key, found, (
                "alone_alarm", "alone_difference", "alone_typical",
                "pair_alarm", "difference", "typical",
            ))
            for key, found in patients.items()
        ],
    )  # fmt: skip
    bounds = [f"Told {100 * low:g} to {100 * high:g}" for low, high in pairwise(TOLD)]
    claim_table = _table(["Truth", "Seeds", *bounds], _claim_rows(claimed, "seeds"))
    case_table = _table(["Truth", "Seeds", *bounds], _claim_rows(claimed, "cases"))
    found_table = _table(
        ["Truth", "Seeds", "Plain", "Protocol"],
        [row(*key, found, ("plain_found", "found")) for key, found in steps.items()],
    )
    error = 100 * 1.96 * np.sqrt(0.05 * 0.95 / studies)
    return f"""# The protocol on studies with known truth

<!-- not run: it takes long; tests/statistics/test_simulation.py runs a short form -->
```bash
PYTHONPATH=.:tests/helpers python tests/simulation.py --studies {studies} --out docs/simulation.md
```

Each row: {studies:,} simulated studies of five variants and {CASES:,} test cases, where it says no
other number. All figures are percentages. One of 5 is known to
+- {error:.1f}. The noise: a seed's standard deviation is {RUN:g} Dice, a case's 0.1 for all
variants and 0.03 for one, and 0.05 is left for a run's luck with a case. "10 % fail" is of the
first variant's runs. All variants are equal but the last of three or more, which lies {MARGIN:g}
lower.

"Plain" is the usual way, beside the protocol: every run alike, means over all runs, Student's
intervals.

## False alarms: at most 5

- Plain: pair, Pair: studies in which any two variants that are equal are shown to differ; in the
  mean over runs, and in the typical run.
- 2 x 2: any of the three effects is shown, and is none.
- Equal: any two variants that differ by the margin are called equal.
- Paper's figure: any of four figures, each a run that did not fail, is said to lie outside what is
  expected.
- Best: one of several that are equally good is the best in 97.5 % of the draws. This is a share and
  no test; the report says so.

{alarm_table}

## Intervals that hold the truth: 95

- Plain: of the differences of means, and of the means over all runs.
- Difference, Typical run: of typical runs. Next run: of one more run that does not fail, on other
  cases.
- Failure rate, Mean: of a variant's runs, failed ones with them. Both are safe and wide.

{cover_table}

{scale_section(bounded, studies)}
## Patients with several photographs

Each of {CASES // 5} patients has five of the test cases, which share {100 * ALIKE:.0f} % of the
variance of their difficulty. "Alone": each case counts for itself. Else each patient counts as one,
as in the report.

- Alone: pair, Pair: false alarms, at most 5.
- The others: intervals that hold the truth, 95.

{patient_table}

{tuned_section(of_settings, studies)}
## Claims: told false with a probability p, false in p of them

Two variants, whose true difference lies anywhere within +- {WIDE:g}, and the claim that the one
found better is; {PER_ROW * studies:,} studies a row. "0.2: 0.3 of 900": of 900 claims that are told
to be false with 0.2 % on average, 0.3 % are. Where 10 % fail, the first variant's runs do.

With seeds:

{claim_table}

Over cases alone, as published (arXiv 2505.04720), of the same studies: these very seeds are taken
for all there are, so that claims are false more often than told.

{case_table}

## Power: how often a difference of {STEP:g} is shown

Two of seven variants that never fail differ by {STEP:g}.

{found_table}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    for variants in (2, 3, 5, 7):
        _tail(variants)  # once, before there are processes
    keys = [(truth, seeds) for truth in (*TRUTHS, *STEPS) for seeds in (7, 10)]
    with Pool() as pool:
        found = pool.starmap(
            rates, [(*key, given.studies, given.seed) for key in keys], chunksize=1
        )
        all_found = dict(zip(keys, found, strict=True))
        of_claims = [(truth, seeds) for truth in CLAIMS for seeds in (7, 10)]
        claimed = pool.starmap(
            claims, [(*key, PER_ROW * given.studies, given.seed) for key in of_claims], chunksize=1
        )
        of_bounds = [(truth, *size) for truth in BOUNDED for size in SIZES]
        bounded = [scales(*key, given.studies, given.seed) for key in of_bounds]
        of_settings = [(truth, seeds) for truth in TUNED for seeds in (7, 10)]
        chosen = pool.starmap(
            tuned, [(*key, given.studies, given.seed) for key in of_settings], chunksize=1
        )
    text = markdown(
        {key: all_found[key] for key in keys if key[0] not in STEPS},
        {key: all_found[key] for key in keys if key[0] in STEPS},
        dict(zip(of_claims, claimed, strict=True)),
        dict(zip(of_bounds, bounded, strict=True)),
        dict(zip(of_settings, chosen, strict=True)),
        given.studies,
    )
    print(text)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

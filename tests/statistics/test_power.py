"""statistics/power.py against statsmodels, simulation and the paper's gap."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from pipeline.statistics.failures import rate_interval, runs_for_rate
from pipeline.statistics.pairs import compare_pairs
from pipeline.statistics.power import (
    critical_t,
    expected_difference,
    noise,
    plan,
    seeds_needed,
    smallest_difference,
)
from pipeline.statistics.typical import contrasts, kept, typical_run
from studies import simulate


def planned(values, paired=False, gap=None, margin=0.005, failed=None):
    lost = np.zeros(values.shape[:2], dtype=bool) if failed is None else failed
    return plan(values, lost, paired, gap, margin)


def mirrored(seeds: int, deviation: float, cases: int = 2) -> np.ndarray:
    """Values (2, S, C) of two variants whose seed means are each other's mirror, with exactly this
    standard deviation, cases alike; of fewer than seven seeds none is trimmed."""
    luck = np.random.default_rng(0).normal(size=seeds)
    luck = (luck - luck.mean()) * deviation / luck.std(ddof=1)
    return np.repeat(0.85 + np.stack([luck, -luck])[:, :, None], cases, axis=2)


def test_expected_differences_are_statsmodels_with_the_runs_that_are_kept():
    """Of nine seeds seven are kept, and a variance counts 1.15 times."""
    alone = TTestIndPower().solve_power(nobs1=7, alpha=0.05, power=0.8)
    scale = 0.003 * np.sqrt(1.15 * 7 / 9)  # the error of nine, the degrees of freedom of seven
    assert expected_difference(2, 9, 0.003) == pytest.approx(alone * scale, rel=1e-3)


def test_the_seeds_needed_are_the_fewest_whose_kept_runs_find_the_gap():
    """Of six runs none is trimmed, so that the plan starts from a plain deviation."""
    for paired, gap, deviation in ((False, 0.0025, 0.003), (True, 0.006, 0.006)):
        found = planned(mirrored(6, 0.003), paired=paired, gap=gap)
        test = TTestPower() if paired else TTestIndPower()
        for seeds, enough in ((found.seeds_for_gap, True), (found.seeds_for_gap - 1, False)):
            number = kept(seeds)
            effect = gap / deviation * np.sqrt(seeds / number)
            assert bool(test.power(effect, number, 0.05) >= 0.8) is enough


@pytest.mark.slow
def test_a_detectable_difference_is_shown_in_four_of_five_studies():
    rng = np.random.default_rng(0)
    settings = {"seeds": 10, "cases": 400, "fit_deviation": 0.02}
    null = np.zeros((3, 10), dtype=bool)
    detectable = np.mean(
        [planned(simulate(rng, [0.85] * 3, **settings)).detectable for _ in range(20)]
    )
    shown = []
    for _ in range(200):
        values = simulate(rng, [0.85 + detectable, 0.85, 0.85], **settings)
        shown.append(compare_pairs(values, null, "abc", False, margin=0.005)[0].shown)
    assert 0.75 <= np.mean(shown) <= 0.95  # planned to be safe


@pytest.mark.parametrize("paired", [False, True])
def test_a_plan_is_that_of_the_mean_error_of_pairs(paired):
    """The chance written out with scipy, from each pair's squared errors."""
    values = simulate(
        np.random.default_rng(2), [0.80, 0.80, 0.80], seeds=9, cases=400, case_deviation=0.1,
        fit_deviation=0.02, correlation=0.5,
    )  # fmt: skip
    runs = [typical_run(each, np.zeros(9, dtype=bool)) for each in values]
    pairs = contrasts(runs, [[1, -1, 0], [1, 0, -1], [0, 1, -1]], paired)
    seed, case = (np.mean([getattr(pair, name) for pair in pairs]) for name in ("seeds", "cases"))

    def chance(difference: float, seeds: int) -> float:
        by_seed = 9 * seed / seeds
        freedom = (by_seed + case) ** 2 / (
            by_seed**2 / ((1 if paired else 2) * (kept(seeds) - 1)) + case**2 / 399
        )
        critical = stats.studentized_range.isf(0.05, 3, round(freedom)) / np.sqrt(2)
        return float(stats.nct.sf(critical, freedom, difference / np.sqrt(by_seed + case)))

    gap = 0.0055
    found = planned(values, paired, gap, margin=0.007)
    assert (found.power, found.gap) == (0.8, gap)
    assert chance(found.detectable, 9) == pytest.approx(0.8, abs=1e-3)
    for needed, difference in ((found.seeds_for_gap, gap), (found.seeds_for_margin, 0.007)):
        assert needed > 7
        assert chance(difference, needed - 1) < 0.8 <= chance(difference, needed)


def test_where_the_cases_error_alone_hides_a_gap_no_number_of_seeds_shows_it():
    values = simulate(np.random.default_rng(0), [0.8] * 2, seeds=8, cases=40)
    assert planned(values, gap=0.0045).seeds_for_gap is None


def test_a_failed_run_has_no_part_in_the_plan():
    values = simulate(np.random.default_rng(1), [0.8] * 2, seeds=8, cases=40)
    failed = np.zeros((2, 8), dtype=bool)
    failed[0, 3] = True
    worse = np.where(failed[:, :, None], values - 0.2, values)
    assert planned(worse, failed=failed) == planned(values, failed=failed)
    assert planned(worse).detectable > planned(worse, failed=failed).detectable


def test_without_noise_no_seeds_are_told_but_those_for_the_failure_rate():
    power = planned(np.full((3, 8, 5), 0.8), gap=0.0045)
    assert (power.detectable, power.seeds_for_gap, power.seeds_for_margin) == (None, None, None)
    assert (power.failure_rate, power.seeds_for_failure_rate) == (0.1, runs_for_rate())


def test_below_seven_seeds_nothing_is_called_detectable():
    few = planned(mirrored(6, 0.0001), gap=0.0045)
    assert (few.detectable, few.seeds_for_gap) == (None, 7)
    assert planned(mirrored(7, 0.0001)).detectable is not None
    assert planned(mirrored(7, 0.0001)).seeds_for_gap is None


def test_the_noise_is_pooled_over_variants_or_over_pairs_of_them():
    means = np.array([[1.0, 2.0, 3.0, 9.0], [2.0, 2.0, 5.0, 9.0], [0.0, 4.0, 5.0, 9.0]])
    failed = np.array([[False, False, False, True]] * 3)
    assert noise(means, failed, paired=False) == pytest.approx(np.sqrt((1 + 3 + 7) / 3))
    # Differences -1, 0, -2; 1, -2, -2; 2, -2, 0: variances 1, 3 and 4.
    assert noise(means, failed, paired=True) == pytest.approx(np.sqrt((1 + 3 + 4) / 3))
    failed[0] = [False, False, True, True]  # of the first variant 1 and 2: variance 1/2, weight 1
    assert noise(means, failed, paired=False) == pytest.approx(np.sqrt((0.5 + 6 + 14) / 5))
    failed[0] = [False, True, True, True]  # of one run none
    assert noise(means, failed, paired=False) == pytest.approx(np.sqrt((6 + 14) / 4))
    assert noise(means[:1], failed[:1], paired=False) is None


def test_a_plan_of_runs_that_leave_no_common_seeds_has_no_deviation():
    values = np.random.default_rng(3).normal(0.8, 0.01, (2, 3, 20))
    failed = np.array([[True, False, False], [False, True, False]])
    found = planned(values, paired=True, failed=failed, gap=0.01)
    assert (found.standard_deviation, found.seeds_for_gap, found.detectable) == (None, None, None)


def test_a_pair_is_found_beyond_tukeys_range():
    published = 3.53  # the studentized range of 3 means and 24 degrees of freedom at 0.05
    assert critical_t(3, 24) == pytest.approx(published / np.sqrt(2), abs=0.004)
    assert critical_t(2, 1000) == pytest.approx(stats.norm.isf(0.025), abs=1e-3)


def share(difference: float, seeds: int) -> float:
    """A chance that is 0.8 where the squared difference times the seeds is 0.8."""
    return min(1.0, difference**2 * seeds)


def test_the_smallest_difference_is_where_the_chance_is_four_in_five():
    for scale in (0.001, 0.4, 30):
        found = smallest_difference(share, 20, scale)
        assert found == pytest.approx(0.2, abs=1e-4 * scale + 1e-12)


@pytest.mark.parametrize(
    ("difference", "fewest", "expected"),
    [(0.2, 7, 20), (0.21, 7, 19), (1.0, 7, 7), (1.0, 1, 1), (0.03, 7, 889), (0.02, 7, None)],
)
def test_the_seeds_needed_are_the_fewest_that_find_the_difference(difference, fewest, expected):
    assert seeds_needed(share, difference, fewest) == expected


def test_a_thousand_seeds_are_told_and_more_are_not():
    assert seeds_needed(lambda difference, seeds: 0.8 * (seeds >= 1000), 0.1, 7) == 1000
    assert seeds_needed(lambda difference, seeds: 0.8 * (seeds >= 1001), 0.1, 7) is None


def test_before_results_one_variant_and_few_seeds_can_show_nothing():
    assert expected_difference(2, 9) == pytest.approx(1.2 * expected_difference(2, 9, 0.003))
    assert expected_difference(1, 9) is None
    assert (expected_difference(2, 6), expected_difference(2, 7) is None) == (None, False)


def test_the_documented_table_of_seeds_is_what_the_code_says():
    text = (Path(__file__).parents[2] / "docs/verdict.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (0\.\d{4}) \| (?:up to|under) (\d+) % \|$", text, re.MULTILINE)
    assert [int(seeds) for seeds, *_ in rows] == [7, 10, 16, 20, 36]
    for seeds, difference, rate in rows:
        assert float(difference) == pytest.approx(expected_difference(7, int(seeds)), abs=6e-5)
        assert int(rate) == round(100 * rate_interval(0, int(seeds)).high)

"""statistics/power.py against statsmodels, simulation and the paper's gap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestIndPower, TTestPower

from pipeline.statistics.pairs import tukey
from pipeline.statistics.power import (
    critical_t,
    expected_difference,
    noise,
    plan,
    seeds_needed,
    smallest_difference,
)
from studies import simulate


def seed_means(variants: int, seeds: int, deviation: float) -> np.ndarray:
    """Values (V, S, 2) whose seed means have exactly this standard deviation, cases alike."""
    means = np.random.default_rng(0).normal(size=(variants, seeds))
    means -= means.mean(axis=1, keepdims=True)
    means *= deviation / means.std(axis=1, ddof=1, keepdims=True)
    return np.repeat(0.85 + means[:, :, None], 2, axis=2)


@pytest.mark.slow
def test_ten_seeds_of_a_deviation_of_0_3_points_detect_about_half_a_point():
    power = plan(seed_means(7, 10, 0.003), paired=False, gap=0.0045)
    assert power.detectable == pytest.approx(0.005, abs=0.0004)
    # Errors shrink with the square root of the seeds: 10 (0.00524 / 0.0045)^2 = 13.6.
    assert power.seeds_for_gap == 14


def test_the_detectable_difference_of_one_pair_is_statsmodels():
    values = seed_means(2, 10, 0.003)
    deviation = noise(values.mean(axis=2), paired=True)
    effect = TTestPower().solve_power(nobs=10, alpha=0.05, power=0.8)
    power = plan(values, paired=True, gap=None)
    assert power.detectable == pytest.approx(effect * deviation, rel=1e-3)


def test_the_detectable_difference_of_two_variants_that_seeds_do_not_pair_is_statsmodels():
    effect = TTestIndPower().solve_power(nobs1=10, alpha=0.05, power=0.8)
    power = plan(seed_means(2, 10, 0.003), paired=False, gap=None)
    assert power.detectable == pytest.approx(effect * 0.003, rel=1e-3)


@pytest.mark.slow
def test_a_detectable_difference_is_found_in_four_of_five_studies():
    rng = np.random.default_rng(0)
    found = []
    detectable = plan(seed_means(3, 8, 0.003), paired=False, gap=None).detectable
    for _ in range(200):
        means = rng.normal(0.85, 0.003, (3, 8))
        means[0] += detectable
        found.append(tukey(means)[0, 1] < 0.05)
    low, high = stats.binomtest(sum(found), 200).proportion_ci(0.999)
    assert low < 0.8 < high


@pytest.mark.slow
def test_power_for_all_such_cases_needs_more_than_on_these():
    values = simulate(np.random.default_rng(0), [0.8] * 3, seeds=8, cases=40)
    power = plan(values, paired=False, gap=0.0045)
    assert power.detectable_generally > power.detectable
    assert power.seeds_for_gap_generally is None  # the cases' error alone hides it


def test_without_noise_nothing_is_planned():
    power = plan(np.full((3, 4, 5), 0.8), paired=False, gap=0.0045)
    assert (power.detectable, power.seeds_for_gap) == (None, None)


@pytest.mark.parametrize(("variants", "seeds"), [(7, 10), (2, 6)])
def test_seeds_from_which_the_exact_test_can_find_anything(variants, seeds):
    power = plan(seed_means(variants, 5, 0.003), paired=True, gap=None)
    pairs = variants * (variants - 1) // 2
    assert power.exact_floor == 2 / 2**5
    assert power.seeds_for_exact == seeds
    assert pairs * 2 / 2**seeds <= 0.05 < pairs * 2 / 2 ** (seeds - 1)


def test_below_the_fewest_seeds_nothing_is_called_detectable():
    paired = plan(seed_means(7, 8, 0.003), paired=True, gap=0.0045)
    assert (paired.detectable, paired.detectable_generally) == (None, None)
    assert paired.fewest_seeds == paired.seeds_for_exact == 10
    assert paired.seeds_for_gap >= 10
    few = plan(seed_means(3, 2, 0.0001), paired=False, gap=0.0045)
    assert few.detectable is None
    assert few.seeds_for_gap == few.fewest_seeds == 7


def test_the_noise_is_pooled_over_variants_or_over_pairs_of_them():
    means = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0], [0.0, 4.0, 5.0]])
    assert noise(means, paired=False) == pytest.approx(np.sqrt((1 + 3 + 7) / 3))
    # Differences -1, 0, -2; 1, -2, -2; 2, -2, 0: variances 1, 3 and 4.
    assert noise(means, paired=True) == pytest.approx(np.sqrt((1 + 3 + 4) / 3))


def test_a_pair_is_found_beyond_bonferronis_t_or_tukeys_range():
    pairs = 3
    assert critical_t(8, 3, True) == pytest.approx((stats.t.isf(0.025 / pairs, 7), 7))
    published = 3.53  # the studentized range of 3 means and 24 degrees of freedom at 0.05
    found, freedom = critical_t(9, 3, False)
    assert (found, freedom) == (pytest.approx(published / np.sqrt(2), abs=0.004), 24)
    endless, freedom = critical_t(501, 2, False)  # of two means it is the normal distribution's
    assert (endless, freedom) == (pytest.approx(stats.norm.isf(0.025), abs=1e-3), 1000)


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


def test_before_results_the_difference_is_that_of_seeds_which_do_not_pair():
    planned = plan(seed_means(2, 9, 0.003), paired=False, gap=None)
    assert expected_difference(2, 9, 0.003) == pytest.approx(planned.detectable, rel=1e-3)
    assert expected_difference(2, 9) == pytest.approx(1.2 * planned.detectable, rel=1e-3)
    assert expected_difference(1, 9) is None
    assert (expected_difference(2, 6), expected_difference(2, 7) is None) == (None, False)


@pytest.mark.parametrize("paired", [False, True])
def test_a_plan_for_all_such_cases_is_that_of_the_two_way_error(paired):
    """The chance written out with scipy, from the mean squares of each pair's differences."""
    values = simulate(
        np.random.default_rng(2), [0.80, 0.80, 0.80], seeds=9, cases=400, case_deviation=0.1,
        fit_deviation=0.02, correlation=0.5,
    )  # fmt: skip
    of_seeds, of_cases = [], []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        difference = values[one] - values[other]
        by_seed, by_case = difference.mean(axis=1), difference.mean(axis=0)
        rest = difference - by_seed[:, None] - by_case + difference.mean()
        of_seeds.append(by_seed.var(ddof=1))
        of_cases.append(by_case.var(ddof=1) / 400 - (rest**2).sum() / (8 * 399) / (9 * 400))
    seed, case = np.mean(of_seeds), np.mean(of_cases)

    def chance(difference: float, seeds: int) -> float:
        error = seed / seeds + case
        freedom = error**2 / ((seed / seeds) ** 2 / (seeds - 1) + case**2 / 399)
        critical = stats.t.isf(0.025 / 3, freedom)
        return float(stats.nct.sf(critical, freedom, difference / np.sqrt(error)))

    gap = 0.0055
    found = plan(values, paired, gap)
    assert (found.power, found.gap) == (0.8, gap)
    assert found.standard_deviation == pytest.approx(noise(values.mean(axis=2), paired))
    assert chance(found.detectable_generally, 9) == pytest.approx(0.8, abs=1e-3)
    seeds = found.seeds_for_gap_generally
    assert seeds > found.fewest_seeds
    assert chance(gap, seeds - 1) < 0.8 <= chance(gap, seeds)


def test_without_a_gap_no_seeds_for_it_are_told():
    found = plan(seed_means(2, 8, 0.003), paired=True, gap=None)
    assert (found.gap, found.seeds_for_gap, found.seeds_for_gap_generally) == (None, None, None)
    assert found.exact_floor == 2 / 2**8
    assert found.detectable is not None

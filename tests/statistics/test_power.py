"""statistics/power.py against statsmodels, simulation and the paper's gap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from pipeline.statistics.pairs import tukey
from pipeline.statistics.power import noise, plan
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

"""statistics/claims.py against scipy, brute force and simulation."""

from __future__ import annotations

import gc
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from pipeline.statistics.claims import deciding_cases, false_claim, false_over_cases
from pipeline.statistics.pairs import compare_pairs
from pipeline.statistics.typical import Contrast
from studies import simulate


def none(values):
    return np.zeros(values.shape[:2], dtype=bool)


def test_over_cases_alone_it_is_the_published_formula():
    """t_{n-1}(-(a - b) / sqrt((s_a^2 + s_b^2 - 2 r s_a s_b) / n)), arXiv 2505.04720."""
    rng = np.random.default_rng(0)
    a = rng.normal(0.86, 0.1, 50)
    b = a + rng.normal(-0.01, 0.05, 50)
    s_a, s_b, r = a.std(ddof=1), b.std(ddof=1), np.corrcoef(a, b)[0, 1]
    error = np.sqrt((s_a**2 + s_b**2 - 2 * r * s_a * s_b) / 50)
    expected = stats.t.cdf(-(a.mean() - b.mean()) / error, 49)
    assert 0.01 < expected < 0.3
    assert false_over_cases(a - b) == pytest.approx(expected)
    assert false_over_cases(b - a) == pytest.approx(1 - expected)


@pytest.mark.parametrize(("difference", "expected"), [(0.1, 0), (0.0, 0.5), (-0.1, 1)])
def test_without_noise_a_claim_is_true_or_false_or_even(difference, expected):
    assert false_over_cases(np.full(5, difference)) == expected
    assert false_claim(Contrast(difference, 0.0, 0.0, 6.0)) == expected


def test_with_seeds_it_is_half_the_two_sided_p_value_of_a_difference_found():
    values = simulate(np.random.default_rng(3), [0.80, 0.806], seeds=8, cases=60)
    (pair,) = compare_pairs(values, none(values), ["a", "b"], True, margin=0.005)
    (turned,) = compare_pairs(values[::-1], none(values), ["b", "a"], True, margin=0.005)
    assert pair.difference < 0
    assert turned.false == pytest.approx(turned.p_value / 2)
    assert pair.false == pytest.approx(1 - turned.p_value / 2)
    assert pair.false_over_cases == pytest.approx(1 - turned.false_over_cases)


def test_the_fewest_cases_are_those_that_brute_force_finds():
    rng = np.random.default_rng(1)
    for _ in range(200):
        differences = rng.normal(0.3, 1, 8).round(1)
        total = differences.sum()
        fewest = next(
            (
                size
                for size in range(1, 8)
                for removed in combinations(range(8), size)
                if np.sign(np.delete(differences, removed).sum().round(9)) == -np.sign(total)
            ),
            None,
        )
        expected = None if abs(total) < 1e-9 else fewest
        assert deciding_cases(differences) == expected


def test_no_removal_turns_what_all_cases_agree_on():
    assert deciding_cases(np.array([0.1, 0.2, 0.3])) is None
    assert deciding_cases(np.array([0.1, 0.1, -0.1])) == 2
    assert deciding_cases(np.zeros(3)) is None


def test_claims_of_a_given_probability_are_false_in_that_share():
    """Truth drawn widely: of claims about the variant found better, told false with p, p are."""
    gc.freeze()  # statsmodels' multipletests collects garbage each time it is called
    rng = np.random.default_rng(7)
    told, false, alone = [], [], []
    for _ in range(4000):
        truth = rng.uniform(-0.03, 0.03)
        values = simulate(rng, [0.8, 0.8 + truth], seeds=8, cases=400, seed_deviation=0.01)
        (pair,) = compare_pairs(values[::-1], none(values), ["b", "a"], True, margin=0.005)
        told.append(pair.false)
        alone.append(pair.false_over_cases)
        false.append(truth < 0)
    gc.unfreeze()
    told, false, alone = np.array(told), np.array(false), np.array(alone)
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1)):
        inside = (told >= low) & (told < high)
        share = told[inside].mean()
        error = 3.3 * np.sqrt(share * (1 - share) / inside.sum())
        assert abs(false[inside].mean() - share) < error
    # One that forgets the seeds would not pass.
    wrong = (alone >= 0.05) & (alone < 0.2)
    share = alone[wrong].mean()
    assert false[wrong].mean() - share > 3.3 * np.sqrt(share * (1 - share) / wrong.sum())
    # What is nearly sure over cases alone is less so: these very seeds were lucky.
    sure = alone < 0.01
    assert sure.sum() > 100
    assert false[sure].mean() > 3 * alone[sure].mean()

"""statistics/pairs.py against scipy, statsmodels and figures worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from pipeline.statistics.pairs import (
    against_baseline,
    choose_pairing,
    compare_pairs,
    holm,
    paired_t,
    sign_flip,
    tukey,
)
from studies import simulate

OPTIONS = {"margin": 0.005, "draws": 1000, "seed": 0}


def study(effects, *, seeds=8, correlation=0.0, number=0, **noise):
    rng = np.random.default_rng(number)
    return simulate(rng, effects, seeds=seeds, cases=100, correlation=correlation, **noise)


def test_holms_procedure_on_a_worked_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_sign_flip_test_counts_every_flip():
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.6])
    means = [np.mean(differences * signs) for signs in product([1, -1], repeat=5)]
    extreme = np.mean([mean >= differences.mean() - 1e-12 for mean in means])
    assert sign_flip(differences[None]) == pytest.approx([2 * extreme])


@pytest.mark.parametrize(("seeds", "floor"), [(5, 0.0625), (10, 0.001953125)])
def test_the_sign_flip_test_has_its_floor(seeds, floor):
    assert sign_flip(np.linspace(1, 2, seeds)[None]) == pytest.approx([floor])


def test_the_paired_t_test_is_scipys():
    means = study([0.8, 0.81]).mean(axis=2)
    expected = stats.ttest_rel(means[0], means[1]).pvalue
    assert paired_t((means[0] - means[1])[None]) == pytest.approx([expected])


def test_differences_that_do_not_vary_have_p_of_0_or_1():
    assert paired_t(np.array([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])) == pytest.approx([1, 0])


def test_tukeys_test_finds_the_textbooks_difference():
    # Three groups of 3 with means 2, 3, 9 and a mean square of 1: the range from group 1 to 3 is
    # 7 / sqrt(1 / 3).
    means = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [8.0, 9.0, 10.0]])
    expected = stats.studentized_range.sf(7 * np.sqrt(3), 3, 6)
    assert tukey(means)[0, 2] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("correlation", "paired"), [(0.0, False), (0.9, True)])
def test_seeds_pair_the_variants_only_where_their_means_correlate(correlation, paired):
    means = study([0.8] * 5, seeds=40, correlation=correlation, rest_deviation=0).mean(axis=2)
    pairing = choose_pairing(means)
    assert pairing.paired is paired
    assert pairing.correlation == pytest.approx(np.corrcoef(means)[np.triu_indices(5, 1)].mean())


def test_variants_whose_means_do_not_vary_do_not_decide_the_pairing():
    pairing = choose_pairing(np.full((3, 4), 0.8))
    assert pairing.correlation is None
    assert not pairing.paired


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_a_clear_difference_is_shown_and_not_called_equal(paired):
    values = study([0.80, 0.80, 0.90], correlation=0.9 * paired, fit_deviation=0)
    pairs = compare_pairs(values, "abc", paired, **OPTIONS)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.shown for pair in pairs] == [False, True, True]
    assert pairs[1].superiority == 0
    assert pairs[1].equivalent is False


def test_lucky_cases_alone_show_no_difference():
    # One case of ten makes all of it: each seed agrees, so the seeds' test is sure.
    rng = np.random.default_rng(0)
    values = 0.8 + rng.normal(0, 1e-4, (2, 10, 10))
    values[0, :, 0] += 0.1
    (pair,) = compare_pairs(values, "ab", False, **OPTIONS)
    assert tukey(values.mean(axis=2))[0, 1] < 1e-6
    assert pair.shown is False


@pytest.mark.slow
def test_identical_variants_are_equal_and_nothing_is_shown():
    values = np.repeat(study([0.8]), 2, axis=0)
    for paired in (True, False):
        (pair,) = compare_pairs(values, "ab", paired, **OPTIONS)
        assert (pair.difference, pair.adjusted_p_value, pair.superiority) == (0, 1, 0.5)
        assert pair.shown is False
    assert compare_pairs(values, "ab", True, **OPTIONS)[0].equivalent is True


def test_a_difference_within_the_margin_is_called_equal_and_one_beyond_is_not():
    values = study(
        [0.80, 0.801, 0.81], seeds=10, fit_deviation=0, rest_deviation=0.001, seed_deviation=0.001
    )
    pairs = compare_pairs(values, "abc", False, **OPTIONS)
    assert [pair.equivalent for pair in pairs] == [True, False, False]


def test_below_seven_seeds_nothing_is_concluded():
    values = study([0.8, 0.9], seeds=6)
    (pair,) = compare_pairs(values, "ab", False, **OPTIONS)
    assert (pair.shown, pair.equivalent) == (None, None)


@pytest.mark.slow
def test_superiority_counts_runs_that_win_and_halves_ties():
    first, second = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.0])
    values = np.stack([first, second])[:, :, None] + np.zeros(2)
    (unpaired,) = compare_pairs(values, "ab", False, **OPTIONS)
    # Wins of 9 pairs of runs: 1 + (1 + 2 / 2) + 3 = 6.
    assert unpaired.superiority == pytest.approx(6 / 9)
    whitney = stats.mannwhitneyu(first, second).statistic
    assert unpaired.superiority == pytest.approx(whitney / 9)
    (paired,) = compare_pairs(values, "ab", True, **OPTIONS)
    assert paired.superiority == pytest.approx(1.5 / 3)


def test_dunnetts_comparison_is_scipys_with_the_baseline_left_out():
    means = study([0.8, 0.82, 0.81]).mean(axis=2)
    found = against_baseline(means, ["a", "b", "c"], "b", seed=0)
    expected = stats.dunnett(means[0], means[2], control=means[1], rng=np.random.default_rng(0))
    assert [row.variant for row in found] == ["a", "c"]
    assert [row.p_value for row in found] == pytest.approx(list(expected.pvalue), abs=1e-4)
    assert found[0].interval.low < means[0].mean() - means[1].mean() < found[0].interval.high

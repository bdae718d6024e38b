"""statistics/pairs.py against scipy, statsmodels and figures worked out by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.crossed import mean_interval, two_way, two_way_p
from pipeline.statistics.pairs import _two_one_sided as two_one_sided
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


def one_sided(distance, error, freedom):
    """The p-value that a difference lies so far within its margin, of the nearer side."""
    return stats.t.sf(distance / error, freedom)


@pytest.mark.parametrize("paired", [True, False])
def test_every_pair_has_its_tests_each_adjusted_over_all_pairs(paired):
    """Three variants: each figure by scipy, or from the definition of its standard error."""
    values = study(
        [0.800, 0.802, 0.806], correlation=0.5, case_deviation=0.01, fit_deviation=0.01,
        rest_deviation=0.01,
    )  # fmt: skip
    means = values.mean(axis=2)
    names, margin = ["a", "b", "c"], 0.009
    places = [(0, 1), (0, 2), (1, 2)]
    of_seeds, of_both, equal = [], [], []
    for one, other in places:
        difference = values[one] - values[other]
        between = means[one] - means[other]
        errors = two_way(difference)
        if paired:
            flips = np.array(list(product([1, -1], repeat=8))) @ between
            of_seeds.append((np.abs(flips) >= abs(between.sum()) - 1e-12).mean())
            error, freedom = stats.sem(between), 7
        else:
            of_seeds.append(stats.tukey_hsd(*means).pvalue[one, other])
            squares = stats.sem(means[one]) ** 2, stats.sem(means[other]) ** 2
            error = np.sqrt(sum(squares))  # Welch's
            freedom = sum(squares) ** 2 / sum(square**2 / 7 for square in squares)
        of_both.append(float(two_way_p(difference)))
        distance = margin - abs(between.mean())
        equal.append(
            max(
                one_sided(distance, error, freedom),
                one_sided(distance, errors.total, errors.freedom(8, 100)),
            )
        )
    adjusted = np.maximum(
        multipletests(of_seeds, method="holm")[1], multipletests(of_both, method="holm")[1]
    )
    equal = multipletests(equal, method="holm")[1]
    found = compare_pairs(values, names, paired, margin=margin, draws=1000, seed=0)
    for place, (pair, (one, other)) in enumerate(zip(found, places, strict=True)):
        difference = values[one] - values[other]
        assert (pair.first, pair.second) == (names[one], names[other])
        assert pair.difference == pytest.approx(difference.mean())
        assert pair.interval == mean_interval(difference)
        assert pair.two_way_p_value == pytest.approx(of_both[place])
        assert pair.adjusted_p_value == pytest.approx(adjusted[place], rel=1e-4)
        assert pair.shown is bool(adjusted[place] < 0.05)
        assert pair.equivalence_p_value == pytest.approx(equal[place], rel=1e-6)
        assert pair.equivalent is bool(equal[place] < 0.05)
        if paired:
            assert pair.exact_p_value == pytest.approx(of_seeds[place])
            expected = stats.ttest_rel(means[one], means[other]).pvalue
            assert pair.p_value == pytest.approx(expected)
        else:
            assert (pair.p_value, pair.exact_p_value) == (None, None)
    assert len({pair.equivalent for pair in found}) == 2


def test_from_seven_seeds_on_a_pair_is_concluded():
    (pair,) = compare_pairs(study([0.8, 0.9], seeds=7), "ab", False, **OPTIONS)
    assert (pair.shown, pair.equivalent) == (True, False)


@pytest.mark.parametrize(
    ("apart", "shown", "equivalent"), [(0.0, False, True), (0.004, True, True), (0.01, True, False)]
)
@pytest.mark.parametrize("paired", [True, False])
def test_without_noise_what_differs_is_shown_and_what_is_within_the_margin_is_equal(
    apart, shown, equivalent, paired
):
    values = np.full((2, 8, 4), 0.8)
    values[1] += apart
    (pair,) = compare_pairs(values, "ab", paired, **OPTIONS)
    assert (pair.shown, pair.equivalent) == (shown, equivalent)
    assert pair.superiority == (0.5 if apart == 0 else 0)


@pytest.mark.parametrize(("apart", "p_value"), [(0.004, 0.0), (0.005, 1.0), (0.01, 1.0)])
@pytest.mark.parametrize("paired", [True, False])
def test_means_that_do_not_vary_are_equal_within_the_margin_and_surely_not_beyond(
    apart, p_value, paired
):
    means = np.zeros(8)
    assert two_one_sided(means + apart, means, paired, 0.005) == p_value


def test_means_that_differ_by_one_number_vary_themselves_where_seeds_do_not_pair():
    means = np.random.default_rng(2).normal(0.8, 0.01, 8)
    lower = stats.ttest_ind(means + 0.002, means - 0.005, equal_var=False, alternative="greater")
    upper = stats.ttest_ind(means + 0.002, means + 0.005, equal_var=False, alternative="less")
    expected = max(lower.pvalue, upper.pvalue)
    assert two_one_sided(means + 0.002, means, False, 0.005) == pytest.approx(expected)


@pytest.mark.parametrize("paired", [True, False])
def test_superiority_has_the_percentiles_of_a_bootstrap_over_seeds(paired):
    """Drawn here run by run: with pairs one set of seeds, else one for each variant."""
    rng = np.random.default_rng(11)
    first, second = rng.normal(0.3, 1, 9), rng.normal(0, 1, 9)
    first[2] = second[2]  # a tie
    values = np.stack([first, second])[:, :, None] + np.zeros(2)
    drawn = []
    for _ in range(4000):
        one, other = rng.integers(9, size=(2, 9))
        wins = (
            np.sign(first[one] - second[one])
            if paired
            else np.sign(first[one][:, None] - second[other])
        )
        drawn.append((wins.mean() + 1) / 2)
    (pair,) = compare_pairs(values, "ab", paired, margin=0.005, draws=4000, seed=0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert pair.superiority_interval.low == pytest.approx(low, abs=0.03)
    assert pair.superiority_interval.high == pytest.approx(high, abs=0.03)
    won = np.sign(first - second) if paired else np.sign(first[:, None] - second)
    assert pair.superiority == pytest.approx((won.mean() + 1) / 2)


def test_flips_of_more_than_fourteen_seeds_are_drawn_by_the_seed():
    differences = np.random.default_rng(1).normal(0.5, 1, (1, 18))
    first, again, other = (sign_flip(differences, seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    flips = np.random.default_rng(2).choice([1, -1], (100_000, 18)) @ differences[0]
    assert first == pytest.approx((np.abs(flips) >= differences.sum()).mean(), abs=0.01)
    fourteen = differences[:, :14]
    assert sign_flip(fourteen, 0) == sign_flip(fourteen, 1)


def test_a_flip_tests_p_value_is_at_most_one():
    assert sign_flip(np.array([[0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0]])).tolist() == [1, 1]


def test_tukeys_test_of_means_that_do_not_vary_is_sure():
    means = np.repeat([[0.8], [0.9], [0.8]], 4, axis=1)
    assert tukey(means).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_the_pairing_names_its_rule_and_its_test():
    apart = choose_pairing(np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]))
    assert (apart.correlation, apart.threshold, apart.paired) == (pytest.approx(-1), 0.2, False)
    assert apart.test == "Tukey's honestly significant difference on seed means"
    together = choose_pairing(np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.4], [0.5, 0.5, 0.5]]))
    assert together.correlation == pytest.approx(np.corrcoef([1, 2, 3], [1, 2, 4])[0, 1])
    assert together.paired is True
    assert together.test == "exact sign-flip test on paired seed means, Holm over all pairs"


def test_dunnetts_differences_and_intervals_are_of_the_variant_less_the_baseline():
    means = study([0.8, 0.82, 0.81], number=1).mean(axis=2)
    first, last = against_baseline(means, ["a", "b", "c"], "b", seed=0)
    assert first.difference == pytest.approx(means[0].mean() - means[1].mean())
    assert last.difference == pytest.approx(means[2].mean() - means[1].mean())
    for row in (first, last):  # symmetric about it, and of one width: groups are of one size
        assert (row.interval.low + row.interval.high) / 2 == pytest.approx(row.difference)
    test = stats.dunnett(means[0], means[2], control=means[1], rng=np.random.default_rng(0))
    expected = test.confidence_interval(0.95)
    assert last.interval.low == pytest.approx(expected.low[1], abs=1e-5)
    assert first.interval.high == pytest.approx(expected.high[0], abs=1e-5)
    assert against_baseline(np.full((3, 4), 0.8), ["a", "b", "c"], "b", seed=0) == []


def test_equivalence_of_seeds_that_do_not_pair_is_welchs():
    """Cases alike, and seeds that go together: the paired error is none, the unpaired one large."""
    first = np.array([0.01, -0.01, 0.02, -0.02, 0.015, -0.015, 0.0, 0.0]) + 0.8
    second = 0.8 + (first - 0.8) / 4
    values = np.stack([first, second])[:, :, None] + np.zeros(3)
    squares = stats.sem(first) ** 2, stats.sem(second) ** 2
    freedom = sum(squares) ** 2 / sum(square**2 / 7 for square in squares)
    expected = one_sided(0.01, np.sqrt(sum(squares)), freedom)
    (pair,) = compare_pairs(values, "ab", False, margin=0.01, draws=1000, seed=0)
    assert pair.equivalence_p_value == pytest.approx(expected)

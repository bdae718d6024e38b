"""statistics/pairs.py against scipy, statsmodels and figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.crossed import by_group
from pipeline.statistics.pairs import (
    choose_pairing,
    compare_cases,
    compare_pairs,
    holm,
    superiority,
    tukey,
)
from pipeline.statistics.typical import Contrast, contrasts, typical_run
from studies import simulate


def compared(values, paired=False, *, failed=None, margin=0.005):
    lost = np.zeros(values.shape[:2], dtype=bool) if failed is None else failed
    return compare_pairs(values, lost, "abcdefg"[: len(values)], paired, margin=margin)


def study(effects, *, seeds=8, correlation=0.0, number=0, **noise):
    rng = np.random.default_rng(number)
    return simulate(rng, effects, seeds=seeds, cases=100, correlation=correlation, **noise)


def test_holms_procedure_on_a_worked_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(("correlation", "paired"), [(0.0, False), (0.9, True)])
def test_seeds_pair_the_variants_only_where_their_means_correlate(correlation, paired):
    means = study([0.8] * 5, seeds=40, correlation=correlation, rest_deviation=0).mean(axis=2)
    pairing = choose_pairing(means)
    assert pairing.paired is paired
    assert pairing.correlation == pytest.approx(
        stats.spearmanr(means.T).statistic[np.triu_indices(5, 1)].mean()
    )


def test_variants_whose_means_do_not_vary_do_not_decide_the_pairing():
    pairing = choose_pairing(np.full((3, 4), 0.8))
    assert pairing.correlation is None
    assert not pairing.paired


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_a_clear_difference_is_shown_and_not_called_equal(paired):
    values = study([0.80, 0.80, 0.90], correlation=0.9 * paired, fit_deviation=0)
    pairs = compared(values, paired)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.shown for pair in pairs] == [False, True, True]
    assert pairs[1].superiority == 0
    assert pairs[1].equivalent is False


def test_lucky_cases_alone_show_no_difference():
    # One case of ten makes all of it: each seed agrees, so the seeds' test is sure.
    rng = np.random.default_rng(0)
    values = 0.8 + rng.normal(0, 1e-4, (2, 10, 10))
    values[0, :, 0] += 0.1
    (pair,) = compared(values, False)
    assert stats.ttest_ind(*values.mean(axis=2)).pvalue < 1e-6
    assert pair.shown is False


@pytest.mark.slow
def test_identical_variants_are_equal_and_nothing_is_shown():
    values = np.repeat(study([0.8]), 2, axis=0)
    for paired in (True, False):
        (pair,) = compared(values, paired)
        assert (pair.difference, pair.adjusted_p_value, pair.superiority) == (0, 1, 0.5)
        assert pair.shown is False
    assert compared(values, True)[0].equivalent is True


def test_a_difference_within_the_margin_is_called_equal_and_one_beyond_is_not():
    values = study(
        [0.80, 0.801, 0.81], seeds=10, fit_deviation=0, rest_deviation=0.001, seed_deviation=0.001
    )
    pairs = compared(values, False)
    assert [pair.equivalent for pair in pairs] == [True, False, False]


def test_below_seven_seeds_nothing_is_concluded():
    values = study([0.8, 0.9], seeds=6)
    (pair,) = compared(values, False)
    assert (pair.shown, pair.equivalent) == (None, None)


def test_from_seven_seeds_on_a_pair_is_concluded():
    (pair,) = compared(study([0.8, 0.9], seeds=7))
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
    (pair,) = compared(values, paired)
    assert (pair.shown, pair.equivalent) == (shown, equivalent)
    assert pair.superiority == (0.5 if apart == 0 else 0)


def test_a_difference_is_that_of_typical_runs_with_tukeys_range_and_its_own_error():
    values = study([0.800, 0.802, 0.812], case_deviation=0.01, fit_deviation=0.01)
    runs = [typical_run(each, np.zeros(8, dtype=bool)) for each in values]
    weights = [[1, -1, 0], [1, 0, -1], [0, 1, -1]]
    for paired in (True, False):
        expected = contrasts(runs, weights, paired)
        equal = multipletests([each.equivalence(0.02) for each in expected], method="holm")[1]
        found = compared(values, paired, margin=0.02)
        for place, (pair, contrast) in enumerate(zip(found, expected, strict=True)):
            assert pair.difference == pytest.approx(contrast.value)
            assert pair.interval == contrast.interval()
            assert pair.p_value == pytest.approx(contrast.p_value)
            adjusted = stats.studentized_range.sf(
                np.sqrt(2) * contrast.distance, 3, contrast.freedom
            )
            assert pair.adjusted_p_value == pytest.approx(adjusted)
            assert pair.shown is bool(adjusted < 0.05)
            assert pair.equivalence_p_value == pytest.approx(equal[place])
            assert pair.equivalent is bool(equal[place] < 0.05)
        assert len({pair.equivalent for pair in found}) == 2


def test_tukeys_test_finds_the_textbooks_difference():
    # Three groups of 3 with means 2, 3, 9 and a mean square of 1: the range from group 1 to 3 is
    # 7 / sqrt(1 / 3).
    means = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [8.0, 9.0, 10.0]])
    contrast = Contrast(7.0, 2 / 3, 0.0, 6)
    assert tukey(contrast, 3) == pytest.approx(stats.tukey_hsd(*means).pvalue[0, 2], rel=1e-6)


def test_of_two_variants_tukeys_range_is_students_t():
    contrast = Contrast(0.01, 1e-5, 2e-6, 11.3)
    range_of_two = stats.studentized_range.sf(np.sqrt(2) * contrast.distance, 2, 11.3)
    assert tukey(contrast, 2) == pytest.approx(range_of_two, rel=1e-6)


def test_many_degrees_of_freedom_are_taken_for_infinite():
    found = tukey(Contrast(3.3, 1.0, 0.0, 1000.0), 7)
    assert found == pytest.approx(stats.studentized_range.sf(3.3 * np.sqrt(2), 7, np.inf))
    assert tukey(Contrast(1e9, 1.0, 0.0, 1000.0), 7) >= 0


def test_a_failed_run_has_no_part_in_a_difference():
    values = study([0.80, 0.81])
    failed = np.zeros((2, 8), dtype=bool)
    failed[0, 3] = True
    worse = values.copy()
    worse[0, 3] -= 0.13
    (one,), (other,) = compared(values, failed=failed), compared(worse, failed=failed)
    assert (one.difference, one.interval, one.p_value) == (
        other.difference, other.interval, other.p_value,
    )  # fmt: skip


def test_superiority_is_the_share_of_seeds_that_win_with_its_exact_interval():
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 0.0, 1.0])
    share, bounds = superiority(first, second)
    assert share == pytest.approx(2.5 / 4)
    assert bounds.low == pytest.approx(stats.beta.ppf(0.025, 2.5, 2.5))
    assert bounds.high == pytest.approx(stats.beta.ppf(0.975, 3.5, 1.5))
    share, bounds = superiority(second + 9, first)
    expected = stats.binomtest(4, 4).proportion_ci(method="exact")
    assert (share, bounds.low, bounds.high) == (1, pytest.approx(expected.low), 1)


def test_the_pairing_names_its_rule_and_its_test():
    falling = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.5, 0.5, 0.5]]
    apart = choose_pairing(np.array(falling))
    assert (apart.correlation, apart.threshold, apart.paired) == (pytest.approx(-1), 0.2, False)
    assert apart.test.endswith("each pair with its own error over seeds and cases")
    together = choose_pairing(np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 9.4], [0.5, 0.5, 0.5]]))
    assert (together.correlation, together.paired) == (pytest.approx(1), True)
    assert together.test.endswith("over seeds, which pair the two, and cases")


def test_one_failed_run_does_not_decide_the_pairing():
    means = study([0.8] * 3, seeds=10, correlation=0.9, rest_deviation=0).mean(axis=2)
    means[:2, np.argmax(means[0])] -= [0.5, 0.0]  # the luckiest seed fails
    assert np.corrcoef(means)[0, 1] < 0  # Pearson's turns negative
    assert choose_pairing(means[:2]).correlation > 0


def test_two_variants_are_always_paired():
    for second in ([0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]):
        assert choose_pairing(np.array([[0.1, 0.2, 0.3], second])).paired


def test_where_most_runs_failed_nothing_is_concluded():
    values = study([0.8, 0.9])
    failed = np.zeros((2, 8), dtype=bool)
    failed[1, :4] = True
    (pair,) = compared(values, failed=failed)
    assert pair.shown is True
    failed[1, 4] = True
    (pair,) = compared(values, failed=failed)
    assert (pair.shown, pair.equivalent) == (None, None)


def test_pairs_by_group_have_the_error_of_groups_and_the_decision_of_cases():
    values = study([0.8, 0.8], seeds=8, number=3)  # of 100 cases
    values = np.round(64 * values) / 64  # whose sums are exact: runs of the same cases tie
    values[1, :4] = values[0, :4, ::-1]
    groups = np.random.default_rng(0).integers(0, 30, 100)
    names, lost = ["a", "b"], np.zeros((2, 8), dtype=bool)
    (found,) = compare_pairs(values, lost, names, True, margin=0.005, groups=groups)
    (of_units,) = compare_pairs(by_group(values, groups), lost, names, True, margin=0.005)
    (alone,) = compare_pairs(values, lost, names, True, margin=0.005)
    shared = ("interval", "p_value", "equivalence_p_value", "false", "false_over_cases")
    for name in shared:
        assert getattr(found, name) == getattr(of_units, name) != getattr(alone, name), name
    assert found.difference == pytest.approx(alone.difference, abs=1e-15)
    for name in ("deciding_cases", "superiority", "superiority_interval"):
        assert getattr(found, name) == getattr(alone, name), name


def test_a_claim_over_cases_alone_has_the_cluster_robust_error():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(20), 5)
    values = study([0.8, 0.81], seeds=7, number=5) + rng.normal(0, 0.1, (2, 1, 20))[..., groups]
    lost = np.zeros((2, 7), dtype=bool)
    (found,) = compare_pairs(values, lost, ["a", "b"], True, margin=0.005, groups=groups)
    # Of seven runs the best and the worst are trimmed.
    kept = [own[np.argsort(own.mean(axis=1))[1:-1]].mean(axis=0) for own in values]
    by_case = kept[0] - kept[1]
    fitted = sm.OLS(by_case, np.ones(100)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    expected = stats.t.sf(fitted.params[0] / fitted.bse[0], 19)
    assert found.false_over_cases == pytest.approx(expected)


def test_one_run_each_by_group_has_students_interval_of_groups_and_the_decision_of_cases():
    values = study([0.8, 0.82, 0.8], seeds=1, number=6)[:, 0]
    groups = np.random.default_rng(0).integers(0, 30, 100)
    found = compare_cases(values, ["a", "b", "c"], groups)
    alone = compare_cases(values, ["a", "b", "c"])
    assert [(pair.first, pair.second) for pair in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    told = stats.ttest_1samp(by_group(values[0] - values[1], groups), 0)
    assert found[0].p_value == pytest.approx(told.pvalue)
    bounds = told.confidence_interval(0.95)
    assert (found[0].interval.low, found[0].interval.high) == pytest.approx(bounds)
    for pair, single in zip(found, alone, strict=True):
        assert pair.difference == pytest.approx(single.difference)
        assert pair.deciding_cases == single.deciding_cases
        assert pair.interval != single.interval

"""statistics/typical.py against scipy's Yuen test, Welch's and figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.statistics.crossed import by_group, mean_interval, two_way
from pipeline.statistics.typical import (
    contrasts,
    is_descriptive,
    more_runs_interval,
    seeds_alone_interval,
    typical_interval,
    typical_mean,
    typical_run,
)
from studies import simulate

BETWEEN = [[1.0, -1.0]]


def alike(*rows):
    """Values (S, 3) of runs whose cases are all alike, so that only seeds differ."""
    return [np.repeat(np.asarray(row, dtype=float)[:, None], 3, axis=1) for row in rows]


def none(values):
    return np.zeros(len(values), dtype=bool)


def pair(first, second, *, paired=False, lost=(None, None)):
    runs = [
        typical_run(values, none(values) if failed is None else failed)
        for values, failed in zip((first, second), lost, strict=True)
    ]
    return contrasts(runs, BETWEEN, paired)[0]


def interval_of(values):
    """Of a typical run, whatever the number of runs."""
    (found,) = contrasts([typical_run(values, none(values))], [[1.0]], paired=False)
    return found.interval()


def test_one_run_is_trimmed_at_either_end_and_a_tenth_of_many():
    (ten,) = alike([9, 1, 2, 3, 4, 5, 6, 7, 8, 100])
    run = typical_run(ten, none(ten))
    assert (run.mean, run.kept) == (pytest.approx(np.mean([2, 3, 4, 5, 6, 7, 8, 9])), 8)
    (thirty,) = alike(np.arange(30.0) ** 2)
    run = typical_run(thirty, none(thirty))
    assert run.mean == pytest.approx(stats.trim_mean(np.arange(30.0) ** 2, 0.1))
    assert run.kept == 24


def test_of_fewer_than_seven_runs_none_is_trimmed():
    (six,) = alike([1, 2, 3, 4, 5, 60])
    assert typical_run(six, none(six)).mean == pytest.approx(12.5)
    (seven,) = alike([1, 2, 3, 4, 5, 6, 60])
    assert typical_run(seven, none(seven)).mean == pytest.approx(4)


def test_failed_runs_have_no_part():
    values = simulate(np.random.default_rng(0), [0.8], seeds=9, cases=40)[0]
    failed = np.arange(9) == 4
    worse = values.copy()
    worse[4] -= 0.5
    one, other = typical_run(values, failed), typical_run(worse, failed)
    assert (one.mean, one.seeds, one.rest) == (other.mean, other.seeds, other.rest)
    assert one.mean == pytest.approx(typical_run(values[~failed], none(values[~failed])).mean)
    assert one.moves[4] == 0


def test_a_difference_of_variants_that_seeds_do_not_pair_is_yuens():
    """scipy's ttest_ind with trim; the first varies the more, so that its own error stands."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.80, 0.02, 10), rng.normal(0.81, 0.02, 10)
    a, b = alike(first, second)
    runs = [typical_run(a, none(a)), typical_run(b, none(b))]
    # Without pooling: each as if the other had none of it.
    expected = stats.ttest_ind(first, second, equal_var=False, trim=0.1)
    squares = [run.seeds for run in runs]
    error = np.sqrt(sum(squares))
    freedom = sum(squares) ** 2 / sum(square**2 / 7 for square in squares)
    assert (runs[0].mean - runs[1].mean) / error == pytest.approx(expected.statistic)
    assert freedom == pytest.approx(expected.df)
    found = contrasts(runs, BETWEEN, paired=False)[0]
    pooled = sum(square * 8 * 7 for square in squares) / 14 / 8
    larger, smaller = max(squares), min(squares)
    assert smaller < pooled < larger
    assert found.seeds == pytest.approx(larger + pooled)
    assert found.freedom == pytest.approx(found.seeds**2 / (larger**2 / 7 + pooled**2 / 14))
    assert found.p_value == pytest.approx(
        2 * stats.t.sf(abs(found.value) / np.sqrt(larger + pooled), found.freedom)
    )


def test_two_variants_that_vary_alike_are_compared_with_pooled_variances():
    """Mirrored runs have equal variances, so that the pooled error is each one's own."""
    first = np.array([0.80, 0.81, 0.83, 0.80, 0.79, 0.82])
    a, b = alike(first, 1.7 - first)
    found = pair(a, b)
    expected = stats.ttest_ind(first, 1.7 - first)
    assert found.value / found.error == pytest.approx(expected.statistic)
    assert found.freedom == pytest.approx(expected.df)  # one pooled error, counted once


def test_seeds_that_pair_have_the_error_of_their_differences():
    rng = np.random.default_rng(4)
    luck = rng.normal(0, 0.03, 6)
    first, second = 0.8 + luck, 0.81 + luck + rng.normal(0, 0.001, 6)
    a, b = alike(first, second)
    found, apart = pair(a, b, paired=True), pair(a, b)
    expected = stats.ttest_rel(first, second)
    assert found.value / found.error == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.error < apart.error / 5


def test_the_paired_error_is_that_of_winsorised_variances_and_their_covariance():
    """Yuen's test for dependent groups, written out: d1 + d2 - 2 d12, h - 1 degrees of freedom."""
    rng = np.random.default_rng(5)
    luck = rng.normal(0, 0.02, 9)
    first, second = 0.8 + luck + rng.normal(0, 0.01, 9), 0.8 + luck + rng.normal(0, 0.01, 9)
    second[2] -= 0.2
    winsorised = [np.asarray(stats.mstats.winsorize(each, 0.12)) for each in (first, second)]
    assert np.sort(winsorised[0])[1] == winsorised[0].min()
    centred = [each - each.mean() for each in winsorised]
    one, other, both = (
        float((x * y).sum() / (7 * 6)) for x, y in (
            (centred[0], centred[0]), (centred[1], centred[1]), (centred[0], centred[1])
        )
    )  # fmt: skip
    a, b = alike(first, second)
    found = pair(a, b, paired=True)
    assert found.value == pytest.approx(
        stats.trim_mean(first, 0.12) - stats.trim_mean(second, 0.12)
    )
    assert found.seeds == pytest.approx(one + other - 2 * both)
    assert found.freedom == pytest.approx(6)


def test_an_error_that_is_small_by_luck_is_raised_to_the_pooled_one():
    a, b, c = alike(
        [0.8, 0.8, 0.8, 0.8, 0.8, 0.8001], [0.80, 0.82, 0.78, 0.81, 0.79, 0.80],
        [0.80, 0.83, 0.77, 0.81, 0.79, 0.80],
    )  # fmt: skip
    runs = [typical_run(each, none(each)) for each in (a, b, c)]
    (found,) = contrasts(runs, [[1.0, -1.0, 0.0]], paired=False)
    variances = [each[:, 0].var(ddof=1) for each in (a, b, c)]
    pooled = np.mean(variances) / 6
    assert found.seeds == pytest.approx(pooled + max(variances[1] / 6, pooled))


def test_the_cases_error_is_that_of_the_two_way_table_of_the_kept_runs():
    values = simulate(np.random.default_rng(6), [0.80, 0.82], seeds=6, cases=50)
    found = pair(*values)
    kept = [two_way(each) for each in values]
    differences = values[0].mean(axis=0) - values[1].mean(axis=0)
    noise = [each.mean(axis=0).var(ddof=1) / 50 - errors.cases
             for each, errors in zip(values, kept, strict=True)]  # fmt: skip
    assert found.cases == pytest.approx(differences.var(ddof=1) / 50 - sum(noise))
    alone = interval_of(values[0])
    expected = mean_interval(values[0])  # of six runs none is trimmed
    assert (alone.low, alone.high) == pytest.approx((expected.low, expected.high))


def test_weights_of_a_design_make_its_contrast():
    values = alike(*np.random.default_rng(7).normal(0.8, 0.01, (4, 6)))
    runs = [typical_run(each, none(each)) for each in values]
    weights = np.array([[-0.5, 0.5, -0.5, 0.5]])
    (found,) = contrasts(runs, weights, paired=False)
    means = [each.mean() for each in values]
    assert found.value == pytest.approx((means[1] + means[3] - means[0] - means[2]) / 2)
    squares = np.array([each[:, 0].var(ddof=1) / 6 for each in values])
    assert found.seeds == pytest.approx(np.maximum(squares, squares.mean()).sum() / 4)
    (together,) = contrasts(runs, weights, paired=True)
    contrast = (weights @ np.array([each[:, 0] for each in values])).ravel()
    assert together.seeds >= contrast.var(ddof=1) / 6 - 1e-15


def test_without_any_error_only_no_difference_is_likely():
    same, also, other = alike([0.8] * 8, [0.8] * 8, [0.7] * 8)
    assert pair(same, also).p_value == 1
    assert pair(same, other).p_value == 0
    assert pair(same, also).equivalence(0.005) == 0
    assert pair(same, other).equivalence(0.005) == 1
    assert pair(same, other, paired=True).p_value == 0


def test_equivalence_is_two_one_sided_tests():
    first = np.array([0.80, 0.81, 0.82, 0.80, 0.79, 0.82])
    second = 1.615 - first  # as much variance
    found = pair(*alike(first, second))
    for margin in (0.05, 0.006, 0.001):
        lower = stats.t.sf((found.value + margin) / found.error, found.freedom)
        upper = stats.t.cdf((found.value - margin) / found.error, found.freedom)
        assert found.equivalence(margin) == pytest.approx(max(lower, upper))


def test_few_kept_runs_have_the_seeds_degrees_of_freedom():
    """With fewer than five Satterthwaite's own number is too uncertain."""
    values = simulate(np.random.default_rng(8), [0.8], seeds=3, cases=200)[0]
    bounds = interval_of(values)
    reach = stats.t.ppf(0.975, 2) * two_way(values).total
    assert bounds.high - bounds.low == pytest.approx(2 * reach)


def test_the_prediction_interval_is_the_textbooks_where_cases_are_alike():
    means, failed = np.array([0.80, 0.82, 0.85, 0.81]), np.arange(7) > 3
    (values,) = alike([*means, 0.1, 0.2, 0.3])
    bounds = more_runs_interval(values, failed)
    reach = stats.t.ppf(0.975, 3) * means.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert bounds.high - bounds.low == pytest.approx(2 * reach)
    four = more_runs_interval(values, failed, figures=4)
    assert (four.high - four.low) / 2 == pytest.approx(
        stats.t.ppf(1 - 0.05 / 8, 3) * means.std(ddof=1) * np.sqrt(1 + 1 / 4)
    )


def test_one_more_run_on_other_cases_lies_in_the_prediction_interval_19_times_of_20_or_more():
    # 8 seeds, 400 cases, and nearly all of the spread that of the cases: with their error counted
    # once the interval would hold 89 %.
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(1000):
        values = rng.normal(0, 0.1, (8, 1)) + rng.normal(0, 5, 400) + rng.normal(0, 0.1, (8, 400))
        values[0] -= 3  # a failed run, which the next is not
        run = rng.normal(0, 0.1) + rng.normal(0, 5, 400) + rng.normal(0, 0.1, 400)
        interval = more_runs_interval(values, np.arange(8) == 0)
        inside += interval.low <= run.mean() <= interval.high
    assert 940 <= inside <= 990  # 973 expected, with the t quantile of 6 degrees; deviation 5


def test_one_run_and_one_case_have_a_mean_and_runs_over_cases_alone_an_interval():
    values = np.random.default_rng(9).random((3, 12))
    failed = np.array([False, True, True])
    assert typical_mean(values, failed) == pytest.approx(values[0].mean())
    assert typical_interval(values, failed) is None
    expected = stats.ttest_1samp(values[0], 0).confidence_interval(0.95)
    found = typical_interval(values[:1], failed[:1])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert typical_mean(values[:, :1], none(values)) == pytest.approx(values[:, 0].mean())
    many = np.random.default_rng(1).random((10, 1))  # trimmed, though of one case
    assert typical_mean(many, none(many)) == pytest.approx(stats.trim_mean(many[:, 0], 0.1))
    values[0, 0] = np.nan
    assert np.isnan(typical_mean(values, none(values)))


@pytest.mark.parametrize(
    ("runs", "lost", "few"), [(1, 0, False), (2, 0, True), (6, 0, True), (7, 0, False),
                              (7, 3, False), (7, 4, True), (20, 16, False), (20, 17, True)],
)  # fmt: skip
def test_seven_runs_of_which_four_did_not_fail_are_the_fewest_that_conclude(runs, lost, few):
    failed = np.arange(runs) < lost
    assert is_descriptive(failed) == few
    assert is_descriptive(np.array([failed, failed & False])) == few
    values = np.random.default_rng(0).uniform(0.7, 0.9, (runs, 5))
    assert (typical_interval(values, failed) is None) == few
    assert (more_runs_interval(values, failed) is None) == (few or runs == 1)
    assert (seeds_alone_interval(values[:, 0], failed) is None) == (few or runs == 1)
    assert not is_descriptive(np.zeros((0, 0), dtype=bool))


def test_intervals_of_a_metric_stay_within_its_bounds():
    values = np.clip(np.random.default_rng(0).normal(0.995, 0.01, (8, 6)), 0, 1)
    values[:, 0] = 0.9
    for found in (
        typical_interval(values, none(values), (0.0, 1.0)),
        more_runs_interval(values, none(values), (0.0, 1.0), figures=4),
        seeds_alone_interval(values[:, 1], none(values), (0.0, 1.0)),
        typical_interval(values[:1], none(values[:1]), (0.0, 1.0)),
    ):
        assert (0 < found.low < found.high < 1, found.scale) == (True, "logit")
    assert typical_interval(values, none(values)).high > 1


def test_runs_of_which_all_but_one_are_perfect_have_an_interval_that_ends_at_one():
    (values,) = alike([1, 1, 1, 1, 1, 1, 0.9])  # which is trimmed, but may come again
    assert typical_interval(values, none(values), (0.0, 1.0)).low == 1
    found = more_runs_interval(values, none(values), (0.0, 1.0))
    reach = stats.t.ppf(0.975, 6) * values[:, 0].std(ddof=1)
    assert (found.low, found.high) == (pytest.approx(1 - reach), 1)


def test_of_two_seeds_the_pooled_error_has_no_more_degrees_of_freedom():
    values = simulate(np.random.default_rng(8), [0.8] * 5, seeds=2, cases=200)
    runs = [typical_run(each, none(each)) for each in values]
    weights = [[1.0, -1.0, 0.0, 0.0, 0.0]]
    assert {contrasts(runs, weights, paired)[0].freedom for paired in (True, False)} == {1}


def test_by_group_intervals_hold_the_truth_of_patients_with_five_photographs():
    """Two variants of 8 seeds on 40 patients; most of a photograph's difficulty is its patient's.
    Photographs taken each for itself make intervals half as wide as they must be."""
    rng, truths, groups = np.random.default_rng(0), [0.80, 0.81], np.repeat(np.arange(40), 5)
    held = {"typical": [], "difference": [], "typical, alone": [], "difference, alone": []}
    for _ in range(400):
        of_patients = simulate(rng, truths, seeds=8, cases=40, rest_deviation=0)
        values = np.repeat(of_patients, 5, axis=2)
        values += rng.normal(0, 0.03, (1, 1, 200)) + rng.normal(0, 0.01, (2, 8, 200))
        for name, units in (("", by_group(values, groups)), (", alone", values)):
            bounds = typical_interval(units[0], none(units[0]))
            held[f"typical{name}"].append(bounds.low <= 0.80 <= bounds.high)
            bounds = pair(*units, paired=True).interval()
            held[f"difference{name}"].append(bounds.low <= -0.01 <= bounds.high)
    covered = {name: np.mean(each) for name, each in held.items()}
    assert 0.925 <= covered["typical"] <= 0.975  # of 400 at 95 %: deviation 0.011
    assert 0.925 <= covered["difference"] <= 0.975
    assert covered["typical, alone"] < 0.75
    assert covered["difference, alone"] < 0.75

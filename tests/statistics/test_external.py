"""statistics/external.py against scipy's trimmed means, Yuen's error and simulated truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import mstats

from pipeline.statistics.external import compare_sets, mean_over_folds
from pipeline.statistics.pairs import holm
from pipeline.statistics.typical import changes, contrasts, typical_run
from studies import as_table, simulate

SEEDS = 10


def two_sets(rng, here, there, *, shared=0.8, cases=(60, 40), seeds=SEEDS, deviation=0.02):
    """Tables of the same runs on two sets: `shared`, of a run's luck, is on both."""
    luck = rng.normal(0, deviation, (len(here), seeds, 1))
    tables = []
    for effects, count in zip((here, there), cases, strict=True):
        values = simulate(rng, effects, seeds=seeds, cases=count, seed_deviation=0.0)
        own = rng.normal(0, deviation, luck.shape)
        values += np.sqrt(shared) * luck + np.sqrt(1 - shared) * own
        tables.append(values)
    return tables


def compared(here, there, *, failed=(), paired=False):
    return compare_sets(as_table(here), as_table(there), failed, paired=paired)


def test_a_change_is_the_difference_of_the_trimmed_means_on_the_two_sets():
    here, there = two_sets(np.random.default_rng(0), [0.8, 0.82], [0.7, 0.75])
    a, b, pair = compared(here, there)
    means = [
        [stats.trim_mean(runs.mean(axis=1), 0.1) for runs in values] for values in (here, there)
    ]
    assert [each.variants for each in (a, b, pair)] == [["a"], ["b"], ["a", "b"]]
    assert (a.here, a.there) == pytest.approx((means[0][0], means[1][0]))
    assert b.change == pytest.approx(means[1][1] - means[0][1])
    assert pair.here == pytest.approx(means[0][0] - means[0][1])
    assert pair.change == pytest.approx(a.change - b.change)


def test_the_error_over_seeds_is_yuens_for_the_same_runs_on_both_sets():
    """Cases without an error of their own; each set's runs winsorised for themselves."""
    rng = np.random.default_rng(1)
    luck = rng.normal(0, 0.02, SEEDS)
    means = [0.8 + luck, 0.7 + luck + rng.normal(0, 0.005, SEEDS)]
    before, after = (np.repeat(each[:, None], 5, axis=1) for each in means)
    none = np.zeros(SEEDS, dtype=bool)
    (found,) = changes(
        [typical_run(before, none)], [typical_run(after, none)], [[1.0]], paired=False
    )
    winsorised = [np.asarray(mstats.winsorize(each, 0.1)) for each in means]
    covariance = np.cov(winsorised) * (SEEDS - 1)
    kept = SEEDS - 2
    expected = (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) / (kept * (kept - 1))
    assert found.seeds == pytest.approx(expected)
    assert found.cases == pytest.approx(0.0, abs=1e-12)
    assert found.freedom == pytest.approx(kept - 1)


def test_the_errors_over_the_cases_of_both_sets_add_up():
    here, there = two_sets(np.random.default_rng(2), [0.8, 0.8], [0.7, 0.75])
    none = np.zeros(SEEDS, dtype=bool)
    runs = [[typical_run(values, none) for values in each] for each in (here, there)]
    (found,) = changes(*runs, [[1.0, -1.0]], paired=False)
    alone = [contrasts(each, [[1.0, -1.0]], paired=False)[0].cases for each in runs]
    assert found.cases == pytest.approx(sum(alone))


def test_p_values_are_adjusted_for_variants_and_for_pairs_apart():
    here, there = two_sets(np.random.default_rng(3), [0.8, 0.8, 0.8], [0.7, 0.74, 0.78])
    found = compared(here, there)
    for size, number in ((1, 3), (2, 3)):
        own = [each for each in found if len(each.variants) == size]
        assert len(own) == number
        adjusted = holm([each.p_value for each in own])
        assert [each.adjusted_p_value for each in own] == pytest.approx(list(adjusted))
        assert [each.shown for each in own] == [bool(p < 0.05) for p in adjusted]


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
def test_intervals_of_changes_hold_the_truth(paired):
    """95 % of them, of a variant's change and of the difference of two differences."""
    rng = np.random.default_rng(4)
    held = np.zeros((400, 2), dtype=bool)
    for number in range(len(held)):
        here, there = two_sets(rng, [0.80, 0.82], [0.70, 0.75], seeds=7)
        first, _, pair = compared(here, there, paired=paired)
        for column, (each, truth) in enumerate(((first, -0.10), (pair, -0.03))):
            held[number, column] = each.interval.low <= truth <= each.interval.high
    assert (held.mean(axis=0) > 0.92).all()
    assert (held.mean(axis=0) < 0.995).all()


def test_a_runs_luck_on_both_sets_makes_its_change_no_less_sure():
    """The same sets with luck that each has for itself have wider intervals."""
    widths = {}
    for shared in (0.0, 1.0):
        rng = np.random.default_rng(5)
        found = [compared(*two_sets(rng, [0.8], [0.7], shared=shared)) for _ in range(40)]
        widths[shared] = np.mean([each.interval.high - each.interval.low for (each,) in found])
    assert widths[1.0] < 0.95 * widths[0.0]


def test_a_failed_run_is_set_aside_on_both_sets():
    here, there = two_sets(np.random.default_rng(6), [0.8, 0.8], [0.7, 0.75])
    failed = {("a", 3)}
    expected = compared(here, there, failed=failed)
    here[0, 3] -= 0.5
    there[0, 3] -= 0.5
    assert compared(here, there, failed=failed) == expected
    assert compared(here, there) != expected


def test_few_seeds_describe_and_conclude_nothing():
    here, there = two_sets(np.random.default_rng(7), [0.8, 0.8], [0.7, 0.75], seeds=3)
    for each in compared(here, there):
        assert each.change == pytest.approx(each.there - each.here)
        assert each.interval is each.p_value is each.adjusted_p_value is each.shown is None


def test_one_case_says_nothing_of_changes():
    rng = np.random.default_rng(8)
    assert compared(*two_sets(rng, [0.8, 0.8], [0.7, 0.75], cases=(20, 1))) == []


def test_of_one_seed_the_changes_stand_without_a_word_on_others():
    here, there = two_sets(np.random.default_rng(8), [0.8, 0.8], [0.7, 0.75], seeds=1)
    a, b, pair = compared(here, there)
    assert a.change == pytest.approx(there[0].mean() - here[0].mean())
    assert pair.change == pytest.approx(a.change - b.change)
    assert a.interval is pair.p_value is pair.shown is None


def test_without_a_variant_that_both_sets_have_there_is_no_change():
    here, there = two_sets(np.random.default_rng(11), [0.8, 0.8], [0.7, 0.7])
    there[:, 0, 0] = np.nan
    assert compared(here, there) == []


def test_cases_of_one_group_count_as_one():
    here, there = two_sets(np.random.default_rng(9), [0.8], [0.7])
    four = np.tile(there, (1, 1, 4))
    own, other = as_table(here), as_table(four)
    (alone,) = compare_sets(own, other, (), paired=False)
    other["group"] = "group-" + (other["case"].str.removeprefix("case-").astype(int) % 40).astype(
        str
    )
    own["group"] = own["case"]
    (grouped,) = compare_sets(own, other, (), paired=False)
    (right,) = compared(here, there)
    assert grouped.interval.low == pytest.approx(right.interval.low, abs=1e-6)
    assert alone.interval.high - alone.interval.low < grouped.interval.high - grouped.interval.low


def test_a_variant_without_a_number_on_one_set_is_left_out():
    here, there = two_sets(np.random.default_rng(10), [0.8, 0.8, 0.8], [0.7, 0.7, 0.7])
    there[1, 2, 5] = np.nan
    assert [each.variants for each in compared(here, there)] == [["a"], ["c"], ["a", "c"]]


def test_a_case_that_several_folds_scored_has_their_mean():
    rows = [("a", 0, "x", 0.2), ("a", 0, "y", 0.6), ("a", 0, "x", 0.4), ("a", 0, "y", 0.8)]
    table = pd.DataFrame(rows, columns=["variant", "seed", "id", "dice"])
    found = mean_over_folds(table)
    assert found["id"].tolist() == ["x", "y"]
    assert found["dice"].tolist() == pytest.approx([0.3, 0.7])


def test_a_case_without_a_number_of_one_fold_has_none():
    rows = [("a", 0, "x", 0.2), ("a", 0, "y", 0.6), ("a", 0, "x", np.nan), ("a", 0, "y", 0.8)]
    found = mean_over_folds(pd.DataFrame(rows, columns=["variant", "seed", "id", "dice"]))
    assert np.isnan(found["dice"].tolist()[0])

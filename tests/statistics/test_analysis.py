"""statistics/analysis.py as a whole, and honest where a table allows nothing to be said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pipeline.statistics.analysis import Design, compare, estimate, estimate_averaged
from studies import as_table, simulate

PAPER = {"a": 0.866, "b": 0.8615}


def table(effects=(0.8, 0.8, 0.9), *, seeds=8, cases=30):
    return as_table(simulate(np.random.default_rng(0), effects, seeds=seeds, cases=cases))


def run(scores, **options):
    defaults = {"metric": "dice", "baseline": "c", "margin": 0.005, "paper": PAPER}
    defaults |= {"factors": {"x": (False, False)}, "draws": 1000}
    return compare(scores, **(defaults | options))


@pytest.mark.slow
def test_the_four_variants_of_the_design_are_taken_by_name():
    names = ["resunet", "gated", "attention", "both"]
    scores = as_table(
        simulate(np.random.default_rng(0), [0.7, 0.8, 0.7, 0.8], seeds=8, cases=30), names
    )
    factors = dict(
        zip(names, [(False, False), (True, False), (False, True), (True, True)], strict=True)
    )
    found = run(scores, factors=factors)
    assert [effect.shown for effect in found.factorial] == [True, False, False]


def test_one_seed_allows_no_test_and_says_so():
    found = run(table(seeds=1))
    assert (found.pairs, found.ranks, found.ordering, found.power) == ([], None, None, None)
    assert "how much is chance cannot be told" in found.notes[0]


def test_one_variant_has_nothing_to_be_compared_with():
    found = run(table((0.8,)), baseline=None)
    assert found.notes == ["There are no two variants to compare."]
    assert found.pairs == []


def test_one_case_says_nothing_of_others():
    assert run(table(cases=1)).notes == ["With one test case nothing can be said of others."]


@pytest.mark.slow
def test_few_seeds_are_descriptive_only():
    found = run(table(seeds=3))
    assert found.notes == ["Descriptive only: 3 seeds; below 7 no difference is called shown."]
    assert {pair.shown for pair in found.pairs} == {None}


@pytest.mark.slow
def test_a_missing_run_costs_every_variant_its_seed_and_is_named():
    scores = table()
    scores = scores[~((scores["variant"] == "b") & (scores["seed"] == 3))]
    found = run(scores)
    assert found.seeds == [0, 1, 2, 4, 5, 6, 7]
    assert found.notes == ["Seed 3 is left out of comparisons: no run of b."]


def test_no_seed_in_common_compares_nothing():
    scores = table((0.8, 0.9), seeds=4)
    first = (scores["variant"] == "a") & (scores["seed"] < 2)
    second = (scores["variant"] == "b") & (scores["seed"] >= 2)
    found = run(scores[first | second])
    assert found.notes[-1] == "No seed was run by all variants: nothing can be compared."


@pytest.mark.slow
def test_a_variant_with_an_undefined_score_is_left_out_and_named():
    scores = table()
    scores.loc[scores.index[5], "value"] = np.nan
    found = run(scores)
    assert found.variants == ["b", "c"]
    assert found.notes == ["a is left out of comparisons: it has no number for 1 of 240 scores."]


def test_unequal_case_sets_are_not_compared():
    scores = table((0.8, 0.9))
    scores = scores[~((scores["variant"] == "b") & (scores["case"] == "case-7"))]
    found = run(scores)
    assert found.variants == ["a"]
    assert "8 of 240 scores are missing (unequal case sets)" in found.notes[0]


def test_a_score_that_stands_twice_is_refused():
    scores = table()
    with pytest.raises(ValueError, match="stands in the table twice"):
        Design(scores.iloc[[0, *range(len(scores))]])


@pytest.mark.slow
def test_identical_variants_are_never_told_apart():
    values = np.repeat(simulate(np.random.default_rng(0), [0.8], seeds=8, cases=30), 3, axis=0)
    found = run(as_table(values))
    assert {pair.shown for pair in found.pairs} == {False}
    assert found.pairing.correlation == pytest.approx(1)
    assert found.power.detectable is None


def test_variants_without_any_noise_are_compared_without_a_warning(recwarn):
    values = np.full((3, 8, 5), 0.8) + np.array([0, 0, 0.1])[:, None, None]
    found = run(as_table(values))
    assert [pair.shown for pair in found.pairs] == [False, True, True]
    assert not recwarn.list


def test_a_metric_without_a_number_has_no_estimate():
    found = estimate(np.array([[0.1, np.nan], [0.2, 0.3]]), variant="a", metric="dice")
    assert (found.mean, found.interval, found.seeds, found.cases) == (None, None, 2, 2)


SINGLE = np.array([[0.5, 0.7, 0.9], [0.7, 0.5, 0.6]])  # 2 seeds, 3 cases: means 0.7 and 0.6


def averaged(values, single=SINGLE, averaging="flips"):
    found = estimate_averaged(
        np.asarray(values, dtype=float), single, variant="a", averaging=averaging, metric="dice"
    )
    assert (found.variant, found.averaging, found.metric) == ("a", averaging, "dice")
    return found


def test_flips_differ_by_case_and_seed_with_the_two_way_interval():
    gains = np.array([[0.01, 0.02, 0.06], [0.03, 0.06, 0.06]])  # the table worked out in crossed
    found = averaged(SINGLE + gains)
    assert (found.runs, found.cases, found.interval_over) == (2, 3, "seeds and cases")
    assert found.mean == pytest.approx(0.65 + 0.04)
    # Seed means 0.7 + 0.03 and 0.6 + 0.05.
    assert found.standard_deviation == pytest.approx(np.std([0.73, 0.65], ddof=1))
    assert found.difference == pytest.approx(0.04)
    reach = stats.t.ppf(0.975, 1) * 0.01 * np.sqrt(2)
    assert found.difference_interval.low == pytest.approx(0.04 - reach)
    assert found.difference_interval.high == pytest.approx(0.04 + reach)
    assert found.interval.high - found.interval.low > 0


@pytest.mark.parametrize("averaging", ["seeds", "seeds_and_flips"])
def test_an_ensemble_is_paired_by_case_with_the_mean_of_its_networks(averaging):
    found = averaged([[0.8, 0.9, 0.85]], averaging=averaging)
    assert (found.runs, found.cases, found.interval_over) == (1, 3, "cases")
    assert found.standard_deviation is None
    assert found.mean == pytest.approx(0.85)
    assert found.difference == pytest.approx(0.85 - 0.65)
    own = stats.ttest_1samp([0.8, 0.9, 0.85], 0).confidence_interval()
    gain = stats.ttest_rel([0.8, 0.9, 0.85], [0.6, 0.6, 0.75]).confidence_interval()
    for interval, expected in ((found.interval, own), (found.difference_interval, gain)):
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_flips_of_one_seed_and_any_of_one_case_have_no_interval():
    for found in (
        averaged(SINGLE[:1] + 0.1, SINGLE[:1]),
        averaged(SINGLE[:, :1] + 0.1, SINGLE[:, :1]),
        averaged([[0.7]], SINGLE[:, :1], "seeds"),
    ):
        assert found.difference == pytest.approx(0.1)
        assert (found.interval, found.difference_interval) == (None, None)
    assert averaged(SINGLE[:1], SINGLE[:1]).standard_deviation is None


def test_a_score_that_is_no_number_gives_no_figure_and_that_of_a_single_network_no_difference():
    undefined = SINGLE.copy()
    undefined[0, 1] = np.nan
    found = averaged(undefined)
    assert (found.mean, found.standard_deviation, found.difference) == (None, None, None)
    assert (found.interval, found.difference_interval) == (None, None)
    found = averaged([[0.8, 0.9, 0.85]], undefined, "seeds")
    assert found.mean == pytest.approx(0.85)
    assert found.interval is not None
    assert (found.difference, found.difference_interval) == (None, None)

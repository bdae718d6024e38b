"""pipeline/comparison.py as a whole, and honest where a table allows nothing to be said."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.comparison import Design, compare, estimate
from studies import as_table, simulate

PAPER = {"a": 0.866, "b": 0.8615}


def table(effects=(0.8, 0.8, 0.9), *, seeds=8, cases=30):
    return as_table(simulate(np.random.default_rng(0), effects, seeds=seeds, cases=cases))


def run(scores, **options):
    defaults = {"metric": "dice", "baseline": "c", "margin": 0.005, "paper": PAPER}
    defaults |= {"factors": {"x": (False, False)}, "draws": 1000}
    return compare(scores, **(defaults | options))


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


def test_few_seeds_are_descriptive_only():
    found = run(table(seeds=3))
    assert found.notes == ["Descriptive only: 3 seeds; below 7 no difference is called shown."]
    assert {pair.shown for pair in found.pairs} == {None}


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

"""statistics/unequal.py: variants that do not have the same seeds yet, by hand with scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.analysis import Protocol, compare
from pipeline.statistics.pairs import compare_pairs
from pipeline.statistics.results import Pair
from pipeline.statistics.unequal import _adjusted, compare_available
from studies import as_table, simulate

NAMES = ("a", "b", "c", "d")
SEEDS = {"a": range(10), "b": range(8), "c": range(2, 10), "d": range(1)}
PROTOCOL = Protocol("dice", margin=0.005, baseline="a", draws=500)


FEW = (
    "Descriptive only: fewer than 7 seeds allow no interval of a variant, and fewer common ones no "
    "test of a pair."
)


def drawn(correlation, effects=(0.80, 0.83, 0.80, 0.80)):
    return simulate(
        np.random.default_rng(3), effects, seeds=10, cases=40, correlation=correlation,
        seed_deviation=0.01,
    )  # fmt: skip


def available(values, seeds=SEEDS):
    table = as_table(values, NAMES[: len(values)])
    kept = [seed in seeds[variant] for variant, seed in zip(table.variant, table.seed, strict=True)]
    return compare_available(table[kept], PROTOCOL)


def test_where_all_have_the_same_seeds_it_is_the_protocol():
    table = as_table(drawn(0.0), NAMES)
    assert compare_available(table, PROTOCOL) == compare(table, PROTOCOL)
    fewer = table[table.seed < 3]
    assert compare_available(fewer, PROTOCOL) == compare(fewer, PROTOCOL)


@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_each_pair_is_tested_on_the_seeds_that_both_have(correlation):
    values = drawn(correlation)
    found = available(values)
    shared = {("a", "b"): range(8), ("a", "c"): range(2, 10), ("b", "c"): range(2, 8)}
    assert [(pair.first, pair.second) for pair in found.pairs] == list(shared)
    alone = []
    for (first, second), seeds in shared.items():
        both = values[[NAMES.index(first), NAMES.index(second)]][:, list(seeds)]
        none = np.zeros(both.shape[:2], dtype=bool)
        alone += compare_pairs(both, none, [first, second], paired=True, margin=0.005)
    # Eight seeds are shared by the first two pairs, six by the last: it counts and has no test.
    assert found.pairs[2] == alone[2]
    assert (alone[2].interval, alone[2].p_value, alone[2].shown) == (None, None, None)
    tested = [pair.p_value for pair in alone[:2]]
    expected = multipletests([*tested, 1.0], method="holm")[1]
    for pair, own, p_value in zip(found.pairs[:2], alone[:2], expected, strict=False):
        assert (pair.difference, pair.interval) == (own.difference, own.interval)
        assert pair.adjusted_p_value == pytest.approx(p_value)
        assert pair.shown == (p_value < 0.05)
    assert not found.descriptive


def test_a_pair_without_two_common_seeds_has_no_test_and_is_named():
    found = available(drawn(0.0))
    assert not [pair for pair in found.pairs if "d" in (pair.first, pair.second)]
    notes = " ".join(found.notes)
    assert (
        "No test, for want of two common seeds that did not fail: a and d; b and d; c and d."
        in notes
    )
    assert "each pair is compared on those that both have, 6 to 8 of them" in notes
    assert "Seed 3 is left out" not in notes


def test_no_ranks_are_told_of_fewer_than_two_seeds_that_all_have():
    assert available(drawn(0.0)).ranks is None
    three = available(drawn(0.0)[:3])
    assert three.seeds == [2, 3, 4, 5, 6, 7]
    assert set(three.ranks.average) == {"a", "b", "c"}


def test_a_variant_alone_has_nothing_to_be_compared_with():
    found = available(drawn(0.0)[:1])
    assert found.pairs == []
    assert found.notes == ["There are no two variants to compare."]


def test_a_comparison_of_unequal_seeds_says_what_it_is():
    found = available(drawn(0.0))
    told = (
        "Student's t of typical runs, paired by the seeds that both have, over seeds and cases; "
        "Holm over all pairs"
    )
    assert found.pairing.test == told
    assert (found.pairing.correlation, found.pairing.threshold) == (None, 0.2)
    assert found.pairing.paired is True
    assert found.notes == [
        "The variants do not have the same seeds: each pair is compared on those that both have, 6 "
        "to 8 of them; there are no ranks and orderings, for want of two that all have.",
        FEW,
        "No test, for want of two common seeds that did not fail: a and d; b and d; c and d.",
    ]


def test_seeds_of_one_number_and_those_that_all_have_are_told():
    values = drawn(0.0)[:2]
    found = available(values, {"a": range(10), "b": range(8)})
    assert found.notes == [
        "The variants do not have the same seeds: each pair is compared on those that both have, 8 "
        "of them; ranks and orderings are of those that all have, 8."
    ]
    assert not found.descriptive
    found = available(values, {"a": range(5), "b": range(3, 8)})
    assert (found.descriptive, found.notes[1]) == (True, FEW)
    assert found.notes[0].endswith("2 of them; ranks and orderings are of those that all have, 2.")
    # Of one common seed what can be said is over cases alone.
    found = available(values, {"a": range(5), "b": range(4, 8)})
    assert (found.over, found.pairs[0].shown) == ("cases alone", None)
    assert found.notes[0].startswith("No two variants have two seeds in common: what follows is of")
    found = available(values, {"a": range(5), "b": range(5, 8)})
    assert found.pairs == []
    assert found.notes == [
        "The variants do not have the same seeds: each pair is compared on those that both have; "
        "there are no ranks and orderings, for want of two that all have.",
        FEW,
        "No test, for want of two common seeds that did not fail: a and b.",
    ]
    assert found.descriptive


def test_a_variant_left_out_is_still_told_and_no_seed_of_it_counts():
    values = drawn(0.0)[:3].copy()
    values[2, 9, 0] = np.nan
    found = available(values, {"a": range(10), "b": range(8), "c": range(10)})
    assert found.variants == ["a", "b"]
    assert found.notes == [
        "c is left out of comparisons: it has no number for 1 of 400 scores.",
        "The variants do not have the same seeds: each pair is compared on those that both have, 8 "
        "of them; ranks and orderings are of those that all have, 8.",
    ]


def test_of_one_case_nothing_is_compared_on_unequal_seeds_either():
    found = available(drawn(0.0)[:2, :, :1], {"a": range(10), "b": range(8)})
    assert found.pairs == []
    assert "With one test case nothing can be said of others." in found.notes


def test_equivalence_is_adjusted_over_all_pairs_too():
    values = simulate(
        np.random.default_rng(3), [0.800, 0.801, 0.8005], seeds=10, cases=40, seed_deviation=0.001,
        fit_deviation=0.006, rest_deviation=0.006,
    )  # fmt: skip
    seeds = {"a": range(10), "b": range(8), "c": range(1, 10)}
    found = available(values, seeds)
    alone = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        common = [seed for seed in seeds["abc"[first]] if seed in seeds["abc"[second]]]
        both = as_table(values[[first, second]][:, common])
        (pair,) = compare(both, replace(PROTOCOL, baseline=None)).pairs
        alone.append(pair.equivalence_p_value)
    expected = multipletests(alone, method="holm")[1]
    assert [pair.equivalence_p_value for pair in found.pairs] == pytest.approx(list(expected))
    assert [pair.equivalent for pair in found.pairs] == [bool(p < 0.05) for p in expected]
    assert expected.max() > max(alone)


def test_the_draws_are_those_of_the_protocol_unless_told():
    values = drawn(0.0)[:2, :8]
    table = as_table(values, NAMES[:2])
    table = table[~((table.variant == "b") & (table.seed == 0))]
    asked = replace(PROTOCOL, printed={"a": 0.8, "b": 0.7}, draws=10_000)
    found = compare_available(table, asked)
    assert found.ordering.draws == 10_000
    assert found.ordering.paper == ["a", "b"]
    other = compare_available(table, replace(asked, seed=1))
    assert (other.ordering != found.ordering, other.pairs == found.pairs) == (True, True)


def test_what_a_pair_alone_would_show_is_not_shown_where_all_pairs_count():
    def alone(p_value: float | None, equal: float | None) -> Pair:
        return Pair(
            first="a", second="b", difference=0.1, interval=None, p_value=None,
            adjusted_p_value=p_value, shown=None if p_value is None else True,
            equivalence_p_value=equal, equivalent=None if equal is None else True, superiority=None,
            superiority_interval=None,
        )  # fmt: skip

    found = _adjusted([alone(0.03, 0.001), alone(0.02, 0.04), alone(None, None)])
    # Sorted 0.02, 0.03 and 1 times 3, 2 and 1; and 0.001, 0.04 and 1.
    adjusted = [pair.adjusted_p_value for pair in found[:2]]
    assert (adjusted, found[2]) == (pytest.approx([0.06, 0.06]), alone(None, None))
    assert [pair.shown for pair in found] == [False, False, None]
    assert [pair.equivalence_p_value for pair in found[:2]] == pytest.approx([0.003, 0.08])
    assert [pair.equivalent for pair in found] == [True, False, None]
    assert _adjusted([]) == []


def test_failed_runs_have_no_part_in_pairs_of_unequal_seeds_either():
    values = drawn(0.0, (0.80, 0.80, 0.80, 0.80))[:2]
    seeds = {"a": range(10), "b": range(8)}
    table = as_table(values, NAMES[:2])
    kept = [seed in seeds[name] for name, seed in zip(table.variant, table.seed, strict=True)]
    worse = table.copy()
    worse.loc[(worse.variant == "b") & (worse.seed == 4), "value"] -= 0.3
    failed = {("b", 4)}
    found = [compare_available(each[kept], PROTOCOL, failed) for each in (table, worse)]
    differences, intervals = zip(
        *((each.pairs[0].difference, each.pairs[0].interval) for each in found), strict=True
    )
    assert (differences[0], intervals[0]) == (differences[1], intervals[1])
    assert compare_available(worse[kept], PROTOCOL).pairs[0].difference != differences[0]


def test_cases_of_a_group_count_as_one_in_each_pair():
    values = drawn(0.0)
    table = as_table(values, NAMES)
    seeds = {"a": range(10), "b": range(8), "c": range(2, 10), "d": range(10)}
    kept = [seed in seeds[name] for name, seed in zip(table.variant, table.seed, strict=True)]
    number = table["case"].str.removeprefix("case-").astype(int)
    found = compare_available(table.assign(group=number // 4)[kept], PROTOCOL)
    groups = np.arange(values.shape[2]) // 4
    assert found.groups == len(set(groups)) < found.cases
    both = values[:2, :8]
    none = np.zeros(both.shape[:2], dtype=bool)
    (own,) = compare_pairs(both, none, ["a", "b"], True, margin=0.005, groups=groups)
    assert (found.pairs[0].interval, found.pairs[0].p_value) == (own.interval, own.p_value)


def test_with_cases_of_one_group_no_pair_is_compared():
    table = as_table(drawn(0.0), NAMES).assign(group="one")
    found = compare_available(table[(table.variant != "a") | (table.seed > 1)], PROTOCOL)
    assert (found.groups, found.pairs) == (1, [])

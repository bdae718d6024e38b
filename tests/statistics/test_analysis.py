"""statistics/analysis.py as a whole, and honest where a table allows nothing to be said."""

from __future__ import annotations

import numpy as np
import pytest
from papers import printing
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.analysis import Design, Protocol, compare, estimate, estimate_averaged
from pipeline.statistics.crossed import by_group, case_interval, variance_components
from pipeline.statistics.definitions import SHARE
from pipeline.statistics.factorial import effects
from pipeline.statistics.ordering import order_all, rank_all
from pipeline.statistics.pairs import choose_pairing, compare_cases, compare_pairs
from pipeline.statistics.power import plan
from pipeline.statistics.typical import more_runs_interval, typical_interval, typical_run
from pipeline.statistics.unequal import compare_available
from studies import as_table, simulate

PRINTED = {"a": 0.866, "b": 0.8615}


def sound(seeds):
    """None of the runs failed."""
    return np.zeros(seeds, dtype=bool)


def on_logit(mean, reach):
    """mean +- reach of a share, by its odds."""
    factor = np.exp(reach / (mean * (1 - mean)))
    odds = mean / (1 - mean)
    return pytest.approx((odds / factor / (1 + odds / factor), odds * factor / (1 + odds * factor)))


def over_cases(scores):
    """Of one run's scores between 0 and 1."""
    return on_logit(np.mean(scores), stats.t.ppf(0.975, len(scores) - 1) * stats.sem(scores))


def table(effects=(0.8, 0.8, 0.9), *, seeds=8, cases=30):
    return as_table(simulate(np.random.default_rng(0), effects, seeds=seeds, cases=cases))


def run(scores, **options):
    failed_runs = options.pop("failed_runs", ())
    defaults = {"metric": "dice", "baseline": "c", "margin": 0.005, "printed": PRINTED}
    defaults |= {"factors": {"x": [], "y": ["gates"]}, "draws": 1000}
    return compare(scores, Protocol(**(defaults | options)), failed_runs)


@pytest.mark.slow
def test_the_four_variants_of_the_design_are_taken_by_name():
    names = ["resunet", "gated", "attention", "both"]
    scores = as_table(
        simulate(np.random.default_rng(0), [0.7, 0.8, 0.7, 0.8], seeds=8, cases=30), names
    )
    having = [[], ["gates"], ["attention"], ["gates", "attention"]]
    factors = dict(zip(names, having, strict=True))
    found = run(scores, factors=factors)
    assert found.design == factors
    assert [effect.shown for effect in found.factorial] == [True, False, False]


def test_one_seed_is_compared_over_cases_alone_and_says_so_first():
    values = simulate(np.random.default_rng(0), (0.8, 0.8, 0.9), seeds=1, cases=30)
    found = run(as_table(values))
    assert (found.ranks, found.ordering, found.power) == (None, None, None)
    assert found.notes[0].startswith("One run of each variant: what follows is over cases alone.")
    assert found.over == "cases alone"
    tests = [stats.ttest_rel(values[a, 0], values[b, 0]) for a, b in ((0, 1), (0, 2), (1, 2))]
    adjusted = multipletests([test.pvalue for test in tests], method="holm")[1]
    for pair, test, p_value in zip(found.pairs, tests, adjusted, strict=True):
        bounds = test.confidence_interval(0.95)
        assert (pair.interval.low, pair.interval.high) == pytest.approx((bounds.low, bounds.high))
        assert pair.p_value == pytest.approx(test.pvalue)
        assert pair.adjusted_p_value == pytest.approx(p_value)
        assert (pair.shown, pair.equivalent, pair.false) == (None, None, None)
        expected = test.pvalue / 2 if pair.difference > 0 else 1 - test.pvalue / 2
        assert pair.false_over_cases == pytest.approx(expected)


def test_runs_without_a_difference_are_compared_over_cases_too():
    same = np.full((2, 1, 5), 0.8)
    (pair,) = run(as_table(same), baseline=None, factors={}).pairs
    assert (pair.difference, pair.p_value, pair.false_over_cases) == (0, 1, 0.5)


def test_where_lower_is_better_the_papers_lowest_figure_is_its_best():
    values = simulate(np.random.default_rng(0), (1.0, 2.0, 3.0), seeds=8, cases=30)
    printed = {"a": 15.0, "b": 16.5, "c": 19.0}
    found = run(as_table(values), better="lower", margin=None, printed=printed, factors={})
    assert found.ordering.paper == ["a", "b", "c"]
    assert found.ordering.paper_share == 1
    assert found.power.gap == pytest.approx(1.5)


def test_where_lower_is_better_an_effect_is_told_on_the_metric_itself():
    values = simulate(np.random.default_rng(0), (1.0, 1.6), seeds=8, cases=30)
    factors = {"a": [], "b": ["x"]}
    asked = {"printed": {}, "factors": factors, "baseline": None}
    (effect,) = run(as_table(values), better="lower", margin=None, **asked).factorial
    (same,) = run(as_table(values), **asked).factorial
    assert effect.difference == pytest.approx(same.difference)
    assert effect.difference == pytest.approx(0.6, abs=0.05)
    assert effect.interval.low < effect.difference < effect.interval.high
    assert effect.interval.low == pytest.approx(same.interval.low)


def test_a_paper_with_two_equal_figures_orders_nothing():
    _, scores = two()
    assert run(scores, printed={"a": 0.84, "b": 0.84}, baseline=None).ordering.paper == []


def test_a_dice_of_all_pixels_is_held_against_other_runs_on_these_cases():
    """Student's prediction interval over seeds: a pooled Dice has no case of its own."""
    means = np.array([0.80, 0.82, 0.85, 0.81, 0.83, 0.84, 0.80, 0.83])
    paper = printing(a="0.950").model_copy(update={"averaging": "pixels", "runs": 2})
    lost = np.arange(8) == 2
    found = estimate(means[:, None], lost, variant="a", metric="pooled_dice", paper=paper)
    own = means[~lost]
    reach = stats.t.ppf(0.975, 6) * own.std(ddof=1) * np.sqrt(1 / 7 + 1 / 2)
    assert found.paper == 0.95
    bounds = found.paper_interval
    assert (bounds.low, bounds.high) == on_logit(own.mean(), reach)
    assert found.paper_lies == "above"
    assert estimate(means[:, None], lost, variant="a", metric="dice", paper=paper).paper is None


def test_where_lower_is_better_the_first_is_better_above_0_and_the_order_turns():
    scores = as_table(simulate(np.random.default_rng(0), (3.0, 2.0), seeds=8, cases=30))
    asked = {"printed": {}, "factors": {}, "baseline": None}
    higher, lower = run(scores, **asked), run(scores, better="lower", margin=None, **asked)
    assert (higher.better, lower.better, lower.equivalence_margin) == ("higher", "lower", None)
    (up,), (down,) = higher.pairs, lower.pairs
    assert up.difference > 0.9
    assert (down.difference, down.interval.low) == pytest.approx(
        (-up.difference, -up.interval.high)
    )
    assert (down.shown, down.equivalent, down.equivalence_p_value) == (True, None, None)
    assert (higher.ordering.observed, lower.ordering.observed) == (["a", "b"], ["b", "a"])
    assert lower.ranks.average == {"a": 2.0, "b": 1.0}
    assert lower.power.seeds_for_margin is None


def test_one_variant_has_nothing_to_be_compared_with():
    found = run(table((0.8,)), baseline=None)
    assert found.notes == ["There are no two variants to compare."]
    assert found.pairs == []


def test_one_case_says_nothing_of_others():
    assert run(table(cases=1)).notes == ["With one test case nothing can be said of others."]


@pytest.mark.slow
def test_few_seeds_are_descriptive_only():
    found = run(table(seeds=3))
    assert found.descriptive
    assert found.notes == []
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
    found = estimate(np.array([[0.1, np.nan], [0.2, 0.3]]), sound(2), variant="a", metric="dice")
    assert (found.mean, found.interval, found.seeds, found.cases) == (None, None, 2, 2)


# 8 seeds, 3 cases: means 0.7 and 0.6 by turns.
SINGLE = np.tile([[0.5, 0.7, 0.9], [0.7, 0.5, 0.6]], (4, 1))


def averaged(values, single=SINGLE, averaging="flips"):
    found = estimate_averaged(
        np.asarray(values, dtype=float),
        single,
        sound(len(single)),
        variant="a",
        averaging=averaging,
        metric="dice",
    )
    assert (found.variant, found.averaging, found.metric) == ("a", averaging, "dice")
    return found


def test_flips_differ_by_case_and_seed_with_the_two_way_interval():
    gains = np.tile([[0.01, 0.02, 0.06], [0.03, 0.06, 0.06]], (4, 1))
    found = averaged(SINGLE + gains)
    assert (found.runs, found.cases, found.interval_over) == (8, 3, "seeds and cases")
    assert found.mean == pytest.approx(0.65 + 0.04)
    # Seed means 0.7 + 0.03 and 0.6 + 0.05.
    assert found.standard_deviation == pytest.approx(np.std([0.73, 0.65] * 4, ddof=1))
    assert found.difference == pytest.approx(0.04)
    # Seeds: eight run means 0.01 from 0.04, six kept. Cases: means 0.02, 0.04, 0.06, and residuals
    # of 0, 0.01 and 0.01 in each of the six, with 5 x 2 degrees of freedom.
    seeds, cases = 8 * 0.01**2 / (6 * 5), (0.02**2 - 12 * 0.01**2 / 10 / 6) / 3
    freedom = (seeds + cases) ** 2 / (seeds**2 / 5 + cases**2 / 2)
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(seeds + cases)
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
    assert (found.interval.low, found.interval.high) == over_cases([0.8, 0.9, 0.85])
    gain = stats.ttest_rel([0.8, 0.9, 0.85], [0.6, 0.6, 0.75]).confidence_interval()
    bounds = found.difference_interval
    assert (bounds.low, bounds.high) == pytest.approx((gain.low, gain.high))


@pytest.mark.parametrize("averaging", ["flips", "seeds"])
def test_of_too_few_runs_averages_have_no_interval(averaging):
    few, lost = SINGLE[:6], np.arange(8) < 5
    values = few + 0.05 if averaging == "flips" else few[:1]
    found = averaged(values, few, averaging)
    assert (found.interval, found.difference_interval) == (None, None)
    names = {"variant": "a", "averaging": averaging, "metric": "dice"}
    values = SINGLE + 0.05 if averaging == "flips" else SINGLE[:1]
    found = estimate_averaged(values, SINGLE, lost, **names)
    assert (found.interval, found.difference_interval) == (None, None)
    assert found.difference == pytest.approx(0.05)


def test_flips_of_one_seed_and_any_of_one_case_have_no_interval():
    for found in (
        averaged(SINGLE[:1] + 0.1, SINGLE[:1]),
        averaged(SINGLE[:, :1] + 0.1, SINGLE[:, :1]),
        averaged([[0.7]], SINGLE[:, :1], "seeds"),
    ):
        assert found.difference == pytest.approx(0.1)
        assert (found.interval, found.difference_interval) == (None, None)
    assert averaged(SINGLE[:1], SINGLE[:1]).standard_deviation is None


def test_two_cases_are_enough_for_an_interval():
    found = averaged([[0.8, 0.9]], SINGLE[:, :2], "seeds")
    assert (found.interval.low, found.interval.high) == over_cases([0.8, 0.9])
    assert averaged(SINGLE[:, :2] + 0.1, SINGLE[:, :2]).interval is not None


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


def two(seeds=7, cases=12, **noise):
    """Values (2, S, C) and their table; of two variants the tests are quick."""
    values = simulate(np.random.default_rng(5), [0.80, 0.81], seeds=seeds, cases=cases, **noise)
    return values, as_table(values)


@pytest.mark.parametrize("correlation", [0.0, 0.99])
def test_a_comparison_holds_what_each_part_of_the_protocol_finds(correlation):
    values, scores = two(correlation=correlation, seed_deviation=0.05, rest_deviation=0.01)
    found = run(scores, baseline="b", printed={"a": 0.86, "b": 0.88, "z": 0.87}, seed=3)
    means = values.mean(axis=2)
    pairing = choose_pairing(means)
    assert pairing.paired
    assert found.pairing == pairing
    assert (found.metric, found.variants, found.seeds) == ("dice", ["a", "b"], list(range(7)))
    assert (found.cases, found.notes, found.baseline) == (12, [], "b")
    assert found.equivalence_margin == 0.005
    none = np.zeros((2, 7), dtype=bool)
    assert found.pairs == compare_pairs(values, none, ["a", "b"], pairing.paired, margin=0.005)
    assert found.factorial == []
    assert found.ranks == rank_all(means, ["a", "b"])
    # The paper's order of those that are here, best first, and the gap between its two best here.
    assert found.ordering == order_all(
        values, none, ["a", "b"], ["b", "a"], pairing.paired, draws=1000, seed=3
    )
    assert found.variance == variance_components(values)
    expected = plan(values, none, pairing.paired, 0.88 - 0.86, 0.005)
    assert found.power == expected


def test_a_baseline_that_is_not_there_is_none_and_a_paper_of_one_figure_has_no_gap():
    _, scores = two()
    found = run(scores, baseline="z", printed={"a": 0.86})
    assert (found.baseline, found.power.gap) == (None, None)
    assert found.ordering.paper == ["a"]
    assert run(scores, baseline=None, printed={}).ordering.paper == []


def test_a_comparison_without_options_draws_ten_thousand_times_by_seed_0():
    _, scores = two(cases=4)
    found = compare(scores, Protocol("dice", margin=0.005))
    assert found == compare(scores, Protocol("dice", margin=0.005, draws=10_000, seed=0))
    assert found.ordering.draws == 10_000
    other = compare(scores, Protocol("dice", margin=0.005, draws=10_000, seed=1))
    assert found.ordering != other.ordering


def test_a_claim_is_of_neighbours_among_those_that_are_compared():
    scores = table()
    claims = [["a", "z", "b", "c"], ["a", "b"], ["z", "c"]]
    found = run(scores, claims=claims, printed={}, factors={})
    assert found.claims == [("a", "b"), ("b", "c")]
    assert (found.design, found.factorial, found.power.gap) == ({}, [], None)


def test_two_seeds_and_two_cases_are_the_fewest_that_are_compared():
    found = run(two(seeds=2, cases=2)[1])
    assert found.descriptive
    assert found.notes == []
    assert len(found.pairs) == 1


DESCRIBES = {  # what is left of each record where runs are too few
    "Pair": {"first", "second", "difference", "deciding_cases"},
    "Effect": {"factors", "difference"},
    "Ranks": {"average", "groups"},
    "Ordering": {"draws", "observed", "shares", "distinct", "best", "paper", "kendall_tau"},
    "Power": {
        "power", "standard_deviation", "gap", "seeds_for_gap", "seeds_for_margin", "failure_rate",
        "seeds_for_failure_rate",
    },
}  # fmt: skip


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize(("seeds", "lost"), [(2, 0), (6, 0), (7, 4)])
def test_of_too_few_runs_nothing_is_concluded_and_what_describes_them_stays(seeds, lost, better):
    _, scores = two(seeds=seeds, seed_deviation=0.01)
    factors = {"a": [], "b": ["x"]}
    found = run(
        scores, printed={"a": 0.80, "b": 0.84}, factors=factors, better=better, margin=0.05,
        failed_runs={("b", seed) for seed in range(lost)},
    )  # fmt: skip
    assert found.descriptive
    records = [*found.pairs, *found.factorial, found.ranks, found.ordering, found.power]
    assert [type(record).__name__ for record in records] == list(DESCRIBES)
    for record in records:
        told = {name for name, value in record if value is not None}
        assert told - {"deciding_cases"} == DESCRIBES[type(record).__name__] - {"deciding_cases"}
    assert found.ranks.groups == []
    assert (found.ordering.draws, found.ordering.shares, found.ordering.best) == (0, [], {})
    assert sorted(found.ordering.observed) == ["a", "b"]
    assert found.variance is not None
    own = run(scores, printed={"a": 0.80, "b": 0.84}, factors=factors, better=better)
    assert own.descriptive == (seeds < 7)


def test_seven_runs_of_which_four_did_not_fail_are_enough():
    _, scores = two()
    found = run(scores, failed_runs={("b", seed) for seed in range(3)})
    assert (found.descriptive, found.notes) == (False, [])
    (pair,) = found.pairs
    assert None not in (pair.interval, pair.shown, pair.superiority, pair.false)


def test_one_variant_alone_is_descriptive_of_few_runs():
    for seeds, few in ((1, False), (2, True), (6, True), (7, False)):
        found = run(table((0.8,), seeds=seeds), baseline=None)
        assert found.descriptive == few
        assert found.notes == ["There are no two variants to compare."]


@pytest.mark.parametrize(
    ("seeds", "cases", "note"),
    [
        (7, 1, "With one test case nothing can be said of others."),
    ],
)
def test_what_allows_no_comparison_is_told_and_counted(seeds, cases, note):
    found = run(two(seeds, cases)[1], baseline="b")
    assert found.notes == [note]
    assert (found.variants, found.seeds, found.cases) == (["a", "b"], list(range(seeds)), cases)
    assert (found.pairing, found.pairs) == (None, [])
    assert (found.factorial, found.variance, found.baseline) == ([], None, "b")


def test_a_design_keeps_the_tables_order_and_every_score_in_its_place():
    values, scores = two(seeds=3, cases=4)
    scores["seed"] = scores["seed"].map({0: 7, 1: 2, 2: 5})
    scores["case"] = scores["case"].map({f"case-{n}": name for n, name in enumerate("zxyw")})
    scores["variant"] = scores["variant"].map({"a": "resunet", "b": "attention"})
    design = Design(scores)
    assert design.variants == ["resunet", "attention"]
    assert (design.seeds, design.cases, design.notes) == ([7, 2, 5], list("zxyw"), [])
    np.testing.assert_array_equal(design.scores, values)
    np.testing.assert_array_equal(Design(scores[::-1]).scores, values[::-1, ::-1, ::-1])


def three(seeds=3, cases=4):
    values = np.random.default_rng(0).random((3, seeds, cases))
    return values, as_table(values)


def of(table, variant, **where):
    """Which rows are of that variant, seed and case."""
    chosen = table["variant"] == variant
    for column, value in where.items():
        chosen &= table[column] == value
    return chosen


def test_a_variant_with_infinite_scores_is_left_out_and_the_others_stay_in_place():
    values, scores = three()
    scores.loc[of(scores, "b", seed=1), "value"] = [np.inf, -np.inf, 0.5, np.nan]
    design = Design(scores)
    assert design.notes == ["b is left out of comparisons: it has no number for 3 of 12 scores."]
    np.testing.assert_array_equal(design.scores, values[[0, 2]])


def test_a_variant_that_lacks_a_case_in_one_run_is_left_out():
    _, scores = three()
    design = Design(scores[~of(scores, "c", seed=2, case="case-1")])
    assert design.variants == ["a", "b"]
    assert design.notes == [
        "c is left out of comparisons: 1 of 12 scores are missing (unequal case sets)."
    ]


def test_a_variant_of_other_cases_than_most_is_left_out():
    values, scores = three()
    scores.loc[of(scores, "c", case="case-0"), "case"] = "another"
    scores.loc[of(scores, "c", case="case-3"), "case"] = "one more"
    design = Design(scores)
    assert design.notes == [
        "c is left out of comparisons: it was scored on 2 cases that most were not (unequal case "
        "sets)."
    ]
    assert design.cases == [f"case-{number}" for number in range(4)]
    np.testing.assert_array_equal(design.scores, values[:2])


def test_seeds_that_some_lack_are_left_out_and_named_with_who_lacks_them():
    values, scores = three()
    lacking = of(scores, "a", seed=0) | of(scores, "c", seed=0) | of(scores, "b", seed=2)
    design = Design(scores[~lacking])
    assert design.notes == [
        "Seed 2 is left out of comparisons: no run of b.",
        "Seed 0 is left out of comparisons: no run of a, c.",
    ]
    assert design.seeds == [1]
    np.testing.assert_array_equal(design.scores, values[:, 1:2])


def test_a_seed_of_a_variant_left_out_alone_is_not_told():
    _, scores = three()
    scores = scores[~(of(scores, "a", seed=2) | of(scores, "b", seed=2))]
    scores = scores[~of(scores, "c", case="case-1", seed=0)]
    design = Design(scores)
    assert (design.variants, design.seeds) == (["a", "b"], [0, 1])
    assert design.notes == [
        "c is left out of comparisons: 1 of 12 scores are missing (unequal case sets)."
    ]


def test_an_estimate_is_the_mean_over_all_and_the_deviation_over_seeds():
    values, _ = two()
    found = estimate(
        values[0], sound(7), variant="a", metric="iou", paper=printing("iou", a="0.80")
    )
    assert (found.variant, found.metric, found.paper) == ("a", "iou", 0.8)
    assert (found.seeds, found.cases) == (7, 12)
    assert found.mean == pytest.approx(values[0].mean())
    assert found.standard_deviation == pytest.approx(np.std(values[0].mean(axis=1), ddof=1))
    none = np.zeros(7, dtype=bool)
    assert found.typical == pytest.approx(typical_run(values[0], none).mean)
    assert found.interval == typical_interval(values[0], none, SHARE)
    assert found.paper_interval == more_runs_interval(values[0], none, SHARE)
    assert found.paper_rounding == pytest.approx(0.005)
    four = printing("iou", a="0.8", b="0.7", c="0.7", d="0.7")
    found = estimate(values[0], none, variant="a", metric="iou", paper=four)
    assert found.paper_interval == more_runs_interval(values[0], none, SHARE, figures=4)
    means = four.model_copy(update={"runs": 3, "cases": 40})
    found = estimate(values[0], none, variant="a", metric="iou", paper=means)
    more = {"figures": 4, "runs": 3, "cases": 40}
    assert found.paper_interval == more_runs_interval(values[0], none, SHARE, **more)
    assert estimate(values[0], sound(7), variant="a", metric="iou").paper_interval is None


def test_an_estimate_of_one_seed_is_over_cases_alone_and_of_one_case_has_no_interval():
    values, _ = two()
    one_seed = estimate(
        values[0, :1], sound(1), variant="a", metric="dice", paper=printing(a="0.8")
    )
    assert (one_seed.standard_deviation, one_seed.paper_interval) == (None, None)
    assert (one_seed.interval.low, one_seed.interval.high) == over_cases(values[0, 0])
    one_case = estimate(
        values[0, :, :1], sound(7), variant="a", metric="dice", paper=printing(a="0.8")
    )
    assert one_case.standard_deviation == pytest.approx(np.std(values[0, :, 0], ddof=1))
    assert (one_case.interval, one_case.paper_interval) == (None, None)
    two_cases = estimate(
        values[0, :, :2], sound(7), variant="a", metric="dice", paper=printing(a="0.8")
    )
    assert None not in (two_cases.standard_deviation, two_cases.interval, two_cases.paper_interval)


@pytest.mark.parametrize("metric", ["dice", "pooled_dice"])
@pytest.mark.parametrize(("seeds", "lost"), [(2, 0), (6, 0), (8, 5)])
def test_an_estimate_of_too_few_runs_describes_them(seeds, lost, metric):
    values = two(seeds=seeds)[0][0]
    values = values if metric == "dice" else values.mean(axis=1, keepdims=True)
    failed = np.arange(seeds) < lost
    paper = printing(metric, a="0.8")
    found = estimate(values, failed, variant="a", metric=metric, paper=paper)
    assert (found.interval, found.paper_interval, found.paper_lies) == (None, None, None)
    assert None not in (found.mean, found.standard_deviation, found.typical, found.paper)


@pytest.mark.parametrize(
    ("metric", "factor", "scale"),
    [
        ("dice", 1, "logit"), ("focal_loss", 1, "log"), ("Dice", 1, "logit"), ("IoU", 1, "logit"),
        ("IoU", 100, "plain"), ("ASSD", 1, "plain"), ("hausdorff_95", 100, "log"),
    ],
)  # fmt: skip
def test_an_estimate_is_on_the_scale_of_its_metrics_bounds(metric, factor, scale):
    values = factor * two()[0][0]
    printed = printing(metric, a="0.8")
    found = estimate(values, sound(7), variant="a", metric=metric, paper=printed)
    assert (found.interval.scale, found.paper_interval.scale) == (scale, scale)
    assert found.interval.low < found.typical < found.interval.high


def test_nothing_scored_has_no_estimate_and_keeps_the_papers_figure():
    found = estimate(None, sound(0), variant="a", metric="dice", paper=printing(a="0.8"))
    assert (found.variant, found.metric, found.paper) == ("a", "dice", 0.8)
    assert (found.mean, found.standard_deviation, found.interval, found.paper_interval) == (
        None,
    ) * 4
    assert (found.seeds, found.cases) == (0, 0)


def test_an_estimate_tells_the_mean_of_all_runs_and_the_typical_one():
    values, _ = two(seeds=8)
    failed = np.arange(8) == 2
    worse = np.where(failed[:, None], values[0] - 0.3, values[0])
    found = estimate(worse, failed, variant="a", metric="dice", paper=printing(a="0.8"))
    assert found.mean == pytest.approx(worse.mean())
    own = values[0][~failed]
    assert found.typical == pytest.approx(stats.trim_mean(own.mean(axis=1), 1 / 7))
    assert found.interval == typical_interval(own, sound(7), SHARE)
    assert found.paper_interval == more_runs_interval(own, sound(7), SHARE)


def test_flips_of_a_failed_run_have_no_part_in_what_they_bring():
    rng = np.random.default_rng(2)
    single, gains = rng.random((8, 9)), rng.normal(0.01, 0.002, (8, 9))
    failed = np.arange(8) == 3
    gains[3] += 0.3
    found = estimate_averaged(
        single + gains, single, failed, variant="a", averaging="flips", metric="dice"
    )
    own = gains[~failed].mean(axis=1)
    assert found.difference == pytest.approx(stats.trim_mean(own, 1 / 7))
    expected = typical_interval(gains, failed)
    assert found.difference_interval.low == pytest.approx(expected.low)
    assert found.mean == pytest.approx((single + gains).mean())


def test_failed_runs_are_those_that_are_given():
    _, scores = two()
    failed = {("a", 3), ("b", 0)}
    design = Design(scores, failed)
    assert [tuple(place) for place in np.argwhere(design.failed)] == [(0, 3), (1, 0)]
    scores.loc[of(scores, "a", seed=3), "value"] -= 0.4
    found = run(scores, failed_runs=failed)
    assert found.pairs == run(two()[1], failed_runs=failed).pairs
    assert found.ordering == run(two()[1], failed_runs=failed).ordering
    assert found.ranks != run(two()[1], failed_runs=failed).ranks  # which are of all runs


def test_without_two_runs_that_did_not_fail_nothing_is_compared():
    _, scores = two(seeds=3)
    found = run(scores, failed_runs={("b", 0), ("b", 2)})
    assert found.pairs == []
    assert found.notes == [
        "Of a variant no two runs of these seeds did not fail: nothing is compared.",
    ]


def test_too_few_runs_that_did_not_fail_are_descriptive():
    _, scores = two(seeds=8)
    found = run(scores, failed_runs={("b", seed) for seed in range(5)})
    assert found.descriptive
    assert [pair.shown for pair in found.pairs] == [None]


def photographs(scores, each=3):
    """The table with so many cases to a patient, who are called by no number."""
    number = scores["case"].str.removeprefix("case-").astype(int)
    return scores.assign(group="patient " + (number // each).astype(str))


PATIENTS = np.repeat(np.arange(4), 3)  # of twelve cases


def test_a_comparison_takes_the_cases_of_a_group_as_one_in_what_is_over_cases():
    values, scores = two(seed_deviation=0.01)
    scores = photographs(scores)
    found = run(scores, printed={"a": 0.86, "b": 0.88}, factors={"a": [], "b": ["x"]}, seed=3)
    alone = run(scores.drop(columns="group"), printed={"a": 0.86, "b": 0.88}, seed=3)
    assert (found.cases, found.groups, alone.groups) == (12, 4, None)
    failed, units = np.zeros((2, 7), dtype=bool), by_group(values, PATIENTS)
    pairs = compare_pairs(values, failed, ["a", "b"], True, margin=0.005, groups=PATIENTS)
    assert found.pairs == pairs
    assert found.pairs[0].interval != alone.pairs[0].interval
    cells = {"a": ([], units[0], failed[0]), "b": (["x"], units[1], failed[1])}
    assert found.factorial == effects(cells, True)
    order = {"draws": 1000, "seed": 3}
    assert found.ordering == order_all(units, failed, ["a", "b"], ["b", "a"], True, **order)
    assert found.power == plan(units, failed, True, 0.88 - 0.86, 0.005)
    # What is of runs, or of single cases, stays.
    assert (found.ranks, found.variance, found.pairing) == (
        alone.ranks,
        alone.variance,
        alone.pairing,
    )


def test_groups_of_one_case_each_are_none():
    _, scores = two()
    assert run(photographs(scores, each=1)) == run(scores)
    assert Design(photographs(scores, each=1)).groups is None


def test_with_cases_of_one_group_nothing_is_compared():
    _, scores = two()
    found = run(photographs(scores, each=12))
    assert (found.groups, found.pairs) == (1, [])
    assert found.notes == ["With test cases of one group nothing can be said of others."]
    assert compare_available(photographs(scores, each=12), Protocol("dice", margin=0.005)) == found


def test_an_estimate_by_group_has_the_same_means_and_another_error():
    values, _ = two()
    own, failed, units = values[0], sound(7), by_group(values[0], PATIENTS)
    paper = printing(a="0.8").model_copy(update={"cases": 60})
    alone = estimate(own, failed, variant="a", metric="dice", paper=paper)
    found = estimate(own, failed, variant="a", metric="dice", paper=paper, groups=PATIENTS)
    assert found.interval == typical_interval(units, failed, SHARE) != alone.interval
    # The paper's 60 cases are then of 20 groups.
    assert found.paper_interval == more_runs_interval(units, failed, SHARE, cases=20)
    same = {"interval": None, "paper_interval": None}
    assert found.model_copy(update=same) == alone.model_copy(update=same)
    one = estimate(own, failed, variant="a", metric="dice", paper=paper, groups=PATIENTS * 0)
    assert (one.interval, one.paper_interval) == (None, None)


@pytest.mark.parametrize("averaging", ["flips", "seeds"])
def test_averages_by_group_have_the_same_figures_and_another_error(averaging):
    rng = np.random.default_rng(2)
    single = rng.uniform(0.2, 0.8, (8, 12))
    values = single + rng.normal(0.01, 0.02, (8, 12))
    values = values if averaging == "flips" else values[:1]
    gains = values - (single if averaging == "flips" else single.mean(axis=0))
    names = {"variant": "a", "averaging": averaging, "metric": "dice"}
    found = estimate_averaged(values, single, sound(8), **names, groups=PATIENTS)
    for interval, own, bounds in (
        (found.interval, values, SHARE), (found.difference_interval, gains, None)
    ):  # fmt: skip
        units = by_group(own, PATIENTS)
        flips = averaging == "flips"
        expected = typical_interval(units, sound(8), bounds) if flips else None
        assert interval == (expected or case_interval(units[0], bounds))
    alone = estimate_averaged(values, single, sound(8), **names)
    assert (found.mean, found.difference, found.cases) == (alone.mean, alone.difference, 12)
    one = estimate_averaged(values, single, sound(8), **names, groups=PATIENTS * 0)
    assert (one.interval, one.difference_interval) == (None, None)


def test_one_run_each_is_compared_by_group_over_cases_alone():
    values, scores = two(seeds=1)
    found = run(photographs(scores))
    assert found.groups == 4
    assert found.pairs == compare_cases(values[:, 0], ["a", "b"], PATIENTS)
    assert found.pairs != run(scores).pairs
    assert run(photographs(scores, each=12)).pairs == []
    own = estimate(values[0], sound(1), variant="a", metric="dice", groups=PATIENTS)
    assert own.interval == case_interval(by_group(values[0, 0], PATIENTS), SHARE)

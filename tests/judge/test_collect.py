"""judge/collect.py: the study's protocol on tables from elsewhere, as far as each allows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from papers import printing

from pipeline.judge.assembly import Scores
from pipeline.judge.collect import Asked, choose_metric, complete, judge
from pipeline.statistics.analysis import Protocol, compare
from pipeline.statistics.definitions import metric_of
from pipeline.statistics.typical import typical_interval
from pipeline.study.errors import UserError
from studies import as_table, simulate


def drawn(effects=(0.80, 0.83, 0.80), seeds=8, cases=40, **noise):
    values = simulate(np.random.default_rng(0), effects, seeds=seeds, cases=cases, **noise)
    return values.clip(0, 1)


def scores(table, *metrics, notes=()):
    return Scores(table, list(metrics or ("dice",)), "a table", list(notes))


def long(values, metric="dice"):
    return as_table(values).rename(columns={"value": metric})


def judged(table, *metrics, asked=None, **options):
    return judge(scores(table, *metrics), asked or Asked(draws=500), name="t", **options)


def test_a_table_of_seeds_is_compared_as_a_study_is():
    values = drawn()
    found = judged(long(values), asked=Asked(baseline="a", draws=500))
    expected = compare(as_table(values), Protocol("dice", margin=0.005, baseline="a", draws=500))
    assert found.comparison.pairs == expected.pairs
    assert found.comparison.ordering == expected.ordering
    none = np.zeros(8, dtype=bool)
    assert found.estimate("b", "dice").interval == typical_interval(values[1], none, (0.0, 1.0))
    assert [each.failed for each in found.failures] == [[], [], []]
    assert found.study.seeds == list(range(8))
    assert "Against the baseline a, shown to be better: b" in " ".join(found.verdict)


def test_a_failed_run_is_told_and_set_aside():
    values = drawn()
    values[0, 3] -= 0.2
    found = judged(long(values))
    assert found.failures[0].failed == [3]
    assert found.verdict[0] == "The table has one metric: what another would say is not known."
    assert found.verdict[1].startswith(
        "Failed runs: a 1 of 8 (seed 3; 95 % interval of the rate 0 "
    )
    asked = Asked(draws=500, failure_drop=0.5)
    assert judged(long(values), asked=asked).failures[0].failed == []


def test_one_run_of_each_variant_is_over_cases_alone_and_says_so_first():
    found = judged(
        long(drawn(seeds=1)),
        paper=printing(a="0.80", b="0.83").model_copy(update={"claims": ["b > a"]}),
    )
    assert found.verdict[0].startswith("One run of each variant: what follows is over cases alone.")
    assert "with no seed in it" in " ".join(found.verdict)
    assert {pair.shown for pair in found.comparison.pairs} == {None}
    assert found.estimate("a", "dice").paper == 0.80


def test_variants_without_the_same_seeds_are_compared_on_common_ones():
    table = long(drawn())
    found = judged(table[~((table["variant"] == "a") & (table["seed"] == 7))])
    assert "The variants do not have the same seeds" in " ".join(found.verdict)
    assert found.estimate("a", "dice").seeds == 7
    assert [run.seed for run in found.runs if run.variant == "a"] == list(range(7))


def test_cases_that_not_every_run_has_a_number_for_are_left_out_of_all():
    table = long(drawn())
    table.loc[(table["variant"] == "b") & (table["case"] == "case-1"), "dice"] = np.nan
    table = table[~((table["variant"] == "c") & (table["case"] == "case-2"))]
    found = judged(table)
    assert found.comparison.cases == 38
    assert found.verdict[0] == (
        "Left out: 2 cases of 40, for which not every run has a number (a has 40 of 40, b has 39 "
        "of 40, c has 39 of 40)."
    )
    rest = table[~table["case"].isin(["case-1", "case-2"])]
    assert found.comparison.pairs == judged(rest).comparison.pairs


def test_a_variant_scored_on_other_cases_is_left_out():
    table = long(drawn())
    table.loc[table["variant"] == "c", "case"] += "-other"
    found = judged(table)
    assert found.comparison.variants == ["a", "b"]
    assert "c is left out of comparisons" in " ".join(found.verdict)


def test_where_lower_is_better_the_lowest_is_the_best():
    values = drawn() * 10
    found = judged(long(values, "HD95"), "HD95")
    assert found.comparison.better == "lower"
    assert found.comparison.equivalence_margin is None
    assert found.comparison.ordering.observed[-1] == "b"
    told = " ".join(found.verdict)
    assert "HD95: lower is taken to be better. No run is called failed" in told
    assert found.failures == []
    other = judged(long(values, "HD95"), "HD95", asked=Asked(draws=500, better="higher"))
    assert other.comparison.ordering.observed[0] == "b"


def test_the_dice_is_the_primary_metric_whatever_it_is_called():
    assert choose_metric(["IoU", "Dice (label 1)", "dice_x"], None) == "Dice (label 1)"
    assert choose_metric(["iou", "mean_dice"], None) == "mean_dice"
    assert choose_metric(["surface_dice", "dice_loss", "dice"], None) == "dice"
    assert choose_metric(["nsd", "dice_loss", "SurfaceDice"], None) == "nsd"
    assert choose_metric(["dice_x", "DiceScore"], None) == "DiceScore"
    assert choose_metric(["iou", "DSC"], None) == "DSC"
    assert choose_metric(["iou", "nsd"], None) == "iou"
    assert choose_metric(["iou", "dice"], "iou") == "iou"
    with pytest.raises(UserError, match=r"--metric must be one of the table's \(iou\), got 'x'"):
        choose_metric(["iou"], "x")


def test_a_table_that_does_not_name_its_metric_is_told_it():
    table = long(drawn(), "value")
    assert judged(table, "value").comparison.metric == "value"
    named = judged(table, "value", asked=Asked("Dice", draws=500))
    assert (named.comparison.metric, named.comparison.equivalence_margin) == ("Dice", 0.005)


def test_the_papers_metrics_are_the_tables_of_the_same_name():
    table = long(drawn(), "DSC").assign(IoU=0.5)
    paper = printing("dice", a="0.80")
    rows = {"a": {"label": "A", "figures": {"dice": "0.80", "iou": "0.70", "x": "1"}}}
    paper = type(paper).model_validate(paper.model_dump() | {"rows": rows})
    found = judged(table, "DSC", "IoU", paper=paper)
    assert found.estimate("a", "DSC").paper == 0.80
    assert found.estimate("a", "IoU").paper == 0.70


def test_names_that_the_table_has_not_are_refused():
    table = long(drawn())
    with pytest.raises(UserError, match=r"--baseline must be one of .* \(a, b, c\), got 'z'"):
        judged(table, asked=Asked(baseline="z"))
    with pytest.raises(UserError, match=r"--paper must name variants of the table .* got y"):
        judged(table, paper=printing(y="0.8"))


def test_without_two_whole_cases_no_case_is_taken_out():
    table = pd.DataFrame(
        {"variant": ["a", "a", "b", "b"], "seed": 0, "case": ["x", "y", "y", "z"], "dice": 0.5}
    )
    kept, told = complete(table, "dice")
    assert (len(kept), told) == (4, [])


def test_a_design_of_factors_is_told_of_tables_too():
    table = long(drawn((0.7, 0.8, 0.7, 0.8)))
    factors = {"a": [], "b": ["x"], "c": ["y"], "d": ["x", "y"]}
    found = judged(table, factors=factors)
    assert [each.factors for each in found.comparison.factorial] == [["x"], ["y"], ["x", "y"]]


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("HD95", "lower"), ("hausdorff95", "lower"), ("HausdorffDistance95", "lower"),
        ("MeanSurfaceDistance", "lower"), ("val_loss2", "lower"), ("false_negatives", "lower"),
        ("Dice (label 1)", "higher"), ("NSD", "higher"), ("mean_iou", "higher"),
    ],
)  # fmt: skip
def test_a_metrics_name_tells_which_values_are_better(name, better):
    assert metric_of(name).better == better


def test_a_dice_in_percent_is_taken_as_a_share():
    values = drawn()
    found = judged(long(values * 100), paper=printing(a="0.80"))
    assert found.estimate("a", "dice").mean == pytest.approx(values[0].mean())
    assert found.comparison.equivalence_margin == 0.005
    assert "it is taken for percent" in " ".join(found.verdict)


def test_runs_of_other_seeds_are_paired_as_they_stand():
    table = long(drawn(effects=(0.80, 0.83)))
    other = table.copy()
    other.loc[other["variant"] == "b", "seed"] += 10
    found = judged(other)
    assert found.comparison.pairs == judged(table).comparison.pairs
    assert "The variants have no seed in common" in " ".join(found.verdict)


def test_a_run_that_broke_off_takes_no_cases_from_the_others():
    table = long(drawn())
    broken = (table["variant"] == "b") & (table["seed"] == 7)
    found = judged(table[~broken | table["case"].isin(["case-1", "case-2"])])
    assert found.comparison.cases == 40
    assert "Left out: runs with a number for fewer than half of 40 cases: b seed 7 (2)." in (
        found.verdict
    )
    assert found.comparison.pairs == judged(table[~broken]).comparison.pairs


def test_variants_of_one_and_of_several_seeds_are_compared_where_they_can_be():
    table = long(drawn())
    found = judged(table[(table["variant"] != "c") | (table["seed"] == 0)])
    assert found.comparison.over == "seeds and cases"
    (pair,) = found.comparison.pairs
    assert (pair.first, pair.second, pair.shown) == ("a", "b", True)
    assert "No test, for want of two common seeds" in " ".join(found.verdict)


def test_what_the_paper_says_and_the_table_cannot_answer_is_told():
    paper = printing(a="0.80", zz="0.9").model_copy(update={"claims": ["zz > a"]})
    told = " ".join(judged(long(drawn()), paper=paper, factors={"a": [], "q": ["x"]}).verdict)
    assert "Of the paper the table does not have zz: nothing is said." in told
    assert "No effect of a factor is told: the table does not have q." in told


def test_a_metric_beside_one_called_value_is_compared():
    assert judged(long(drawn()).assign(value=1.0), "dice", "value").comparison.metric == "dice"


def test_scores_too_large_to_compute_with_are_refused():
    table = long(drawn())
    table.loc[0, "dice"] = 1e300
    with pytest.raises(UserError, match=r"dice: scores must be within .* got 1e\+300"):
        judged(table)


def test_a_papers_dice_without_its_percent_sign_is_refused():
    told = r"--paper: rows.a.figures.dice must be from 0 to 1, or have a % sign, got '80.0'"
    with pytest.raises(UserError, match=told):
        judged(long(drawn()), paper=printing(a="80.0"))
    assert judged(long(drawn()), paper=printing(a="80.0 %")).estimate("a", "dice").paper == 0.8

"""study/paper.py: a paper's figures as they are printed, and what a design is made of."""

from __future__ import annotations

import pytest
from papers import PAPER, printing

from pipeline.statistics.definitions import METRICS
from pipeline.study.paper import Paper, check_crossed, half_unit, value_of
from pipeline.study.values import METRIC_NAMES


@pytest.mark.parametrize(
    ("printed", "value", "rounded"),
    [
        ("0.8660", 0.866, 0.00005),
        ("0.866", 0.866, 0.0005),
        ("86.6 %", 0.866, 0.0005),
        ("86.60%", 0.866, 0.00005),
        ("7", 7.0, 0.5),
        ("12.25", 12.25, 0.005),
    ],
)
def test_a_printed_figure_is_a_number_and_as_exact_as_its_decimals(printed, value, rounded):
    assert value_of(printed) == value
    assert half_unit(printed) == pytest.approx(rounded)


def test_the_papers_figures_are_those_of_its_table_1():
    dice = {name: figures["dice"] for name, figures in given().items()}
    assert dice == {
        "limit_encoder_attention": "0.8660",
        "encoder_attention": "0.8615",
        "gated_attention": "0.856",
        "encoder_and_gated_attention": "0.8529",
    }
    assert [figures["iou"] for figures in given().values()] == ["0.795", "0.789", "0.782", "0.778"]
    assert [figures["focal_loss"] for figures in given().values()] == [
        "0.245", "0.257", "0.263", "0.270"
    ]  # fmt: skip


def given():
    return {name: row.figures for name, row in PAPER.rows.items() if row.figures}


def test_a_dice_of_all_pixels_stands_beside_the_pooled_dice():
    paper = printing(a="0.8", b="0.7")
    assert (paper.figures("dice"), paper.metrics()) == ({"a": "0.8", "b": "0.7"}, ["dice"])
    pooled = paper.model_copy(update={"averaging": "pixels"})
    assert (pooled.figures("dice"), pooled.metrics()) == ({}, ["pooled_dice"])
    assert pooled.figures("pooled_dice") == {"a": "0.8", "b": "0.7"}
    assert pooled.values("dice") == {"a": 0.8, "b": 0.7}  # by which it ranks them


def test_what_a_paper_does_not_say_may_be_left_out():
    paper = Paper.model_validate({"title": "T", "reference": "R"})
    assert (paper.rows, paper.claims, paper.runs, paper.cases) == ({}, [], None, None)
    assert paper.metrics() == []


def test_of_some_variants_the_rows_of_others_are_left_out():
    found = PAPER.among(["unet", "gated_attention"])
    assert list(found.rows) == ["gated_attention", "unet"]
    assert found.claims == PAPER.claims


@pytest.mark.parametrize(
    "factors",
    [
        {},
        {"a": [], "b": ["x"]},
        {"a": ["y", "x"], "b": ["x"], "c": [], "d": ["y"]},
    ],
)
def test_a_crossed_design_has_each_combination_once(factors):
    check_crossed(factors)
    for name in factors:
        with pytest.raises(ValueError, match=r"must be crossed|must name a factor"):
            check_crossed({each: having for each, having in factors.items() if each != name})


def test_too_many_factors_are_refused_before_their_combinations_are_counted():
    with pytest.raises(ValueError, match="at most 10 factors, got 60"):
        check_crossed({"a": [str(number) for number in range(60)]})


def test_the_metrics_that_a_paper_may_print_are_those_that_runs_are_scored_by():
    assert tuple(METRICS) == METRIC_NAMES

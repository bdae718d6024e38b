"""pipeline/comparison.py against figures worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from pipeline.comparison import (
    CASE_METRICS,
    METRICS,
    PAPER,
    both_empty,
    example_cases,
    score_runs,
    summarise,
)


def scores(dice: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    """A table of scores in which every metric is the Dice given, cases are a, b, ... and each case
    has 1 true positive, 1 false positive and 2 false negatives."""
    rows = [
        {"variant": variant, "seed": seed, "id": "abcdefgh"[place]}
        | dict.fromkeys(CASE_METRICS, value)
        | {"true_positives": 1, "false_positives": 1, "false_negatives": 2, "true_negatives": 12}
        for (variant, seed), values in dice.items()
        for place, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_mean_and_standard_deviation_are_over_seeds_of_means_over_cases():
    summary = summarise(scores({("v", 0): [0.8, 0.6], ("v", 1): [1.0, 0.8], ("v", 2): [0.9, 0.7]}))
    row = summary.loc[("v", "dice")]
    # Means of the seeds: 0.7, 0.9, 0.8; their standard deviation with n - 1 is 0.1.
    assert row["mean"] == pytest.approx(0.8)
    assert row["standard_deviation"] == pytest.approx(0.1)
    assert (row["seeds"], row["cases"]) == (3, 2)


def test_one_seed_has_no_standard_deviation():
    summary = summarise(scores({("v", 0): [0.8, 0.6]}))
    assert summary.loc[("v", "dice"), "mean"] == pytest.approx(0.7)
    assert summary["standard_deviation"].isna().all()
    assert (summary["seeds"] == 1).all()


def test_variants_and_metrics_keep_their_order():
    summary = summarise(scores({("z", 0): [0.5], ("a", 0): [0.9]}))
    assert list(summary.index) == [(variant, name) for variant in "za" for name in METRICS]


def test_pooled_dice_stands_in_the_summary():
    summary = summarise(scores({("v", 0): [0.8, 0.6], ("v", 1): [0.8, 0.6]}))
    assert summary.loc[("v", "pooled_dice"), "mean"] == pytest.approx(2 / 5)
    assert summary.loc[("v", "pooled_dice"), "standard_deviation"] == pytest.approx(0)


def test_a_case_without_a_value_leaves_the_run_and_the_variant_without_one():
    table = scores({("v", 0): [0.8, 0.6], ("v", 1): [0.8, 0.6]})
    table.loc[0, "focal_loss"] = math.nan
    assert math.isnan(score_runs(table).loc[("v", 0), "focal_loss"])
    assert math.isnan(summarise(table).loc[("v", "focal_loss"), "mean"])
    assert summarise(table).loc[("v", "dice"), "mean"] == pytest.approx(0.7)


def test_runs_scored_on_different_cases_are_refused():
    with pytest.raises(ValueError, match="other cases"):
        summarise(scores({("v", 0): [0.8, 0.6], ("v", 1): [0.8]}))


def test_both_empty_counts_cases_without_lesion_in_truth_and_prediction():
    table = scores({("v", 0): [1.0, 0.6]})
    table.loc[0, ["true_positives", "false_positives", "false_negatives"]] = 0
    assert both_empty(table) == 1


def test_example_cases_are_the_best_median_and_worst_by_mean_over_runs():
    table = scores(
        {
            ("v", 0): [0.1, 0.9, 0.5, 0.7, 0.6, 0.2],
            ("w", 0): [0.3, 0.9, 0.5, 0.5, 0.8, 0.2],
        }
    )
    found = example_cases(table, each=1)
    assert [(example.rank, example.id) for example in found] == [
        ("best", "b"),  # 0.9
        ("median", "d"),  # b 0.9, e 0.7, d 0.6, c 0.5, a 0.2, f 0.2
        ("worst", "f"),
    ]
    assert found[1].dice == pytest.approx(0.6)


@pytest.mark.parametrize("cases", range(1, 9))
def test_example_cases_name_none_twice(cases):
    found = example_cases(scores({("v", 0): [0.5 + 0.01 * place for place in range(cases)]}))
    assert len({example.id for example in found}) == len(found) <= 6
    assert [example.dice for example in found] == sorted(
        (example.dice for example in found), reverse=True
    )
    assert found[0].rank == "best"


def test_the_papers_figures_are_those_of_its_table_1():
    given = {name: row[1:] for name, row in PAPER.items() if row.dice is not None}
    assert given == {
        "limit_encoder_attention": (0.8660, 0.795, 0.245),
        "encoder_attention": (0.8615, 0.789, 0.257),
        "gated_attention": (0.856, 0.782, 0.263),
        "encoder_and_gated_attention": (0.8529, 0.778, 0.270),
    }

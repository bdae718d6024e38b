"""statistics/scores.py against figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from pipeline.statistics import scores as scores_module
from pipeline.statistics.definitions import CASE_METRICS, METRICS
from pipeline.statistics.scores import both_empty, disputed_cases, example_cases


def scores(
    dice: dict[tuple[str, int], list[float]], ids: Sequence[str] = "abcdefgh"
) -> pd.DataFrame:
    """A table of scores in which every metric is the Dice given, cases are a, b, ... and each case
    has 1 true positive, 1 false positive and 2 false negatives."""
    rows = [
        {"variant": variant, "seed": seed, "id": ids[place]}
        | dict.fromkeys(CASE_METRICS, value)
        | {"true_positives": 1, "false_positives": 1, "false_negatives": 2, "true_negatives": 12}
        for (variant, seed), values in dice.items()
        for place, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def binned(table: pd.DataFrame) -> dict[tuple[str, int], np.ndarray]:
    """Of each run two bins of 10 pixels: p is 0.1 and 0.9, lesion 2 and 8 of ten."""
    runs = table[["variant", "seed"]].drop_duplicates().itertuples(index=False)
    return {tuple(run): np.array([[10, 1, 2], [10, 9, 8]], float) for run in runs}


def score_runs(table: pd.DataFrame) -> pd.DataFrame:
    return scores_module.score_runs(table, binned(table))


def test_a_runs_calibration_error_is_of_its_bins():
    runs = score_runs(scores({("v", 0): [0.8, 0.6]}))
    assert runs.loc[("v", 0), "expected_calibration_error"] == pytest.approx(0.1)


def test_a_study_without_native_scores_has_no_columns_of_them():
    table = scores({("v", 0): [0.8, 0.6]})
    table = table.drop(columns=[name for name in table if name.startswith("native_")])
    assert "native_dice" not in score_runs(table)


def test_a_run_is_the_mean_over_its_cases_and_runs_keep_their_order():
    runs = score_runs(scores({("z", 0): [0.8, 0.6], ("a", 1): [1.0, 0.8]}))
    assert list(runs.index) == [("z", 0), ("a", 1)]
    assert list(runs.index.names) == ["variant", "seed"]
    assert list(runs.columns) == list(METRICS)
    assert runs["dice"].tolist() == pytest.approx([0.7, 0.9])


def test_pooled_dice_is_the_ratio_of_the_sums():
    runs = score_runs(scores({("v", 0): [0.8, 0.6]}))
    assert runs.loc[("v", 0), "pooled_dice"] == pytest.approx(2 / 5)


def test_a_case_without_a_value_leaves_the_run_without_one():
    table = scores({("v", 0): [0.8, 0.6], ("v", 1): [0.8, 0.6]})
    table.loc[0, "focal_loss"] = math.nan
    assert math.isnan(score_runs(table).loc[("v", 0), "focal_loss"])
    assert score_runs(table).loc[("v", 0), "dice"] == pytest.approx(0.7)


def test_runs_scored_on_different_cases_are_refused():
    with pytest.raises(ValueError, match="other cases"):
        score_runs(scores({("v", 0): [0.8, 0.6], ("v", 1): [0.8]}))


def test_both_empty_counts_cases_without_lesion_in_truth_and_prediction():
    table = scores({("v", 0): [1.0, 0.6, 0.7]})
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


@pytest.mark.parametrize(
    ("cases", "each"), [(2, 1), (3, 1), (5, 1), (6, 2), (8, 2), (9, 2), (12, 2)]
)
def test_two_cases_of_every_rank_are_shown_where_there_are_six(cases, each):
    table = scores({("v", 0): np.linspace(0.9, 0.5, cases).tolist()}, "abcdefghijkl")
    ranks = [example.rank for example in example_cases(table)]
    assert ranks == ["best"] * each + ["median"] * (each if cases > 2 else 0) + ["worst"] * each


def test_cases_of_equal_means_keep_the_order_of_the_scores():
    ids = [f"case{number * 7 % 40}" for number in range(40)]
    table = scores({("v", 0): [0.5] * 40, ("w", 0): [0.7] * 40}, ids)
    found = [example.id for example in example_cases(table, each=1)]
    assert found == [ids[0], ids[19], ids[39]]
    assert [example.id for example in disputed_cases(table)] == ids[:6]


def test_disputed_cases_are_those_whose_variants_differ_most_in_the_mean_over_seeds():
    table = scores(
        {
            ("v", 0): [0.9, 0.2, 0.5, 0.6],
            ("v", 1): [0.9, 0.8, 0.5, 0.6],  # seeds that differ are no dispute of variants
            ("w", 0): [0.5, 0.5, 0.5, 0.7],
            ("w", 1): [0.5, 0.5, 0.5, 0.7],
        }
    )
    found = disputed_cases(table, number=3)
    assert [(case.rank, case.id) for case in found] == [("disputed", "a"), ("disputed", "d")]
    assert found[0].dice == pytest.approx(0.7)


def test_one_variant_disputes_nothing():
    assert disputed_cases(scores({("v", 0): [0.9, 0.2]})) == []

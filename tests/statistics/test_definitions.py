"""statistics/definitions.py: every metric is stated with the study's own constants."""

from __future__ import annotations

import pytest
from conftest import REPOSITORY

from pipeline.statistics.definitions import (
    IN_MILLIMETRES,
    METRICS,
    metric_of,
    metrics_of,
    state,
)
from pipeline.study.blocks import Focal
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.study.run_files import MOST, range_of


def with_constants(resolution: str, depth: int | None = None) -> Study:
    study = load_study(REPOSITORY)
    changes = {
        "resolution": resolution, "threshold": 0.4, "jaccard_threshold": 0.61,
        "surface_tolerance": 3.5, "calibration_bins": 17,
    }  # fmt: skip
    evaluate = study.evaluate.model_copy(update=changes)
    return study.model_copy(
        update={
            "evaluate": evaluate,
            "focal": Focal(alpha=0.3, gamma=1.5),
            "prepare": study.prepare.model_copy(update={"depth": depth}),
        }
    )


def test_native_metrics_are_a_studys_that_scores_at_the_originals_size():
    native = metrics_of(with_constants("native"))
    assert native == [name for name in METRICS if name not in IN_MILLIMETRES]
    network = metrics_of(with_constants("network"))
    assert network == [name for name in METRICS if not name.startswith("native_")]
    assert len(network) < len(METRICS)


def test_distances_in_millimetres_are_of_volumes_whose_spacing_is_known():
    assert metrics_of(with_constants("native", 32)) == list(METRICS)
    told = dict(state(with_constants("native", 32)))
    assert "within 3.5 mm" in told[METRICS["native_surface_dice"].label]
    assert "laid back trilinearly" in told[METRICS["native_dice"].label]
    assert not set(IN_MILLIMETRES) & set(metrics_of(with_constants("network", 32)))


@pytest.mark.parametrize(
    ("tolerance", "told"), [(1.0, "1 pixel of"), (2.0, "2 pixels of"), (0.5, "0.5 pixels of")]
)
def test_a_tolerance_is_told_in_pixels(tolerance, told):
    study = with_constants("network")
    evaluate = study.evaluate.model_copy(update={"surface_tolerance": tolerance})
    stated = dict(state(study.model_copy(update={"evaluate": evaluate})))
    assert f"lie within {told} the other outline" in stated["Normalised surface Dice"]


def test_each_definition_has_its_label_and_the_constants_of_the_study():
    stated = state(with_constants("network"))
    told = dict(stated)
    assert len(told) == len(stated)
    assert stated[0] == (
        "Pixels and empty masks",
        "A pixel is lesion where p > 0.4; TP, FP, FN and TN count a case's pixels at the prepared "
        "size, unless a metric says otherwise. A ratio of 0 to 0 is 1: truth and prediction both "
        "empty give Dice = IoU = 1.",
    )
    assert list(told)[1:] == [METRICS[name].label for name in metrics_of(with_constants("network"))]
    constants = {
        "thresholded_jaccard": ["0.61"],
        "focal_loss": ["0.3", "1.5"],
        "surface_dice": ["3.5"],
        "expected_calibration_error": ["17"],
    }
    for name, numbers in constants.items():
        assert all(number in told[METRICS[name].label] for number in numbers), name
    assert not any("{" in definition for definition in told.values())


def test_the_bounds_of_a_metric_are_those_that_its_column_is_held_to():
    for name, metric in METRICS.items():
        low, high = range_of(name)
        assert metric.bounds == (low, None if high == MOST else high), name


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("Dice", (0, 1)), ("DSC", (0, 1)), ("IoU", (0, 1)), ("mIoU", (0, 1)), ("mean_iou", (0, 1)),
        ("Jaccard", (0, 1)), ("val_dice", (0, 1)), ("dice_loss", None), ("HD95", None),
        ("jaccard distance", None), ("Score", None), ("value", None), ("previous", None),
    ],
)  # fmt: skip
def test_another_tools_metric_has_the_bounds_that_its_name_says(name, bounds):
    assert metric_of(name).bounds == bounds

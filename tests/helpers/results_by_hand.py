"""results.json and baselines made by hand, for the gate's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.gate.baseline import Baseline, RunFigures, baseline_of
from pipeline.statistics.results import (
    SCHEMA_VERSION,
    Cases,
    Comparison,
    Results,
    RunResult,
    StudyRecord,
)

Values = Mapping[str, Sequence[float | None]]  # variant -> a value a seed


def study(**changes: Any) -> StudyRecord:
    record = {
        "name": "demo",
        "synthetic": True,
        "variants": ["unet"],
        "seeds": [0, 1],
        "folds": [0],
        "cases_sha256": "c" * 64,
        "definitions": {"Dice": "2 TP / (2 TP + FP + FN)"},
        "both_empty": 0,
        "both_empty_of": 48,
    }
    return StudyRecord.model_validate(record | changes)


def figures(
    dice: Values,
    *,
    focal_loss: Values | None = None,
    record: StudyRecord | None = None,
    params: dict[str, Any] | None = None,
) -> Baseline:
    """A study's figures; the IoU is the Dice's, the loss 1 - Dice unless given."""
    record = record or _study_of(dice)
    return baseline_of(record, params or {}, _runs(dice, focal_loss, record.seeds))


def _study_of(dice: Values) -> StudyRecord:
    return study(variants=list(dice), seeds=list(range(max(map(len, dice.values())))))


def results(
    dice: Values, *, focal_loss: Values | None = None, record: StudyRecord | None = None
) -> Results:
    """A whole results.json with those runs, and nothing else in it."""
    record = record or _study_of(dice)
    comparison = Comparison(
        metric="dice",
        variants=list(dice),
        seeds=record.seeds,
        cases=1,
        notes=[],
        pairing=None,
        pairs=[],
        baseline=None,
        equivalence_margin=0.005,
        factorial=[],
        ranks=None,
        ordering=None,
        variance=None,
        power=None,
    )
    return Results(
        schema_version=SCHEMA_VERSION,
        study=record,
        params={},
        environment={},
        answer="Nobody knows.",
        verdict=[],
        estimates=[],
        averaged=[],
        comparison=comparison,
        failures=[],
        tails=[],
        groupings={},
        subgroups=[],
        calibration=[],
        thresholds=[],
        runs=[
            RunResult(**run.model_dump(), cost={}) for run in _runs(dice, focal_loss, record.seeds)
        ],
        costs=[],
        cases=Cases(ids=[], lesion_share=[], dice={}, iou={}, focal_loss={}, disagreement=[]),
        histories={},
    )


def _runs(dice: Values, focal_loss: Values | None, seeds: Sequence[int]) -> list[RunFigures]:
    return [
        RunFigures(
            variant=variant,
            seed=seeds[place] if place < len(seeds) else place,
            metrics={
                "dice": value,
                "iou": None if value is None else value / (2 - value),
                "focal_loss": _loss(
                    value, None if focal_loss is None else focal_loss[variant][place]
                ),
            },
        )
        for variant, values in dice.items()
        for place, value in enumerate(values)
    ]


def _loss(dice: float | None, given: float | None) -> float | None:
    return 1 - dice if given is None and dice is not None else given

"""Stage 4: score one trained network on every test case, and sweep the threshold over validation.

Stage evaluate_external: score it on an external test set, and keep the scores alone.

`python -m pipeline.evaluate [--external NAME] <variant> <seed> [fold]`
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from pipeline.engine.compute import choose_device, make_deterministic
from pipeline.engine.overlap import COUNTS
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import load_model
from pipeline.evaluation.calibration import bin_pixels, expected_calibration_error
from pipeline.evaluation.inference import forward, pixels, score
from pipeline.evaluation.metrics import METRICS, summarise
from pipeline.evaluation.native import NativeScorer
from pipeline.evaluation.surface import score_surfaces
from pipeline.evaluation.thresholds import THRESHOLDS, dice_by_threshold
from pipeline.study.blocks import Evaluate
from pipeline.study.errors import run_command
from pipeline.study.files import replacing, sha256, write_json
from pipeline.study.heartbeat import beating
from pipeline.study.inputs import source_hashes
from pipeline.study.params import Run, Study
from pipeline.study.reading import load_study, parse_evaluation
from pipeline.study.stages import at_stage


class Evaluation(NamedTuple):
    """What is kept of a run's test cases.

    table: evaluation/cases.csv: id, the columns of metrics.METRICS, the counts; with
        evaluate.resolution native also NativeScorer's, each named native_.
    predictions: the masks, bits packed along the width: (cases, height, width / 8) uint8.
    binned: pixels by their probability: (cases, bins, 3), as calibration.bin_pixels gives them.
    """

    table: pd.DataFrame
    predictions: NDArray[np.uint8]
    binned: NDArray[np.float64]


def evaluate(model: nn.Module, cases: PreparedCases, study: Study) -> Evaluation:
    """Score every test case. Raises UserError for a mask that is asked for and not there."""
    settings = study.evaluate
    rows = cases.table.iloc[cases.indices("test")]
    native = NativeScorer(study) if settings.resolution == "native" else None
    predictions, binned, tables, scored = [], [], [], 0
    for logits, targets in forward(model, cases, "test", settings):
        probabilities, found, truth, table = score(logits, targets, study)
        if native is not None:
            native.submit(probabilities, rows[scored : scored + len(truth)])
        scored += len(truth)
        predictions.append(np.packbits(found, axis=-1))
        binned.append(bin_pixels(probabilities, truth, settings.calibration_bins))
        surfaces = score_surfaces(found, truth, tolerance=settings.surface_tolerance)
        tables.append(table.assign(**surfaces))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "id", rows["id"].to_numpy())
    table = table[["id", *METRICS, *COUNTS]]
    if native is not None:
        table = table.join(native.collect().add_prefix("native_"))
    return Evaluation(table, np.concatenate(predictions), np.concatenate(binned))


def sweep_thresholds(model: nn.Module, cases: PreparedCases, settings: Evaluate) -> pd.DataFrame:
    """evaluation/thresholds.csv: the mean Dice over validation cases at each threshold."""
    dice = [
        dice_by_threshold(*map(pixels, (logits.sigmoid(), targets > 0)))
        for logits, targets in forward(model, cases, "validation", settings)
    ]
    return pd.DataFrame(
        {"threshold": THRESHOLDS.astype(np.float64).round(2), "dice": np.concatenate(dice).mean(0)}
    )


def main() -> None:
    study, run = parse_evaluation(load_study())
    external = study.external_name
    stage: Literal["evaluate", "evaluate_external"] = (
        "evaluate" if external is None else "evaluate_external"
    )
    with (
        beating(study, run, "evaluate"),
        at_stage(study, stage, run, external=external, networks=[run.variant]),
    ):
        metrics = evaluate_run(study, run, stage)
    print(
        f"{stage}: {study.label(run)}: Dice {metrics['dice']:.4f}, IoU {metrics['iou']:.4f}, "
        f"mean over {metrics['cases']} test cases"
    )


def evaluate_run(
    study: Study, run: Run, stage: Literal["evaluate", "evaluate_external"] = "evaluate"
) -> dict[str, float]:
    """Score one run and write its folder `evaluation`; returns metrics.json."""
    cases = PreparedCases.open(study.prepared_dir, run.fold, study.preparing)
    make_deterministic()
    weights = study.run_dir(*run) / "weights.safetensors"
    model = load_model(study.models[run.variant], weights, choose_device())
    table, predictions, binned = evaluate(model, cases, study)
    folder = study.evaluation_dir(*run)
    tables = {"cases.csv": table}
    arrays: dict[str, NDArray[Any]] = {}
    if stage == "evaluate":
        tables["thresholds.csv"] = sweep_thresholds(model, cases, study.evaluate)
        arrays = {"predictions.npy": predictions, "calibration.npy": binned}
    for name, written in tables.items():
        with replacing(folder / name) as temporary:
            written.to_csv(temporary, index=False)
    for name, array in arrays.items():
        with replacing(folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    metrics = summarise(table) | {
        "expected_calibration_error": float(expected_calibration_error(binned.sum(axis=0)))
    }
    record = {
        **run._asdict(),
        "weights_sha256": sha256(weights),
        "sources": source_hashes(stage),
        "data_fingerprint": cases.fingerprint,
        "params": study.deciding("evaluate", "focal"),
    }
    write_json(folder / "evaluation.json", record)
    write_json(folder / "metrics.json", metrics)
    return metrics


if __name__ == "__main__":
    run_command(main)

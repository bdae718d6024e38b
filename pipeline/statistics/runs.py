"""What the runs left in their folders, read as tables for the stages that compare them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data import slices
from pipeline.engine.overlap import COUNTS
from pipeline.engine.prepared import PreparedCases
from pipeline.statistics.definitions import AVERAGED, CASE_METRICS, metrics_of
from pipeline.study.arrays import read_array
from pipeline.study.columns import read_table
from pipeline.study.errors import UserError
from pipeline.study.inputs import Inputs
from pipeline.study.params import Run, Study
from pipeline.study.run_files import read_run
from pipeline.study.values import Averaging

Binned = NDArray[np.float64]
AVERAGE_KEYS = ("variant", "averaging", "seed", "fold", "id")  # of a row of averages
LOSSES = ("loss", "bce", "dice_loss", "focal_loss")
HISTORY = (  # columns that the history of every training has
    "epoch",
    *(f"{split}_{loss}" for split in ("train", "validation") for loss in LOSSES),
    *("validation_dice", "validation_iou"),
)
CLOCK = ("seconds", "images_per_second")  # that most have; no machine repeats them


def missing_runs(study: Study) -> list[Run]:
    """Those that are not trained and evaluated yet, or of which DVC would repeat one of both."""
    inputs = Inputs(study)
    return [run for run in study.runs() if not inputs.is_current(run)]


def read_histories(study: Study) -> pd.DataFrame:
    """A row a variant, seed and epoch: history.csv, its mean over folds where there are several.

    Raises UserError if one is missing.
    """
    histories = pd.concat(
        [
            read_table(study.run_dir(*run) / "history.csv", "train", HISTORY).assign(
                variant=run.variant, seed=run.seed
            )
            for run in study.runs()
        ],
        ignore_index=True,
    )
    if len(study.folds) > 1:
        by = ["variant", "seed", "epoch"]
        histories = histories.groupby(by, sort=False, as_index=False).mean()
    return histories


def read_validation(study: Study) -> dict[str, dict[int, float]]:
    """variant -> seed -> mean Dice over validation cases after the epoch whose weights are
    evaluated, of a study of one fold. Raises UserError if a run's history.csv or run.json is
    missing or unusable."""
    found: dict[str, dict[int, float]] = {}
    for run in study.runs():
        folder = study.run_dir(*run)
        history = read_table(folder / "history.csv", "train", HISTORY)
        epoch = read_run(folder / "run.json").get("selected_epoch")
        selected = history.loc[history["epoch"] == epoch, "validation_dice"]
        if len(selected) != 1:
            raise UserError(
                f"{folder / 'run.json'}: selected_epoch must be one of history.csv, got {epoch}; "
                "run the stage train again"
            )
        dice = float(selected.iloc[0])
        if not math.isfinite(dice):
            raise UserError(
                f"{folder / 'history.csv'}: validation_dice of epoch {epoch} must be a number, got "
                f"{dice}: settings are chosen by it; run the stage train again"
            )
        found.setdefault(run.variant, {})[run.seed] = dice
    return found


def read_scores(study: Study, cases: PreparedCases) -> pd.DataFrame:
    """Every run's evaluation/cases.csv, one below the other, with the columns variant and seed.

    The folds of a variant and seed together have scored each case once; of an external test set
    (Study.on) each fold has scored every case. Raises UserError if a file is missing, is of other
    weights, of other cases than the prepared test cases, or was made with other params or data.
    """
    tables, inputs = [], Inputs(study)
    stage = "evaluate" if study.external_name is None else "evaluate_external"
    scored = ["id", *(name for name in metrics_of(study) if name in CASE_METRICS), *COUNTS]
    for run in study.runs():
        path = study.evaluation_dir(*run) / "cases.csv"
        table = read_table(path, stage, scored)
        if inputs.trained(run) is not None and inputs.evaluated(run) is None:
            raise UserError(
                f"{path} is not of the weights that the run has now; run the stage {stage} again"
            )
        if others := inputs.otherwise(run):
            name = f"{run.variant}-{run.seed}-{run.fold}"
            advice = f"--force --single-item train@{name} evaluate@{name}, then dvc repro"
            if study.external_name is not None:
                advice = "--force --single-item evaluate_external, then dvc repro"
            raise UserError(
                f"{path} was made with another {', '.join(others)} than is there now: dvc repro "
                f"{advice}"
            )
        expected = test_ids(cases, run.fold)
        if table["id"].tolist() != expected:
            raise UserError(
                f"{path} does not hold the {len(expected)} prepared test cases in their order; "
                f"run the stage {stage} again"
            )
        tables.append(table.assign(variant=run.variant, seed=run.seed))
    return pd.concat(tables, ignore_index=True)


class Average(NamedTuple):
    """Networks of a variant and one fold whose probabilities are averaged, those of `seeds`."""

    averaging: Averaging
    seeds: tuple[int, ...]
    fold: int

    @property
    def seed(self) -> int | None:
        """None for an ensemble, which is of all seeds."""
        return self.seeds[0] if self.averaging == "flips" else None


def averages(study: Study) -> list[Average]:
    """What `averaging` asks for of each variant, in the order of params.yaml: flips of each seed's
    network, and all seeds' networks together."""
    every = tuple(study.seeds)
    return [
        Average(averaging, seeds, fold)
        for averaging in study.averaging
        for seeds in ([(seed,) for seed in every] if averaging == "flips" else [every])
        for fold in study.folds
    ]


def read_averaged(study: Study, cases: PreparedCases) -> pd.DataFrame:
    """Every variant's reports/averaged/<variant>.csv, one below the other, the seed -1 for what
    averages all seeds. Raises UserError if one is missing or has not one row for each test case of
    each of `averages`, in their order."""
    tables = []
    ids = {fold: test_ids(cases, fold) for fold in study.folds}
    for variant in study.variants:
        path = study.averaged_file(variant)
        table = read_table(path, "average", (*AVERAGE_KEYS, *AVERAGED))
        expected = [
            (variant, each.averaging, -1 if each.seed is None else each.seed, each.fold, id)
            for each in averages(study)
            for id in ids[each.fold]
        ]
        table["seed"] = table["seed"].fillna(-1)
        if list(table[list(AVERAGE_KEYS)].itertuples(index=False, name=None)) != expected:
            raise UserError(
                f"{path} does not hold the {len(expected)} rows that averaging in params.yaml asks "
                "for; run the stage average again"
            )
        tables.append(table.astype({"seed": int}))
    return pd.concat(tables, ignore_index=True)


def read_binned(study: Study, cases: PreparedCases) -> dict[tuple[str, int], Binned]:
    """Each variant's and seed's pixels by probability, summed over test cases: (bins, 3), see
    calibration.bin_pixels.

    Raises UserError if a run's calibration.npy is missing or of another shape.
    """
    found: dict[tuple[str, int], Binned] = {}
    for run in study.runs():
        path = study.evaluation_dir(*run) / "calibration.npy"
        shape = (len(test_ids(cases, run.fold)), study.evaluate.calibration_bins, 3)
        binned = read_array(path, "evaluate", np.float64, shape)
        if not (np.isfinite(binned) & (binned >= 0)).all():
            raise UserError(
                f"{path} must hold finite numbers of at least 0; run the stage evaluate again"
            )
        key = (run.variant, run.seed)
        found[key] = found.get(key, 0) + binned.sum(axis=0)
    return found


def read_thresholds(study: Study) -> pd.DataFrame:
    """Every run's evaluation/thresholds.csv, one below the other, with the columns variant and
    seed. Raises UserError if one is missing."""
    return pd.concat(
        [
            read_table(
                study.evaluation_dir(*run) / "thresholds.csv", "evaluate", ["threshold", "dice"]
            ).assign(variant=run.variant, seed=run.seed)
            for run in study.runs()
        ],
        ignore_index=True,
    )


def test_ids(cases: PreparedCases, fold: int) -> list[str]:
    """The ids of a fold's test cases, in the order that runs score them in."""
    return list(cases.table["id"].iloc[replace(cases, fold=fold).indices("test")])


def read_run_facts(study: Study) -> dict[Run, dict[str, Any]]:
    """Each run's run.json. Raises UserError if one is missing or unusable."""
    return {run: read_run(study.run_dir(*run) / "run.json") for run in study.runs()}


def median_facts(study: Study, cases: PreparedCases) -> dict[Run, dict[str, Any]]:
    """Each run's run.json, its times those of a median epoch of history.csv: one epoch in which the
    machine stood still says nothing of the others. As run.json has them, the mean's, where an
    earlier version's history.csv has no times. Raises UserError."""
    return {
        run: facts | _median_times(study, run, replace(cases, fold=run.fold))
        for run, facts in read_run_facts(study).items()
    }


def _median_times(study: Study, run: Run, cases: PreparedCases) -> dict[str, float]:
    """Seconds an epoch; images a second in training, and in validation, which takes the rest."""
    history = read_table(study.run_dir(*run) / "history.csv", "train", HISTORY)
    if not set(CLOCK) <= set(history):
        return {}
    seconds, trained = (history[name] for name in CLOCK)
    validating = seconds - len(cases.indices("training")) / trained
    times = {
        "seconds_per_epoch": float(seconds.median()),
        "images_per_second": float(trained.median()),
    }
    if validating.median() > 0:
        validated = len(cases.indices("validation")) / validating.median()
        times["validation_images_per_second"] = float(validated)
    return {name: value for name, value in times.items() if np.isfinite(value)}


def read_predictions(
    study: Study,
    cases: PreparedCases,
    ids: Sequence[str],
    seed: int,
    at: Sequence[int] | None = None,
) -> dict[str, NDArray[np.uint8]]:
    """variant -> the masks that `seed` predicted for the test cases `ids`, in their order and
    still packed: (ids, height, width / 8).

    at: (ids,), which slice of each, of volumes; an id may come several times, once for each of its
    slices. Without it the slice that shows a case. Each case's is of the fold that tested it.
    Raises UserError if a run's predictions.npy is missing or of another shape.
    """
    *sides, width = cases.masks.shape[1:]
    volumes = len(sides) > 1
    if at is None:
        position = {id: place for place, id in enumerate(cases.table["id"])}
        at = [slices.largest(cases.masks[position[id]]) if volumes else 0 for id in ids]
    of_seed = [run for run in study.runs() if run.seed == seed]
    shape = (len(ids), sides[-1], width // 8)
    packed = {run.variant: np.zeros(shape, np.uint8) for run in of_seed}
    for run in of_seed:
        path = study.evaluation_dir(*run) / "predictions.npy"
        rows = {id: row for row, id in enumerate(test_ids(cases, run.fold))}
        predicted = read_array(path, "evaluate", np.uint8, (len(rows), *sides, width // 8))
        for mask, id, slice in zip(packed[run.variant], ids, at, strict=True):
            if id in rows:
                found = predicted[rows[id]]
                mask[:] = slices.cut(found, slice) if volumes else found
    return packed

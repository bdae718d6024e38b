"""What each run of a study is at, by the files alone: no network, no DVC, no MLflow, no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.study.heartbeat import Work, heartbeat_file
from pipeline.study.inputs import Inputs, read
from pipeline.study.locks import is_held
from pipeline.study.params import Run, Study

State = Literal["done", "running", "evaluating", "trained", "interrupted", "failed", "waiting"]
WIDTH = 100  # columns of a terminal that the table fits
PARTS = ("data", "runs", "external", "reports", ".resume")  # of a study's folder: what stages write


@dataclass(frozen=True)
class RunStatus:
    """One run as it is now.

    epoch, of epochs: of a training that is on its way or was interrupted; None where not known.
    images_per_second: of the epoch that it is in, or was. epoch_share: of that epoch's training
    images, 0 to 1. seconds_per_epoch: the mean of its finished ones; in the first what it would be
    without validation. error: the first line of what ended it. changed: what a finished training or
    evaluation was made with that is another now: DVC would repeat it.
    training_seconds, evaluation_seconds: what a finished training and evaluation took.
    """

    run: Run
    state: State
    epoch: int | None = None
    epochs: int | None = None
    epoch_share: float = 0.0
    images_per_second: float | None = None
    seconds_per_epoch: float | None = None
    error: str | None = None
    changed: tuple[str, ...] = ()
    training_seconds: float | None = None
    evaluation_seconds: float | None = None


def look(study: Study) -> list[RunStatus]:
    """Every run of the study, in the order of params.yaml."""
    inputs = Inputs(study)
    return [look_at(study, run, inputs) for run in study.runs()]


def look_at(study: Study, run: Run, inputs: Inputs) -> RunStatus:
    """One run: a lock that is held says that a process is at it, files say what is done."""
    records = {work: read(heartbeat_file(study, run, work)) for work in ("train", "evaluate")}
    facts = inputs.trained(run)
    if _is_at(study, run, "train"):
        return _training(run, "running", records["train"] or {})
    trained: dict[str, Any] = {}
    if facts is not None:
        trained = {
            "changed": inputs.changed(run),
            "training_seconds": facts.get("wall_seconds"),
            "seconds_per_epoch": facts.get("seconds_per_epoch"),
            "images_per_second": facts.get("images_per_second"),
        }
    if _is_at(study, run, "evaluate"):
        return RunStatus(run, "evaluating", **trained)
    evaluation = records["evaluate"] or {}
    if inputs.evaluated(run) is not None:
        return RunStatus(run, "done", evaluation_seconds=evaluation.get("seconds"), **trained)
    if facts is not None:
        error = evaluation.get("error")
        return RunStatus(run, "failed" if error else "trained", error=error, **trained)
    training = records["train"]
    if training is not None:
        return _training(run, "failed" if "error" in training else "interrupted", training)
    if study.resume_file(*run).is_file():
        return RunStatus(run, "interrupted")
    return RunStatus(run, "waiting")


def _is_at(study: Study, run: Run, work: Work) -> bool:
    return is_held(heartbeat_file(study, run, work).with_suffix(".lock"))


def _training(run: Run, state: State, record: dict[str, Any]) -> RunStatus:
    images, speed = record.get("of", 0), record.get("images_per_second")
    return RunStatus(
        run,
        state,
        epoch=record.get("epoch"),
        epochs=record.get("epochs"),
        # What is interrupted begins its epoch anew.
        epoch_share=record["images"] / images if images and state == "running" else 0.0,
        images_per_second=speed,
        seconds_per_epoch=record.get("seconds_per_epoch") or (images / speed if speed else None),
        error=record.get("error"),
    )


def scored_on_sets(study: Study) -> dict[str, int]:
    """How many runs have been scored on each external test set, with the weights that they have."""
    return {
        each.name: sum(
            inputs.evaluated(run) is not None and not inputs.otherwise(run) for run in study.runs()
        )
        for each in study.evaluate.external
        for inputs in [Inputs(study.on(each.name))]
    }


def disk_use(study: Study) -> dict[str, int]:
    """Bytes of each of PARTS that is there. A file that has two names counts once."""
    found: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    for part in PARTS:
        for folder, _, names in os.walk(study.folder / part):
            for name in names:
                try:
                    file = Path(folder, name).stat()
                except OSError:
                    continue  # a training replaces its files meanwhile
                if (file.st_dev, file.st_ino) not in seen:
                    seen.add((file.st_dev, file.st_ino))
                    found[part] = found.get(part, 0) + file.st_size
    return found


def table(study: Study, runs: Sequence[RunStatus]) -> str:
    """Variants by seeds, a row a variant and fold: in words where they fit WIDTH, else in signs;
    seeds that do not fit stand in another table below."""
    told = _lines(study, runs, study.seeds, _word)
    if max(map(len, told)) <= WIDTH:
        return "\n".join(told)
    fit = len(study.seeds)
    while fit > 1 and max(map(len, _lines(study, runs, study.seeds[:fit], _sign))) > WIDTH:
        fit -= 1
    blocks = [
        "\n".join(_lines(study, runs, study.seeds[start : start + fit], _sign))
        for start in range(0, len(study.seeds), fit)
    ]
    return "\n\n".join([*blocks, SIGNS])


SIGNS = (
    "3/10: in epoch 3 of 10. 3/10!: interrupted there. +eval: trained, not evaluated yet.\n"
    "eval: being evaluated. -: waiting."
)


def _lines(
    study: Study,
    runs: Sequence[RunStatus],
    seeds: Sequence[int],
    write: Callable[[RunStatus], str],
) -> list[str]:
    cells = {found.run: write(found) for found in runs}
    several = len(study.folds) > 1
    rows = [["seed", *map(str, seeds)]]
    for variant in study.variants:
        for fold in study.folds:
            label = f"{variant}, fold {fold}" if several else variant
            rows.append([label, *(cells[Run(variant, seed, fold)] for seed in seeds)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _word(found: RunStatus) -> str:
    if found.state == "running":
        return progress(found)
    if found.state == "interrupted" and found.epoch is not None:
        return f"interrupted in epoch {found.epoch}"
    return found.state


def _sign(found: RunStatus) -> str:
    at = "" if found.epoch is None else f"{found.epoch}/{found.epochs}"
    if found.state == "running":
        return at or "start"
    if found.state == "interrupted":
        return f"{at}!"
    signs = {"evaluating": "eval", "trained": "+eval", "failed": "fail", "waiting": "-"}
    return signs.get(found.state, found.state)


def progress(found: RunStatus) -> str:
    """`epoch 3 of 10, 41.2 images/s`"""
    if found.epoch is None:
        return "starting"
    told = f"epoch {found.epoch} of {found.epochs}"
    if found.images_per_second is None:
        return told
    return f"{told}, {found.images_per_second:.1f} images/s"


def counts(runs: Sequence[RunStatus]) -> dict[str, int]:
    """How many runs are in each state, in the order of State, without those in none."""
    found = Counter(run.state for run in runs)
    return {state: found[state] for state in get_args(State) if found[state]}

"""run.json, evaluation.json and metrics.json: what those who read them rely on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, field_validator

from pipeline.study.errors import UserError, first_fault
from pipeline.study.files import read_json

# How the names of columns and metrics end that are shares; those of counts, and whole names.
SHARES = ("dice", "iou", "jaccard", "sensitivity", "specificity", "brier", "_error", "threshold")
COUNTS = ("_positives", "_negatives", "epoch", "fold", "height", "width")
MOST, MOST_COUNTED = 3.4e38, 1e15  # what 32 bits hold of a loss or distance; far above any count
STRICT = ConfigDict(strict=True, allow_inf_nan=False)

Amount = Annotated[float, Field(ge=0, le=1e18)] | None
Seconds = Annotated[float, Field(ge=0, le=1e12)] | None
Number = Annotated[int, Field(ge=0, lt=2**63)] | None


def range_of(name: str) -> tuple[float, float]:
    """The least and the largest value that a metric, or a column of numbers, can have."""
    if name.endswith(SHARES):
        return 0.0, 1.0
    if is_count(name):
        return 1.0 if name in ("height", "width") else 0.0, MOST_COUNTED
    return 0.0, MOST


def is_count(name: str) -> bool:
    """Whether a column has a whole number in every row."""
    return name.endswith(COUNTS)


class _Made(BaseModel):
    """What a training or an evaluation was made of. A key may be missing: earlier versions wrote
    fewer."""

    model_config = STRICT

    variant: str | None = None
    seed: Number = None
    fold: Number = None
    weights_sha256: str | None = None
    sources: dict[str, str] = {}
    data_fingerprint: str = ""
    params: dict[str, dict[str, Any]] = {}


class _Run(_Made):
    """run.json: also what it ran on and what it cost."""

    study: str | None = None
    encoder_weights_sha256: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    device: str | None = None
    precision: str | None = None
    platform: str | None = None
    python: str | None = None
    versions: dict[str, str | None] = {}
    threads: Number = None
    started: Seconds = None
    wall_seconds: Seconds = None
    seconds_per_epoch: Seconds = None
    epochs_trained: Number = None
    selected_epoch: Number = None
    parameters: Amount = None
    gflops: Amount = None
    images_per_second: Amount = None
    validation_images_per_second: Amount = None
    peak_memory_bytes: Amount = None


class _Metrics(RootModel[dict[str, float | None]]):
    model_config = STRICT

    @field_validator("root")
    @classmethod
    def _possible(cls, metrics: dict[str, float | None]) -> dict[str, float | None]:
        for name, value in metrics.items():
            low, high = range_of(name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be from {low:g} to {high:g}")
        return metrics


def read_run(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """run.json. Raises UserError for a file that is missing, no JSON object, has a value of another
    type or range than it can have, or lacks one that is `needed`."""
    record = _checked(_Run, path, "train")
    missing = [name for name in needed if record.get(name) is None]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} is missing; run the stage train again")
    return record


def read_evaluation(path: Path, stage: str = "evaluate") -> dict[str, Any]:
    """evaluation.json, likewise; stage: that writes it."""
    return _checked(_Made, path, stage)


def read_metrics(path: Path, stage: str = "evaluate") -> dict[str, float | None]:
    """evaluation/metrics.json, likewise: null where a metric has no value."""
    return _checked(_Metrics, path, stage)


def _checked(form: type[BaseModel], path: Path, stage: str) -> dict[str, Any]:
    content = read_json(path, stage)
    try:
        form.model_validate(content)
    except ValidationError as invalid:
        raise UserError(f"{path}: {first_fault(invalid)}; run the stage {stage} again") from None
    return content

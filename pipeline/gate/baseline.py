"""What the gate compares: each variant's figures over its seeds, and the file that keeps them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from pipeline.statistics.results import SCHEMA_VERSION as RESULTS_VERSION
from pipeline.statistics.results import Record, StudyRecord
from pipeline.study.errors import UserError, first_fault
from pipeline.study.files import write_json
from pipeline.study.run_files import range_of
from pipeline.study.values import HEADLINES

SCHEMA_VERSION: Literal[1] = 1
ON = " on "  # in a metric's name: before an external test set's
# Blocks of params.yaml that decide a study's figures, beside its seeds.
DECISIVE = ("data", "prepare", "train", "focal", "evaluate", "models")


def plain(metric: str) -> str:
    """The metric's name without the test set's: `dice` of `dice on ham10000`."""
    return metric.partition(ON)[0]


class Spread(Record):
    """A variant's metric over its seeds."""

    mean: float | None = Field(description="null where a run has no finite value")
    standard_deviation: float | None = Field(description="n - 1; null for one seed, and so too")
    seeds: int = Field(ge=1, description="runs")


class RunFigures(Record):
    """A run's metrics; null where it has no finite value, or one that cannot be."""

    variant: str
    seed: int
    metrics: dict[str, float | None]

    @field_validator("metrics")
    @classmethod
    def _possible(cls, metrics: dict[str, float | None]) -> dict[str, float | None]:
        return {name: _possible(name, value) for name, value in metrics.items()}


def _possible(name: str, value: float | None) -> float | None:
    low, high = range_of(plain(name))
    return value if value is not None and low <= value <= high else None


class Baseline(Record):
    """A study's figures, to be compared with those of later code: studies/<name>/baseline.json."""

    schema_version: Literal[1]
    study: StudyRecord
    params: dict[str, Any] = Field(description="those that decide the figures (DECISIVE)")
    spreads: dict[str, dict[str, Spread]] = Field(description="variant -> metric of `gated`")
    runs: list[RunFigures]

    @model_validator(mode="after")
    def _spreads_are_the_runs(self) -> Baseline:
        told, found = _flat(self.spreads), _flat(spreads_of(self.runs))
        if told.keys() != found.keys() or not all(_equal(told[key], found[key]) for key in told):
            raise ValueError("spreads must be those of runs: write it with --update-baseline")
        return self

    def miscounted(self) -> list[tuple[str, int]]:
        """Variants and seeds of the study that do not have exactly one run."""
        counted = Counter((run.variant, run.seed) for run in self.runs)
        asked = {(name, seed) for name in self.study.variants for seed in self.study.seeds}
        return sorted(run for run in asked | counted.keys() if counted[run] != (run in asked))

    def missing(self) -> list[str]:
        """What a run lacks or has no finite value for, in words."""
        return [
            f"{metric} of {variant!r}"
            for variant, metrics in self.spreads.items()
            for metric, found in metrics.items()
            if found.mean is None
        ]


def _equal(told: float | None, found: float | None) -> bool:
    if told is None or found is None:
        return told is found
    return math.isclose(told, found, abs_tol=1e-9)


def _flat(spreads: dict[str, dict[str, Spread]]) -> dict[tuple[str, str, str], Any]:
    return {
        (variant, metric, name): value
        for variant, metrics in spreads.items()
        for metric, spread in metrics.items()
        for name, value in spread
    }


def gated(runs: Sequence[RunFigures]) -> list[str]:
    """The metrics that are compared: the headlines, and the first of them on each external test
    set that runs were scored on."""
    others = {name for run in runs for name in run.metrics if ON in name}
    return [*HEADLINES, *sorted(others)]


def spreads_of(runs: Sequence[RunFigures]) -> dict[str, dict[str, Spread]]:
    """Variant -> metric of `gated` -> its mean and deviation over the runs, in the runs' order."""
    values: dict[str, dict[str, list[float | None]]] = {}
    metrics = gated(runs)
    for run in runs:
        for metric in metrics:
            found = values.setdefault(run.variant, {}).setdefault(metric, [])
            found.append(run.metrics.get(metric))
    return {
        variant: {metric: spread_of(found) for metric, found in metrics.items()}
        for variant, metrics in values.items()
    }


def spread_of(values: Sequence[float | None]) -> Spread:
    """Of one metric's values, one a run."""
    finite = [value for value in values if value is not None]
    whole = len(finite) == len(values)
    return Spread(
        mean=fmean(finite) if whole else None,
        standard_deviation=stdev(finite) if whole and len(finite) > 1 else None,
        seeds=len(values),
    )


def baseline_of(
    study: StudyRecord, params: Mapping[str, Any], runs: Sequence[RunFigures]
) -> Baseline:
    """params: the study's params.yaml."""
    decisive = {name: params[name] for name in DECISIVE if name in params}
    if "evaluate" in decisive:  # other test sets are known by their cases, which `study` has
        evaluate = params["evaluate"].items()
        decisive["evaluate"] = {key: value for key, value in evaluate if key != "external"}
    if "models" in decisive:
        decisive["models"] = {name: params["models"].get(name) for name in study.variants}
    return Baseline(
        schema_version=SCHEMA_VERSION,
        study=study,
        params=decisive,
        spreads=spreads_of(runs),
        runs=list(runs),
    )


def load_figures(path: Path) -> Baseline:
    """A baseline file, or the same figures of a whole results.json.

    Of results.json only the study and the runs are read. NaN and infinity, which JSON does not
    have and some writers write, are read as missing values. Raises UserError for a file that is
    missing, no JSON or of another schema.
    """
    try:
        content = read_finite(path)
        if "comparison" not in content:
            return Baseline.model_validate(content)
        if partial := content.get("partial"):
            raise UserError(
                f"{path} is of a part of a study, {partial['runs']} of {partial['of']} runs: "
                "finish the study, then compare its reports/results.json"
            )
        version = content.get("schema_version")
        if type(version) is not int or version != RESULTS_VERSION:  # True equals 1
            raise UserError(
                f"{path}: schema_version must be {RESULTS_VERSION}, got {version!r}; run the stage "
                "compare again"
            )
        runs = [{key: run[key] for key in RunFigures.model_fields} for run in content["runs"]]
        for other in content.get("external", []):
            scored = {(run["variant"], run["seed"]): run["metrics"] for run in other["runs"]}
            metric = HEADLINES[0]
            for run in runs:
                found = scored.get((run["variant"], run["seed"]), {}).get(metric)
                run["metrics"] |= {f"{metric}{ON}{other['name']}": found}
        return baseline_of(
            StudyRecord.model_validate(content["study"]),
            content["params"],
            [RunFigures(**run) for run in runs],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not of the schema of results.json: {error!r}") from None
    except ValidationError as invalid:
        raise UserError(
            f"{path}: {first_fault(invalid)}; it must be results.json, or a file that "
            "--update-baseline wrote"
        ) from None


def read_finite(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, null for each number that is not finite. Raises UserError."""

    try:
        content = _finite(from_json(path.read_bytes()))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_baseline(path: Path, figures: Baseline) -> None:
    """Write `figures`, indented so that a change of them reads well as a difference of lines."""
    write_json(path, figures.model_dump(mode="json"))

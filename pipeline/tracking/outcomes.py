"""Which runs failed, as reports/results.json has it: tags of the runs' records."""

from __future__ import annotations

from math import isclose
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.run_files import read_metrics

FAILED, BELOW_QUARTILE = "failed", "below_quartile"
TAGS = (FAILED, BELOW_QUARTILE)


class _Variant(BaseModel):
    variant: str
    failed: list[int]
    rate: float | None
    upper_quartile: float | None


class _Run(BaseModel):
    variant: str
    seed: int
    metrics: dict[str, float | None]


class _Comparison(BaseModel):
    metric: str


class _Results(BaseModel):
    """The part of results.json that is needed; the rest is passed over."""

    partial: Any = None
    params: dict[str, Any]
    comparison: _Comparison
    failures: list[_Variant]
    runs: list[_Run]


def outcomes(study: Study) -> dict[tuple[str, int], dict[str, str]]:
    """(variant, seed) -> TAGS: whether the run failed, and how far below its variant's upper
    quartile it lies, in the primary metric; negative above.

    Empty without results of these params and of the whole study. A run is left out that was
    evaluated anew since, has no figure, or is of too few to be called failed.
    """
    try:
        results = _Results.model_validate_json(study.results_file.read_bytes())
    except (OSError, ValidationError):
        return {}
    if results.partial is not None or results.params != study.model_dump(mode="json"):
        return {}
    variants = {found.variant: found for found in results.failures}
    metric = results.comparison.metric
    tags = {}
    for run in results.runs:
        value, own = run.metrics.get(metric), variants.get(run.variant)
        if value is None or own is None or own.rate is None or own.upper_quartile is None:
            continue
        if _is_still(study, run, metric, value):
            below = round(own.upper_quartile - value, 4) + 0.0  # no -0.0
            failed = "true" if run.seed in own.failed else "false"
            tags[run.variant, run.seed] = {FAILED: failed, BELOW_QUARTILE: f"{below:.4f}"}
    return tags


def _is_still(study: Study, run: _Run, metric: str, value: float) -> bool:
    """Whether the run folders' metric, over the cases of all folds, is that of the results."""
    total = cases = 0.0
    for fold in study.folds:
        folder = study.evaluation_dir(run.variant, run.seed, fold)
        try:
            found = read_metrics(folder / "metrics.json")
        except UserError:
            return False
        number, own = found.get("cases") or 1.0, found.get(metric)
        if own is None:
            return False
        total, cases = total + number * own, cases + number
    return isclose(total / cases, value, abs_tol=1e-6)

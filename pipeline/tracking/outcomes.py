"""What reports/results.json says, for MLflow: of each run whether it failed, of the study its
figures and its verdict."""

from __future__ import annotations

from math import isclose
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.run_files import read_metrics
from pipeline.study.values import HEADLINES, escape_markdown

FAILED, BELOW_QUARTILE = "failed", "below_quartile"
TAGS = (FAILED, BELOW_QUARTILE)
LONGEST = 8000  # characters of a tag in MLflow, which cuts it there


class _Variant(BaseModel):
    variant: str
    failed: list[int]
    rate: float | None
    upper_quartile: float | None


class _Run(BaseModel):
    variant: str
    seed: int
    metrics: dict[str, float | None]


class _Estimate(BaseModel):
    variant: str
    metric: str
    mean: float | None
    standard_deviation: float | None
    typical: float | None


class _Comparison(BaseModel):
    metric: str


class _External(BaseModel):
    name: str
    estimates: list[_Estimate]


class _Results(BaseModel):
    """The part of results.json that is needed; the rest is passed over."""

    partial: Any = None
    params: dict[str, Any]
    answer: str
    verdict: list[str]
    comparison: _Comparison
    estimates: list[_Estimate]
    failures: list[_Variant]
    runs: list[_Run]
    external: list[_External] = []


class Summary(NamedTuple):
    """What the study's own run tells. figures: the metrics' names and values, such as
    `dice/mean/unet`, which MLflow shows below `dice/mean`, and `dice_ham10000/mean/unet` on an
    external test set. description: Markdown."""

    figures: dict[str, float]
    description: str


def summary(study: Study) -> Summary:
    """Of each variant and test set the headline metrics, how many runs failed, and the verdict;
    both empty where `outcomes` knows of nothing."""
    results = _results(study)
    if results is None:
        return Summary({}, "")
    sets = {"": results.estimates} | {f"_{e.name}": e.estimates for e in results.external}
    figures: dict[str, float | None] = {
        f"{metric}{of}/{name}/{found.variant}": getattr(found, name)
        for of, estimates in sets.items()
        for metric in HEADLINES
        for name in ("typical", "mean", "standard_deviation")
        for found in estimates
        if found.metric == metric
    }
    for rate in results.failures:
        figures[f"failed_runs/{rate.variant}"] = None if rate.rate is None else len(rate.failed)
    known = {name: value for name, value in figures.items() if value is not None}
    return Summary(known, _description(results))


def _description(results: _Results) -> str:
    """The answer and the verdict, as many sentences as there is room for."""
    end = "\n\nThe page with all figures is `reports/index.html`, under *Artifacts*."
    text = f"**{escape_markdown(results.answer)}**\n"
    for sentence in results.verdict:
        line = f"\n- {escape_markdown(sentence)}"
        if len(text + line + end) > LONGEST:
            break
        text += line
    return (text + end).strip()


def _results(study: Study) -> _Results | None:
    """The study's results; None without any of these params and of the whole study."""
    try:
        results = _Results.model_validate_json(study.results_file.read_bytes())
    except (OSError, ValidationError):
        return None
    current = results.partial is None and results.params == study.model_dump(mode="json")
    return results if current else None


def outcomes(study: Study) -> dict[tuple[str, int], dict[str, str]]:
    """(variant, seed) -> TAGS: whether the run failed, and how far below its variant's upper
    quartile it lies, in the primary metric; negative above.

    Empty without results of these params and of the whole study. A run is left out that was
    evaluated anew since, has no figure, or is of too few to be called failed.
    """
    results = _results(study)
    if results is None:
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

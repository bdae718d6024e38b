"""--paper and --means: a YAML file with the blocks that a study's params.yaml has for its paper."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.study.blocks import Block
from pipeline.study.documents import read_yaml
from pipeline.study.errors import UserError
from pipeline.study.paper import Factors, Paper, check_crossed
from pipeline.study.reading import mistakes
from pipeline.study.values import NotNegative, Share


class Spreads(Block):
    """How far a metric spreads, in its units; null is not known. `cases`: a method's standard
    deviation over cases. `correlation`: of two methods over cases. `runs`: the standard deviation
    of a run's mean over seeds."""

    cases: NotNegative | None = None
    correlation: Share | None = None
    runs: NotNegative | None = None


class PaperFile(BaseModel):
    """`paper` and `factors` as in params.yaml, which may be that file itself: other keys are a
    study's. `spreads`: what the paper, or another source, says of how far its metric spreads."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")

    paper: Paper
    factors: Factors = Field(default_factory=dict)
    spreads: Spreads = Field(default_factory=Spreads)

    @field_validator("factors")
    @classmethod
    def _are_crossed(cls, factors: dict[str, list[str]]) -> dict[str, list[str]]:
        check_crossed(factors)
        return factors


def read_paper(path: Path) -> PaperFile:
    """Raises UserError for a file that is missing, no YAML, or has mistakes in these blocks."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: name a YAML file with a block paper, as params.yaml has it"
        ) from None
    if isinstance(content, dict) and content.get("paper", ...) is None:
        raise UserError(f"{path}: paper is null: there is nothing to hold the table against")
    unknown = set(content) - {"paper", "factors", "spreads"} if isinstance(content, dict) else set()
    if unknown and "models" not in content:  # that a study's params.yaml has
        raise UserError(
            f"{path}: {sorted(unknown)[0]} is an unknown key; remove it or correct its spelling"
        )
    try:
        return PaperFile.model_validate_json(json.dumps(content))
    except ValidationError as invalid:
        raise mistakes(path, invalid) from None

"""The paper of the root study, whole or of the variants that a test has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.study.paper import Paper

_ROOT = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
PAPER = Paper.model_validate(_ROOT["paper"])
FACTORS: dict[str, list[str]] = _ROOT["factors"]


def printing(metric: str = "dice", runs: int | None = 1, **figures: str) -> Paper:
    """A paper that prints those figures of one metric: variant -> as printed."""
    rows = {name: {"label": f"row {name}", "figures": {metric: f}} for name, f in figures.items()}
    return Paper.model_validate({"title": "T", "reference": "R", "runs": runs, "rows": rows})


def keep_paper_of(params: dict[str, Any]) -> None:
    """Take out of a params.yaml what its paper and its factors say of networks that it has not."""
    names = set(params["models"])
    paper = params["paper"]
    if paper is not None:
        paper["rows"] = {name: row for name, row in paper["rows"].items() if name in names}
        orders = [[n for n in c.split(" > ") if n in names] for c in paper.get("claims", [])]
        paper["claims"] = [" > ".join(order) for order in orders if len(order) > 1]
    if not set(params["factors"]) <= names:
        params["factors"] = {}

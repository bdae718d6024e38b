"""What MLflow shows of a study: its description, saved views of its runs, and their addresses."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from pipeline.study.params import Study
from pipeline.study.values import HEADLINES, expect, quantity

NOTE = "mlflow.note.content"  # the tag that MLflow shows as a description, in Markdown
_SAVED = "mlflow.sharedViewState."  # and those that it lists under Views
# MLflow's pages begin with what it has for language models, unless the address says so.
_KIND = "workflowType=machine_learning"
Port = Annotated[int, Field(ge=1, le=65535), expect("a whole number from 1 to 65535")]


def experiment_tags(study: Study) -> dict[str, str]:
    """The experiment's description and its views, as MLflow's pages read them."""
    variants, seeds = quantity(len(study.variants), "variant"), quantity(len(study.seeds), "seed")
    folds = f" and {quantity(len(study.folds), 'fold')}" if len(study.folds) > 1 else ""
    return {
        NOTE: f"{variants} of a network, each trained with {seeds}{folds}: a run is one training, "
        "scored on the test cases. The run *verdict and report* says what they show together.",
        f"{_SAVED}runs": _view("Runs, best first", 2),
        f"{_SAVED}variants": _view("Variants, means over runs", 1, group="variant"),
    }


def _view(name: str, place: int, group: str | None = None) -> str:
    """A view of all runs by their Dice. place: the highest is listed first."""
    metrics = [f"metrics.`test/{metric}`" for metric in HEADLINES]
    state: dict[str, Any] = {
        "searchFilter": "tags.role = 'run'",
        "orderByKey": metrics[0],
        "orderByAsc": False,
        "selectedColumns": [*metrics, "tags.`failed`"],
    }
    if group is not None:
        keys = [{"mode": "tag", "groupByData": group}]
        state["groupBy"] = {"aggregateFunction": "average", "groupByKeys": keys}
    saved = {"name": name, "createdAt": place, "updatedAt": place, "state": json.dumps(state)}
    return json.dumps(saved)


def addresses(server: str, experiment_id: str, parent_id: str | None) -> dict[str, str]:
    """Of the study's pages at `server`, by what they show."""
    runs = f"{server}/#/experiments/{experiment_id}/runs"
    found = {"verdict": f"{runs}/{parent_id}?{_KIND}"} if parent_id is not None else {}
    return found | {
        view: f"{runs}?viewStateShareKey={view}&{_KIND}" for view in ("runs", "variants")
    }

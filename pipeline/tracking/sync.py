"""The store made to say what the study's run folders say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.prepared import PreparedCases
from pipeline.study.columns import read_table
from pipeline.study.files import sha256
from pipeline.study.params import Study
from pipeline.study.records import read_run
from pipeline.tracking.store import NEEDED, StudyRecord, content, hush, run_of

if TYPE_CHECKING:
    from mlflow.entities import Run as Recorded


def _same_training(recorded: Recorded, run_dir: Path, record: dict[str, Any]) -> bool:
    """Whether `recorded` holds the training that run.json tells of. Equal weights would not do:
    with another focal gamma the weights are the same, the params and the curves are not."""
    if "training" in recorded.data.tags:
        return bool(recorded.data.tags["training"] == sha256(run_dir / "run.json"))
    return bool(recorded.info.run_id == record.get("mlflow_run_id"))


def sync(study: Study) -> tuple[int, int]:
    """Make the store say what the study's run folders say.

    Returns how many runs were recorded and how many already stood there.
    """
    hush()
    cases = PreparedCases.open(study.prepared_dir)
    store = StudyRecord.open(study)
    recorded = unchanged = 0
    for run in study.runs():
        run_dir = study.run_dir(*run)
        if not (run_dir / "run.json").is_file():
            continue
        record = read_run(run_dir / "run.json", NEEDED)
        found = store.find(run)
        if [recorded.data.tags.get("content") for recorded in found] == [content(run_dir, record)]:
            unchanged += 1
            continue
        if len(found) == 1 and _same_training(found[0], run_dir, record):
            run_id = found[0].info.run_id  # trained live, or only evaluated anew: add to it
        else:
            store.discard(found)
            run_id = store.create(run, record, cases.table)
            for row in read_table(run_dir / "history.csv", "train", ["epoch"]).to_dict("records"):
                store.log_epoch(run_id, int(row["epoch"]), {str(key): row[key] for key in row})
        store.complete(run_id, run, record)
        recorded += 1
    _forget_others(store)
    store.client.log_artifact(store.parent_id, str(study.folder / "params.yaml"))
    if study.reports_dir.is_dir():
        _log_reports(store, study)
    return recorded, unchanged


def _log_reports(store: StudyRecord, study: Study) -> None:
    """All but the exported networks, hundreds of MB (each run's own is in the store), and what was
    made before all runs were done."""
    for path in sorted(study.reports_dir.iterdir()):
        if path in (study.exported_dir, study.partial_dir):
            continue
        if path.is_dir():
            store.client.log_artifacts(store.parent_id, str(path), f"reports/{path.name}")
        else:
            store.client.log_artifact(store.parent_id, str(path), "reports")


def _forget_others(store: StudyRecord) -> None:
    """Discard the records of runs that the study no longer has."""
    wanted = set(store.study.runs())
    runs = store.client.search_runs([store.experiment_id], "tags.role = 'run'", max_results=50000)
    store.discard([recorded for recorded in runs if run_of(recorded) not in wanted])

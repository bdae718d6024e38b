"""The store made to say what the study's run folders say."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.prepared import PreparedCases
from pipeline.study.columns import read_table
from pipeline.study.files import sha256
from pipeline.study.params import Run, Study
from pipeline.study.run_files import read_run
from pipeline.tracking.outcomes import TAGS, Summary, outcomes, summary
from pipeline.tracking.store import (
    NEEDED,
    StudyRecord,
    content,
    external_files,
    hush,
    is_current,
    run_of,
    small_files,
)
from pipeline.tracking.thumbnails import draw_thumbnails, thumbnail_files
from pipeline.tracking.views import NOTE

if TYPE_CHECKING:
    from mlflow.entities import Run as Recorded

PICTURES = "cases"  # the folder of a record that has them


def _same_training(recorded: Recorded, run_dir: Path, record: dict[str, Any]) -> bool:
    """Whether `recorded` holds the training that run.json tells of. Equal weights would not do:
    with another focal gamma the weights are the same, the params and the curves are not."""
    if "training" in recorded.data.tags:
        return bool(recorded.data.tags["training"] == sha256(run_dir / "run.json"))
    return bool(recorded.info.run_id == record.get("mlflow_run_id"))


def sync(study: Study) -> tuple[int, int]:
    """Make the store say what the study's run folders say, and its results of which runs failed.

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
        current = len(found) == 1 and is_current(found[0])
        if current and found[0].data.tags.get("content") == content(study, run, record):
            unchanged += 1
            continue
        if (
            current
            and _same_training(found[0], run_dir, record)
            and not _has_other_files(store, found[0], run)
        ):
            run_id = found[0].info.run_id  # trained live, or only evaluated anew: add to it
        else:
            store.discard(found)
            run_id = store.create(run, record, cases.table)
            for row in read_table(run_dir / "history.csv", "train", ["epoch"]).to_dict("records"):
                store.log_epoch(run_id, int(row["epoch"]), {str(key): row[key] for key in row})
        with tempfile.TemporaryDirectory() as pictures:
            draw_thumbnails(study, run, Path(pictures))
            store.client.log_artifacts(run_id, pictures, PICTURES)
        store.complete(run_id, run, record)
        recorded += 1
    _level_study(store)
    return recorded, unchanged


def _has_other_files(store: StudyRecord, recorded: Recorded, run: Run) -> bool:
    """Whether the record holds a file that the run folder does not have any more, or figures of an
    external test set that the run is not scored on."""
    run_dir = store.study.run_dir(*run)
    own = {path.relative_to(run_dir).as_posix() for path in small_files(run_dir)}
    own |= {f"{PICTURES}/{name}" for name in thumbnail_files(store.study, run)}
    sections = {name.partition("/")[0] for name in recorded.data.metrics}
    sets = {section for section in sections if section.startswith("test_")} - {"test_more"}
    gone = sets - {f"test_{name}" for name in external_files(store.study, run)}
    return bool(gone) or not store.files(recorded.info.run_id) <= own


def _level_study(store: StudyRecord) -> None:
    """Make the study's own run hold its params, reports, figures and verdict, and have its runs
    alone below it, each with the tags that the results give it."""
    store = _level_parent(store, _study_files(store.study), summary(store.study))
    wanted, known = set(store.study.runs()), outcomes(store.study)
    for recorded in store.search("run"):
        run = run_of(recorded)
        if run not in wanted:
            store.discard([recorded])
            continue
        if recorded.data.tags["mlflow.parentRunId"] != store.parent_id:
            store.client.set_tag(recorded.info.run_id, "mlflow.parentRunId", store.parent_id)
        # One without content is not complete: results know nothing of it.
        complete = "content" in recorded.data.tags
        _level_tags(store, recorded, known.get(run[:2], {}) if complete else {})
    store.discard([run for run in store.search("study") if run.info.run_id != store.parent_id])


def _level_parent(store: StudyRecord, files: dict[str, Path], told: Summary) -> StudyRecord:
    """Level the study's own run; with a new one where the old holds a file or a figure too many."""
    from mlflow.entities import Metric, RunTag

    hashes = [f"{path} {sha256(file)}" for path, file in files.items()]
    content = hashlib.sha256("\n".join([*hashes, repr(told)]).encode()).hexdigest()
    parent = store.client.get_run(store.parent_id)
    current = is_current(parent)
    if current and parent.data.tags.get("content") == content:
        return store
    figures, too_many = parent.data.metrics, parent.data.metrics.keys() - told.figures.keys()
    if not current or too_many or not store.files(store.parent_id) <= files.keys():
        store, figures = store.with_new_parent(), {}
    for path, file in files.items():
        folder = path.rpartition("/")[0]
        store.client.log_artifact(store.parent_id, str(file), folder or None)
    now = round(time.time() * 1000)
    metrics = [
        Metric(name, value, now, 0)
        for name, value in told.figures.items()
        if figures.get(name) != value
    ]
    tags = [RunTag(NOTE, told.description), RunTag("content", content)]
    store.client.log_batch(store.parent_id, metrics, tags=tags)
    return store


def _level_tags(store: StudyRecord, recorded: Recorded, wanted: dict[str, str]) -> None:
    """Make a record have those of TAGS that are wanted, and no other; written where they differ."""
    tags = recorded.data.tags
    for name in TAGS:
        if name in wanted and tags.get(name) != wanted[name]:
            store.client.set_tag(recorded.info.run_id, name, wanted[name])
        elif name in tags and name not in wanted:
            store.client.delete_tag(recorded.info.run_id, name)


def _study_files(study: Study) -> dict[str, Path]:
    """By their paths in the store params.yaml and the reports: all but the exported networks,
    hundreds of MB (each run's own is in the store), the averages of variants that the study does
    not have any more, and what was made before all runs were done."""
    averaged = set(map(study.averaged_file, study.variants))
    reports = [
        path
        for path in sorted(study.reports_dir.rglob("*"))
        if path.is_file() and not {study.exported_dir, study.partial_dir} & set(path.parents)
        if path.parent != study.averaged_dir or path in averaged
    ]
    named = {f"reports/{path.relative_to(study.reports_dir).as_posix()}": path for path in reports}
    return {"params.yaml": study.folder / "params.yaml"} | named

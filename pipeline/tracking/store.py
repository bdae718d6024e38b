"""The store that MLflow's runs are recorded in: one experiment a study, in it a parent run for the
study and under it one run for each of the study's."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.study.errors import warn
from pipeline.study.files import sha256
from pipeline.study.params import Run, Study, original
from pipeline.study.run_files import read_metrics
from pipeline.study.values import HEADLINES
from pipeline.tracking.connection import (
    artifact_location,
    database,
    faults_told,
    home,
    locked,
    open_store,
)
from pipeline.tracking.logged_model import log_model
from pipeline.tracking.views import experiment_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities import Run as Recorded

# Of names and files in a record: one of another layout is made anew. Count it up with them.
LAYOUT = "2"
COST = "training_cost"
NEEDED = (  # of run.json
    *("started", "wall_seconds", "peak_memory_bytes", "parameters"),
    *("epochs_trained", "selected_epoch", "params", "weights_sha256", "data_fingerprint"),
)


def _name(study: Study) -> str:
    """The study's, also for what `dvc exp run` makes of it in its folder. An experiment that runs
    in a copy has a name of its own: it may run beside others."""
    project = original(study.folder)
    if project == study.folder:
        return study.name
    # .dvc/tmp/exps/<name>, or .dvc/tmp/exps/standalone/<name>
    below = study.folder.resolve().relative_to(project.resolve()).parts[3:]
    copy = next(part for part in below if part != "standalone")
    return f"{study.name}: {os.environ.get('DVC_EXP_NAME') or copy}"


def _folder(study: Study) -> str:
    """Where the study lies, which tells it from others of its name: seen from its sources, so that
    it is the same in every clone; of a study that lies elsewhere the whole path."""
    folder, sources = study.folder.resolve(), (study.folder / study.code).resolve()
    if folder.is_relative_to(sources):
        return folder.relative_to(sources).as_posix()
    return original(study.folder).resolve().as_posix()


def _experiment(client: MlflowClient, study: Study) -> Experiment:
    """The study's experiment, which is made where there is none.

    It has the study's name. Where another folder's study has it, the folder is added: neither
    takes the other's runs for its own. A study that was moved keeps its experiment, where that can
    be seen: in this project's own mlflow.db. Elsewhere the other folder may be another clone's.
    """
    name, folder = _name(study), _folder(study)
    experiment = _experiment_named(client, name)
    owner = experiment.tags.get("folder", folder)  # those from before had no such tag
    own = database() == home().resolve() / "mlflow.db"
    if owner != folder and (not own or (home() / owner / "params.yaml").is_file()):
        name = f"{name}: {folder}"
        warn(
            f"MLflow knows the study in {owner} by the name {study.name}: this one, in {folder}, "
            f"is {name!r} there; to change that, give one of them another name"
        )
        experiment = _experiment_named(client, name)
    for key, value in ({"folder": folder} | experiment_tags(study)).items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return experiment


def _experiment_named(client: MlflowClient, name: str) -> Experiment:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name, _artifact_location())
        except MlflowException:  # another machine's process may have made it meanwhile
            if client.get_experiment_by_name(name) is None:
                raise
        experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment


def _parent(client: MlflowClient, experiment: Experiment) -> str:
    """The id of the study's run, which is made where there is none: the first, where processes on
    two machines made one each."""

    def first() -> str | None:
        oldest = ["attributes.start_time ASC"]
        found = client.search_runs(
            [experiment.experiment_id], "tags.role = 'study'", max_results=1, order_by=oldest
        )
        return found[0].info.run_id if found else None

    parent_id = first()
    if parent_id is None:
        own = _create_parent(client, experiment)
        parent_id = first() or own
        if parent_id != own:
            client.delete_run(own)
    return parent_id


def _create_parent(client: MlflowClient, experiment: Experiment) -> str:
    created: str = client.create_run(
        experiment.experiment_id,
        run_name="verdict and report",
        tags={"role": "study", "study": experiment.name, "layout": LAYOUT},
    ).info.run_id
    client.set_terminated(created)
    return created


@dataclass(frozen=True)
class StudyRecord:
    """A study's place in the store: its experiment and its parent run."""

    client: MlflowClient
    study: Study
    experiment: Experiment
    parent_id: str

    @classmethod
    def open(cls, study: Study) -> StudyRecord:
        client = open_store()
        with faults_told(), locked():
            experiment = _experiment(client, study)
            parent_id = _parent(client, experiment)
        return cls(client, study, experiment, parent_id)

    def with_new_parent(self) -> StudyRecord:
        """With an empty run for the study, beside that of before: MLflow cannot take files out of
        a run."""
        return replace(self, parent_id=_create_parent(self.client, self.experiment))

    def search(self, role: str) -> list[Recorded]:
        """All runs of that role, "run" or "study"."""
        found: list[Recorded] = self.client.search_runs(
            [self.experiment.experiment_id], f"tags.role = '{role}'", max_results=50000
        )
        return found

    def files(self, run_id: str) -> set[str]:
        """The paths of a run's files in the store."""
        found, folders = set(), [""]
        while folders:
            for entry in self.client.list_artifacts(run_id, folders.pop()):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    found.add(entry.path)
        return found

    def find(self, run: Run) -> list[Recorded]:
        """What is recorded of that run; more than one only after a crash."""
        chosen = (
            f"tags.role = 'run' and tags.variant = '{run.variant}' and tags.seed = '{run.seed}'"
        )
        found = self.client.search_runs([self.experiment.experiment_id], chosen)
        return [recorded for recorded in found if run_of(recorded) == run]

    def discard(self, runs: list[Recorded]) -> None:
        """Take runs, and the models logged with them, out of the store's view."""
        for run in runs:
            for model in run.outputs.model_outputs if run.outputs else []:
                self.client.delete_logged_model(model.model_id)
            self.client.delete_run(run.info.run_id)

    def create(self, run: Run, record: dict[str, Any], cases: pd.DataFrame) -> str:
        """A new run with its tags, params and data; returns its id. `record` is that of run.json,
        `cases` prepared/cases.csv."""
        from mlflow.data import from_pandas  # type: ignore[attr-defined]
        from mlflow.entities import DatasetInput, InputTag, Param

        run_id: str = self.client.create_run(
            self.experiment.experiment_id,
            start_time=_milliseconds(record["started"]),
            run_name=_run_name(self.study, run),
            tags={
                "mlflow.parentRunId": self.parent_id,
                "role": "run",
                "study": self.study.name,
                "variant": run.variant,
                "seed": str(run.seed),
                "fold": str(run.fold),
                "layout": LAYOUT,
                "git_commit": str(record.get("commit")),
                "git_dirty": str(record.get("dirty")),
                "data_fingerprint": record["data_fingerprint"],
            },
        ).info.run_id
        flat = (
            pd.json_normalize(record["params"] | {"seed": run.seed, "fold": run.fold})
            .iloc[0]
            .to_dict()
        )
        self.client.log_batch(run_id, params=[Param(str(key), str(flat[key])) for key in flat])
        dataset = from_pandas(
            cases,
            source=self.study.prepared_dir.resolve().as_uri(),
            name=f"{self.study.name}-prepared",
            digest=record["data_fingerprint"][:8],
        )
        entity = DatasetInput(
            dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")]
        )
        self.client.log_inputs(run_id, [entity])
        return run_id

    def log_epoch(self, run_id: str, epoch: int, row: dict[str, float]) -> None:
        """One batch for an epoch: the columns of history.csv."""
        from mlflow.entities import Metric

        now = _milliseconds(time.time())
        values = [
            Metric(_in_section(name), row[name], now, epoch) for name in row if name != "epoch"
        ]
        self.client.log_batch(run_id, metrics=values)

    def complete(self, run_id: str, run: Run, record: dict[str, Any]) -> None:
        """Add what is known when a run is done: test metrics, cost, artifacts, the model."""
        import mlflow
        from mlflow.entities import Metric

        now = _milliseconds(time.time())
        run_dir = self.study.run_dir(*run)
        final = {
            f"{COST}/peak_memory_megabytes": record["peak_memory_bytes"] / 1e6,
            f"{COST}/wall_seconds": record["wall_seconds"],
            f"{COST}/parameters": record["parameters"],
            "train/epochs_trained": record["epochs_trained"],
            "train/selected_epoch": record["selected_epoch"],
        }
        metrics_file = self.study.evaluation_dir(*run) / "metrics.json"
        if metrics_file.is_file():
            tested = read_metrics(metrics_file)
            final |= {
                f"{'test' if name in HEADLINES else 'test_more'}/{name}": value
                for name, value in tested.items()
                if value is not None
            }
        for name, file in external_files(self.study, run).items():
            scored = read_metrics(file, "evaluate_external")
            final |= {
                f"test_{name}/{metric}": value
                for metric in HEADLINES
                if (value := scored.get(metric)) is not None
            }
        self.client.log_batch(
            run_id, metrics=[Metric(name, value, now, 0) for name, value in final.items()]
        )
        for file in small_files(run_dir):
            folder = file.parent.relative_to(run_dir)
            self.client.log_artifact(run_id, str(file), None if folder == Path() else str(folder))
        training = sha256(run_dir / "run.json")
        if self.client.get_run(run_id).data.tags.get("training") != training:
            with mlflow.start_run(run_id=run_id):
                log_model(self.study, run.variant, run_dir / "weights.safetensors")
            self.client.set_tag(run_id, "training", training)
            ended = record["started"] + record["wall_seconds"]
            self.client.set_terminated(run_id, "FINISHED", _milliseconds(ended))
        # Last: a run without this tag is unfinished, whatever else it holds.
        self.client.set_tag(run_id, "content", content(self.study, run, record))


def run_of(recorded: Recorded) -> Run:
    tags = recorded.data.tags  # records from before there were folds have no such tag
    return Run(tags["variant"], int(tags["seed"]), int(tags.get("fold", 0)))


def is_current(recorded: Recorded) -> bool:
    """Whether a record has the names and files that one has today."""
    return bool(recorded.data.tags.get("layout") == LAYOUT)


def _run_name(study: Study, run: Run) -> str:
    fold = f" fold {run.fold}" if len(study.folds) > 1 else ""
    return f"{run.variant} {run.seed}{fold}"


def _in_section(column: str) -> str:
    """The metric of a column of history.csv. MLflow's charts have a section for what stands before
    the last slash, in the alphabet's order: test, test_more, train, training_cost, validation."""
    split, _, name = column.partition("_")
    if split in ("train", "validation"):
        return f"{split}/{name}"
    return f"train/{column}" if column.endswith("learning_rate") else f"{COST}/{column}"


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _artifact_location() -> str | None:
    """mlruns/ beside the store when that is a file; a server knows its own place."""
    file = database()
    return artifact_location(file) if file is not None else None


def small_files(run_dir: Path) -> list[Path]:
    """The run's files but the weights, which are logged once, inside the model."""
    files = sorted(path for path in run_dir.rglob("*") if path.is_file())
    return [path for path in files if path.suffix != ".safetensors" and path.name[0] != "."]


def external_files(study: Study, run: Run) -> dict[str, Path]:
    """metrics.json of a run on each external test set that it was scored on, by the set's name."""
    folders = {e.name: study.on(e.name).evaluation_dir(*run) for e in study.evaluate.external}
    files = {name: folder / "metrics.json" for name, folder in folders.items()}
    return {name: file for name, file in files.items() if file.is_file()}


def content(study: Study, run: Run, record: dict[str, Any]) -> str:
    """What a recorded run stands for: equal when, and only when, the run folder is, and the scores
    on external test sets."""
    run_dir = study.run_dir(*run)
    files = [f"{path.relative_to(run_dir)} {sha256(path)}" for path in small_files(run_dir)]
    files += [f"{name} {sha256(path)}" for name, path in external_files(study, run).items()]
    return hashlib.sha256("\n".join([record["weights_sha256"], *files]).encode()).hexdigest()


def hush() -> None:
    """Pass over MLflow's advice on data sources and examples (the signature is given), its progress
    bars, its line on each run of a server, and what it and its HTTP client say of each try to reach
    a lost server or to use a broken database: that is told once, in a line of ours. After its
    import, which puts a filter of its own first."""
    import mlflow.pyfunc

    assert mlflow.pyfunc  # imported for its filters
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in (
        "mlflow.store.db.utils",
        "mlflow.system_metrics.system_metrics_monitor",
        "urllib3.connectionpool",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)

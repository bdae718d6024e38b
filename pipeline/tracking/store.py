"""MLflow as a view of the run folders: `python -m pipeline.tracking sync` brings its store level.

One experiment a study; in it a parent run for the study and under it one run for each of the
study's. The run folders are the truth: what is recorded can be thrown away and synced again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock

from models import FAMILIES
from pipeline.engine.prepared import PreparedCases
from pipeline.study.errors import UserError, run_command, warn
from pipeline.study.files import sha256
from pipeline.study.params import Run, Study, load_study

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Recorded

ROOT = Path(__file__).resolve().parents[2]


def open_store() -> MlflowClient:
    """The store that MLFLOW_TRACKING_URI names, else mlflow.db at the project's root.

    Under a lock: processes that create one SQLite store at the same time spoil it.
    Raises UserError if it cannot be reached: two retries, which take seconds, where the library
    would try for minutes.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds; the library's is 120
    import mlflow

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{ROOT / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    try:
        client = mlflow.MlflowClient()
        with FileLock(ROOT / ".mlflow.lock"):
            client.search_experiments(max_results=1)
    except Exception as error:  # SQLAlchemy's, the disk's, a driver's that is missing
        raise UserError(
            f"MLflow's store at {uri} cannot be used: {str(error).splitlines()[0]}; start its "
            "server or correct MLFLOW_TRACKING_URI"
        ) from None
    return client


def _experiment(client: MlflowClient, name: str) -> str:
    """The id of the study's experiment, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            created: str = client.create_experiment(name, _artifact_location(client))
            return created
        except MlflowException:  # another machine's process may have made it meanwhile
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    found: str = experiment.experiment_id
    return found


def _parent(client: MlflowClient, name: str, experiment_id: str) -> str:
    """The id of the study's run, which is made where there is none: the first, where processes on
    two machines made one each."""

    def first() -> str | None:
        oldest = ["attributes.start_time ASC"]
        found = client.search_runs(
            [experiment_id], "tags.role = 'study'", max_results=1, order_by=oldest
        )
        return found[0].info.run_id if found else None

    parent_id = first()
    if parent_id is None:
        tags = {"role": "study", "study": name}
        own: str = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
        client.set_terminated(own)
        parent_id = first() or own
        if parent_id != own:
            client.delete_run(own)
    return parent_id


@dataclass(frozen=True)
class StudyRecord:
    """A study's place in the store: its experiment and its parent run."""

    client: MlflowClient
    study: Study
    experiment_id: str
    parent_id: str

    @classmethod
    def open(cls, study: Study) -> StudyRecord:
        client = open_store()
        with FileLock(ROOT / ".mlflow.lock"):  # among this machine's processes
            experiment_id = _experiment(client, study.name)
            parent_id = _parent(client, study.name, experiment_id)
        return cls(client, study, experiment_id, parent_id)

    def find(self, run: Run) -> list[Recorded]:
        """What is recorded of that run; more than one only after a crash."""
        chosen = (
            f"tags.role = 'run' and tags.variant = '{run.variant}' and tags.seed = '{run.seed}'"
        )
        found = self.client.search_runs([self.experiment_id], chosen)
        return [recorded for recorded in found if _run_of(recorded) == run]

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
            self.experiment_id,
            start_time=_milliseconds(record["started"]),
            run_name="-".join(map(str, run if len(self.study.folds) > 1 else run[:2])),
            tags={
                "mlflow.parentRunId": self.parent_id,
                "role": "run",
                "study": self.study.name,
                "variant": run.variant,
                "seed": str(run.seed),
                "fold": str(run.fold),
                "git_commit": str(record["commit"]),
                "git_dirty": str(record["dirty"]),
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
        values = [Metric(name, row[name], now, epoch) for name in row if name != "epoch"]
        self.client.log_batch(run_id, metrics=values)

    def complete(self, run_id: str, run: Run, record: dict[str, Any]) -> None:
        """Add what is known when a run is done: test metrics, cost, artifacts, the model."""
        import mlflow
        from mlflow.entities import Metric

        now = _milliseconds(time.time())
        run_dir = self.study.run_dir(*run)
        final = {
            "system/peak_memory_megabytes": record["peak_memory_bytes"] / 1e6,
            "system/wall_seconds": record["wall_seconds"],
            "parameters": record["parameters"],
            "epochs_trained": record["epochs_trained"],
            "selected_epoch": record["selected_epoch"],
        }
        metrics_file = self.study.evaluation_dir(*run) / "metrics.json"
        if metrics_file.is_file():
            tested = json.loads(metrics_file.read_text())
            final |= {f"test_{name}": value for name, value in tested.items()}
        self.client.log_batch(
            run_id, metrics=[Metric(name, value, now, 0) for name, value in final.items()]
        )
        for file in _small_files(run_dir):
            folder = file.parent.relative_to(run_dir)
            self.client.log_artifact(run_id, str(file), None if folder == Path() else str(folder))
        training = sha256(run_dir / "run.json")
        if self.client.get_run(run_id).data.tags.get("training") != training:
            with mlflow.start_run(run_id=run_id):
                _log_model(self.study, run.variant, run_dir / "weights.safetensors")
            self.client.set_tag(run_id, "training", training)
            ended = record["started"] + record["wall_seconds"]
            self.client.set_terminated(run_id, "FINISHED", _milliseconds(ended))
        # Last: a run without this tag is unfinished, whatever else it holds.
        self.client.set_tag(run_id, "content", _content(run_dir, record))


def _run_of(recorded: Recorded) -> Run:
    tags = recorded.data.tags  # records from before there were folds have no such tag
    return Run(tags["variant"], int(tags["seed"]), int(tags.get("fold", 0)))


def _same_training(recorded: Recorded, run_dir: Path, record: dict[str, Any]) -> bool:
    """Whether `recorded` holds the training that run.json tells of. Equal weights would not do:
    with another focal gamma the weights are the same, the params and the curves are not."""
    if "training" in recorded.data.tags:
        return bool(recorded.data.tags["training"] == sha256(run_dir / "run.json"))
    return bool(recorded.info.run_id == record.get("mlflow_run_id"))


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _artifact_location(client: MlflowClient) -> str | None:
    """mlruns/ beside the store when that is a file; a server knows its own place."""
    kind, _, file = client.tracking_uri.partition(":///")
    return (Path(file).resolve().parent / "mlruns").as_uri() if kind == "sqlite" else None


def _small_files(run_dir: Path) -> list[Path]:
    """The run's files but the weights, which are logged once, inside the model."""
    files = sorted(path for path in run_dir.rglob("*") if path.is_file())
    return [path for path in files if path.suffix != ".safetensors" and path.name[0] != "."]


def _content(run_dir: Path, record: dict[str, Any]) -> str:
    """What a recorded run stands for: equal when, and only when, the run folder is."""
    sums = [record["weights_sha256"], *(sha256(path) for path in _small_files(run_dir))]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _log_model(study: Study, variant: str, weights: Path) -> None:
    """Log the network so that mlflow.pyfunc.load_model(...).predict(images) gives probabilities.

    From code and safetensors: nothing is pickled.
    """
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    size = (study.prepare.height, study.prepare.width)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *size, 3))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *size))]),
    )
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.json"
        network.write_text(json.dumps(asdict(study.models[variant])))
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(ROOT / "pipeline" / "serving.py"),
            artifacts={"weights": str(weights.resolve()), "network": str(network)},
            code_paths=[str(ROOT / "models"), str(ROOT / "pipeline")],
            signature=signature,
            pip_requirements=_requirements(study.models[variant].family),
        )


def _requirements(family: str) -> list[str]:
    """What a logged model of that family needs, at the versions it was made with."""
    from importlib.metadata import version

    own = ("torch", "torchvision", "numpy", "pandas", "pydantic", "pyyaml", "safetensors")
    names = (*own, *FAMILIES[family].packages)
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def hush() -> None:
    """Pass over MLflow's advice on data sources and examples (the signature is given), its progress
    bars, and what it and its HTTP client say of each try to reach a lost server: that is told once,
    in a line of ours. After its import, which puts a filter of its own first."""
    import mlflow.pyfunc

    assert mlflow.pyfunc  # imported for its filters
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow.system_metrics.system_metrics_monitor", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class LiveRun:
    """A run being trained, recorded epoch by epoch for as long as the store can be reached.

    id: the record's; None once something could not be recorded. `sync` then makes a new record of
    the run folder.
    """

    def __init__(self, required: bool) -> None:
        self.required = required
        self.store: StudyRecord | None = None
        self.id: str | None = None

    def open(self, study: Study, run: Run, record: dict[str, Any], cases: PreparedCases) -> None:
        """Begin the record, in place of any earlier one of that run. Raises UserError if the store
        is required and cannot be used."""
        try:
            self.store = StudyRecord.open(study)
            self.store.discard(self.store.find(run))
            self.id = self.store.create(run, record, cases.table)
        except Exception as error:
            reason = str(error).splitlines()[0]
            if self.required:
                raise UserError(
                    f"{reason}; or set tracking.required: false to train without it"
                ) from None
            self._lose(reason)

    def log_epoch(self, epoch: int, row: dict[str, float]) -> None:
        if self.store is None or self.id is None:
            return
        try:
            self.store.log_epoch(self.id, epoch, row)
        except Exception as error:  # whatever it is: a view of the run must not cost the run
            self._lose(str(error).splitlines()[0])

    def close(self, status: str) -> None:
        if self.store is None or self.id is None:
            return
        try:
            self.store.client.set_terminated(self.id, status)
        except Exception as error:
            self._lose(str(error).splitlines()[0])

    def _lose(self, reason: str) -> None:
        """Record no more: waiting for a lost store costs seconds, once and not in each epoch."""
        self.id = None
        warn(
            f"MLflow's record of this run is incomplete ({reason}); training goes on, and "
            "`python -m pipeline.tracking sync` completes it from the run folder"
        )


@contextmanager
def live_run(
    study: Study, run: Run, record: dict[str, Any], cases: PreparedCases
) -> Iterator[LiveRun]:
    """Record a training while it goes on, with system metrics. `sync` completes it."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    hush()
    live = LiveRun(study.tracking.required)
    live.open(study, run, record, cases)
    monitor = SystemMetricsMonitor(live.id) if live.id is not None else None
    if monitor is not None:
        monitor.start()
    status = "FAILED"
    try:
        yield live
        status = "FINISHED"
    finally:
        if monitor is not None:
            monitor.finish()
        live.close(status)


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
        record = json.loads((run_dir / "run.json").read_text())
        found = store.find(run)
        if [recorded.data.tags.get("content") for recorded in found] == [_content(run_dir, record)]:
            unchanged += 1
            continue
        if len(found) == 1 and _same_training(found[0], run_dir, record):
            run_id = found[0].info.run_id  # trained live, or only evaluated anew: add to it
        else:
            store.discard(found)
            run_id = store.create(run, record, cases.table)
            for row in pd.read_csv(run_dir / "history.csv").to_dict("records"):
                store.log_epoch(run_id, int(row["epoch"]), {str(key): row[key] for key in row})
        store.complete(run_id, run, record)
        recorded += 1
    _forget_others(store)
    store.client.log_artifact(store.parent_id, str(study.folder / "params.yaml"))
    if study.reports_dir.is_dir():
        _log_reports(store, study)
    return recorded, unchanged


def _log_reports(store: StudyRecord, study: Study) -> None:
    """All but the exported networks, hundreds of MB: each run's own is in the store."""
    for path in sorted(study.reports_dir.iterdir()):
        if path == study.exported_dir:
            continue
        if path.is_dir():
            store.client.log_artifacts(store.parent_id, str(path), f"reports/{path.name}")
        else:
            store.client.log_artifact(store.parent_id, str(path), "reports")


def _forget_others(store: StudyRecord) -> None:
    """Discard the records of runs that the study no longer has."""
    wanted = set(store.study.runs())
    runs = store.client.search_runs([store.experiment_id], "tags.role = 'run'", max_results=50000)
    store.discard([recorded for recorded in runs if _run_of(recorded) not in wanted])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "command", choices=["sync"], help="record the study's runs in MLflow's store"
    )
    parser.parse_args()
    from mlflow.exceptions import MlflowException

    study = load_study()
    try:
        recorded, unchanged = sync(study)
    except MlflowException as error:
        raise UserError(
            f"MLflow's store was lost ({str(error).splitlines()[0]}): the runs are in their "
            "folders; run `python -m pipeline.tracking sync` again when it is back"
        ) from None
    print(f"tracking: {recorded} runs recorded, {unchanged} already there, study {study.name}")


if __name__ == "__main__":
    run_command(main)

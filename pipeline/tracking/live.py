"""A run recorded while it is trained, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.engine.prepared import PreparedCases
from pipeline.study.errors import UserError, warn
from pipeline.study.params import Run, Study
from pipeline.tracking.connection import fault
from pipeline.tracking.store import StudyRecord, hush


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
            if self.required:
                raise UserError(
                    f"{fault(error)}; or set tracking.required: false to train without it"
                ) from None
            self._lose(error)

    def log_epoch(self, epoch: int, row: dict[str, float]) -> None:
        if self.store is None or self.id is None:
            return
        try:
            self.store.log_epoch(self.id, epoch, row)
        except Exception as error:  # whatever it is: a view of the run must not cost the run
            self._lose(error)

    def close(self, status: str) -> None:
        if self.store is None or self.id is None:
            return
        try:
            self.store.client.set_terminated(self.id, status)
        except Exception as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Record no more: waiting for a lost store costs seconds, once and not in each epoch."""
        self.id = None
        warn(
            f"MLflow's record of this run is incomplete ({fault(error)}); training goes on, and "
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

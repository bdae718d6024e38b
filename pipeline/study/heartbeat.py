"""What a process that is at a run tells of it while it lasts: a lock, and how far it is.

Both lie beside the run's state in `.resume/` of the study. No result depends on them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pipeline.study.locks import alone
from pipeline.study.params import Run, Study

Work = Literal["train", "evaluate"]
INTERVAL = 1.0  # seconds between two records: each takes a tenth of a millisecond


class Heartbeat:
    """The record of one run's training or evaluation: a small JSON file, replaced as it goes on.

    epoch, epochs, images, images_per_second, seconds_per_epoch: of a training, as far as it is.
    error: the first line of what ended it. seconds: what an evaluation took, once it has ended
    well; a training's are in run.json, and its record is gone then.
    A disk that refuses is passed over: a view of a run must not cost the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.next = 0.0

    def beat(self, **facts: float) -> None:
        """Tell what is new of a training; written at once for a new epoch, else now and then."""
        new = facts.get("epoch", self.facts.get("epoch")) != self.facts.get("epoch")
        self.facts |= facts
        if new or time.monotonic() >= self.next:
            self.write()

    def write(self) -> None:
        self.next = time.monotonic() + INTERVAL
        temporary = Path(f"{self.path}.partial")
        try:
            temporary.write_text(json.dumps(self.facts), encoding="utf-8")
            os.replace(temporary, self.path)  # noqa: PTH105 - tests stop Path.replace
        except OSError:
            with suppress(OSError):
                temporary.unlink()


def heartbeat_file(study: Study, run: Run, work: Work) -> Path:
    """Where the record lies; the lock beside it, with the suffix .lock."""
    ending = {"train": ".json", "evaluate": ".evaluation.json"}[work]
    return study.resume_file(*run).with_suffix(ending)


@contextmanager
def beating(study: Study, run: Run, work: Work) -> Iterator[Heartbeat]:
    """Be the only process at that, and leave a record of how it goes.

    Raises UserError where another process is at it. A kill or Ctrl-C leaves the record as it was.
    """
    path = heartbeat_file(study, run, work)
    doing = {"train": "trained", "evaluate": "evaluated"}[work]
    with alone(path.with_suffix(".lock"), study.label(run), doing):
        heartbeat, start = Heartbeat(path), time.perf_counter()
        heartbeat.write()
        try:
            yield heartbeat
        except Exception as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            heartbeat.facts["error"] = told[0]
            heartbeat.write()
            raise
        if work == "train":
            with suppress(OSError):
                path.unlink()
        else:
            heartbeat.facts["seconds"] = time.perf_counter() - start
            heartbeat.write()

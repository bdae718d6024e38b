"""Recording with DVC what ended well, while the others go on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

from pipeline.fanout.matrix import LockedError, Matrix
from pipeline.fanout.progress import Progress
from pipeline.fanout.tasks import is_lost
from pipeline.fanout.worker import Done, Job, StageFailedError
from pipeline.study.errors import UserError, warn
from pipeline.study.values import quantity


class Recorder:
    """Records jobs that ended well, those that ended meanwhile together.

    DVC rewrites the whole of dvc.lock for each record, seconds for a large matrix: so that this
    process's time is the cluster's, a tenth of it at most is spent on that.
    """

    def __init__(
        self, matrix: Matrix, jobs: Sequence[Job], progress: Progress, *, away: bool
    ) -> None:
        self.matrix = matrix
        self.problem = matrix.fetched if away else matrix.why_not
        self.progress = progress
        self.readers: dict[str, set[str]] = defaultdict(set)
        for job in jobs:
            for name in job.after:
                self.readers[name].add(job.name)
        self.pending: list[tuple[Job, Done]] = []
        self.unread: list[str] = []  # recorded, and read by nobody any more, but not linked yet
        self.recorded: set[str] = set()
        self.failed: dict[str, str] = {}
        self.next = 0.0

    def take(self, job: Job, result: Done | BaseException) -> None:
        """What became of a job."""
        if isinstance(result, Done):
            problem = self.problem(job, result)
            if not problem and (missing := set(job.after) & self.failed.keys()):
                problem = f"what it read of {', '.join(sorted(missing))} was not recorded"
            if not problem:
                self.pending.append((job, result))
                return
        elif isinstance(result, StageFailedError):
            problem = result.told if result.name == job.name else ""
        elif is_lost(result):
            self._over(job)
            return
        else:
            problem = f"{type(result).__name__}: {result}"
        self._fail(job, problem)

    def _fail(self, job: Job, problem: str) -> None:
        self.failed[job.name] = problem
        self.progress.over(job.name, None)
        if problem:
            self.progress.tell(f"failed: {job.name}: {problem}")
        self._over(job)

    def flush(self, last: bool = False) -> None:
        while (self.pending or (last and self.unread)) and (last or time.monotonic() >= self.next):
            start = time.monotonic()
            names = [job.name for job, _ in self.pending]
            unread = list(self.unread)
            try:
                refused = self.matrix.record(names, unread)
            except LockedError:
                self.next = time.monotonic() + 5
                if last:
                    warn("another DVC command keeps DVC's lock: waiting for it, to record")
                    time.sleep(5)
                continue
            self.next = time.monotonic() + 9 * (time.monotonic() - start)
            self.unread = []
            for job, done in self.pending:
                if job.name in refused:
                    self._fail(job, refused[job.name])
                    continue
                self.recorded.add(job.name)
                self.progress.over(job.name, done.seconds)
                self.progress.tell(done.line or f"{job.name} done")
                self._over(job)
                if not self.readers[job.name]:
                    self.unread.append(job.name)
            self.pending = []

    def _over(self, job: Job) -> None:
        """The job reads nothing any more."""
        for name in job.after:
            self.readers[name].discard(job.name)
            if not self.readers[name] and name in self.recorded:
                self.unread.append(name)

    def lost(self, jobs: int) -> int:
        """Of so many, those that are neither recorded nor failed."""
        return jobs - len(self.recorded) - len(self.failed)

    def check(self, jobs: int) -> None:
        """Raise UserError unless all `jobs` are recorded."""
        if lost := self.lost(jobs):
            raise UserError(
                f"the scheduler was lost: {quantity(lost, 'stage')} of {jobs} not recorded; "
                "run again, and they go on where they were"
            )
        if self.failed:
            raise UserError(
                f"{quantity(len(self.failed), 'stage')} failed; recorded: {len(self.recorded)}; "
                "see above, and run again"
            )

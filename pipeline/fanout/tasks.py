"""A matrix's stages as Dask tasks: given out, tried again when a worker dies, taken back."""

from __future__ import annotations

import os
import queue
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from pipeline.fanout.progress import Progress, kind_of
from pipeline.fanout.worker import AbandonedError, Done, Job

RETRIES = 5  # how often a job is given to other workers when Dask gives it up: its workers died


def results(
    give: Callable[[Sequence[Job]], dict[str, tuple[Job, Any]]],
    jobs: Sequence[Job],
    progress: Progress,
    idle: Callable[[], None],
) -> Iterator[tuple[Job, Done | BaseException]]:
    """Each job with what became of it, as they end; `idle` is called in between, now and then.

    give: submits jobs. Each is given when those before it have ended and their results are here:
    were they tasks that depend on one another, Dask would run a finished training again when the
    worker that holds its result dies.
    """
    ended: queue.Queue[Any] = queue.Queue()
    tries: dict[str, int] = defaultdict(int)
    waits = {job.name: set(job.after) for job in jobs}
    followers: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        for name in job.after:
            followers[name].append(job)
    running: dict[str, tuple[Job, Any]] = {}

    def start(several: Sequence[Job]) -> None:
        given = give(several)
        running.update(given)
        for _, future in given.values():
            future.add_done_callback(ended.put)

    try:
        start([job for job in jobs if not job.after])
        while running:
            try:
                future = ended.get(timeout=0.5)
            except queue.Empty:
                progress.show()
                idle()
                continue
            job = running[future.key][0]
            result = _result(future)
            progress.ended(job.name)
            if _worker_is_gone(result) and tries[job.name] < RETRIES:
                tries[job.name] += 1
                try:
                    future.retry()
                except (OSError, KeyError):  # the scheduler went meanwhile
                    result = AbandonedError(job.name)
                else:
                    future.add_done_callback(ended.put)
                    continue
            del running[future.key]
            # While anyone holds it, Dask runs it again when the worker that has its result dies.
            future.release()
            del future
            yield job, result
            over = [(job, result)]
            while over:
                before, result = over.pop()
                for follower in followers[before.name]:
                    if follower.name not in waits:  # another that it waited for has failed
                        continue
                    waits[follower.name].discard(before.name)
                    if not isinstance(result, Done):
                        del waits[follower.name]
                        yield follower, result
                        over.append((follower, result))
                    elif not waits[follower.name]:
                        start([follower])
            idle()
    finally:
        with suppress(Exception):  # the scheduler may be gone
            for _, future in running.values():
                future.cancel()


def _result(future: Any) -> Done | BaseException:
    try:
        done: Done = future.result()
        return done
    except Exception as error:
        return error


def _worker_is_gone(result: Done | BaseException) -> bool:
    """Whether the worker died, or closed in good order in mid-run."""
    return isinstance(result, AbandonedError) or type(result).__name__ == "KilledWorker"


def is_lost(error: BaseException) -> bool:
    """Whether Dask says by it that the scheduler is gone, or that nobody will run a task."""
    lost = ("FutureCancelledError", "CancelledError", "CommClosedError", "ClosedClientError")
    return isinstance(error, AbandonedError | TimeoutError) or type(error).__name__ in lost


def submit(
    client: Any,
    function: Callable[..., Done],
    jobs: Sequence[Job],
    taken: dict[str, float],
    shared: dict[str, Any],
) -> dict[str, tuple[Job, Any]]:
    """Give jobs to the scheduler; returns each with its future, by the future's key. shared:
    arguments by name that all are given."""
    session = os.urandom(4).hex()
    given = client.map(
        function,
        jobs,
        key=[f"{kind_of(job.name)}-{session}-{job.name}" for job in jobs],
        resources=taken or None,
        # What has begun is finished first, so that it can be recorded.
        priority=1 if jobs[0].after else 0,
        pure=False,
        **shared,
    )
    return {future.key: (job, future) for job, future in zip(jobs, given, strict=True)}

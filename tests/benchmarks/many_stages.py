"""A matrix of 10,000 stages that only sleep: planned, kept in memory, and given to 50 workers.

    PYTHONPATH=. python tests/benchmarks/many_stages.py 10000 5

A process of its own, without torch, as the client of a fan-out is: memory is all that it, the
scheduler and the workers hold. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import distributed
import psutil

from pipeline.fanout import __main__ as fanout
from pipeline.fanout.worker import Done, Job, announce

REPOSITORY = Path(__file__).resolve().parents[2]
STUDY = REPOSITORY / "studies" / "demo"
INPUTS = tuple(str(path) for path in sorted((REPOSITORY / "pipeline").rglob("*.py"))[:14])
WORKERS = 50


def matrix(runs: int) -> list[Job]:
    """As many pairs of train and evaluate as light as those of a study."""
    jobs = []
    for seed in range(runs):
        run = f"limit_encoder_attention-{seed}-0"
        names = ("weights.safetensors", "history.csv", "run.json")
        outputs = tuple(f"{STUDY}/runs/limit_encoder_attention/{seed}/0/{name}" for name in names)
        params = ((f"{STUDY}/params.yaml", ("train", "focal", "models.limit_encoder_attention")),)
        for stage, inputs, after in (
            ("train", INPUTS, ()),
            ("evaluate", (*INPUTS, outputs[0]), (f"train@{run}",)),
        ):
            command = f"PYTHONPATH=../.. python -m pipeline.{stage} limit_encoder_attention {seed}"
            job = Job(f"{stage}@{run}", command, str(STUDY), inputs, params, outputs, after)
            jobs.append(job)
    return jobs


def sleep(job: Job, *, seconds: float) -> Done:
    """In place of a stage; what it tells is as large as a stage's."""
    announce(job.name)
    time.sleep(seconds)
    told = dict.fromkeys(job.inputs, "0" * 64)
    return Done(told, told, dict.fromkeys(job.outputs, "0" * 64), seconds, "")


class Recorded:
    """In place of DVC."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def why_not(self, job: Job, done: Done) -> str:
        return ""

    fetched = why_not

    def record(self, names: Sequence[str], unread: Sequence[str]) -> dict[str, str]:
        self.names += names
        return {}


@contextmanager
def fifty_workers() -> Iterator[distributed.Client]:
    with (
        distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


def keep_busy(stages: int, seconds: float) -> dict[str, float]:
    """The share of their time that 50 workers sleep for a stage, and the most memory, in MB."""
    most, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            most[0] = max(most[0], megabytes())

    with fifty_workers() as client:
        threading.Thread(target=watch, daemon=True).start()
        start, recorded = time.perf_counter(), Recorded()
        run = partial(sleep, seconds=seconds)
        fanout.fan_out(client, recorded, matrix(stages // 2), run, {})
        wall = time.perf_counter() - start
        over.set()
    assert len(recorded.names) == len(set(recorded.names)) == stages
    assert "torch" not in sys.modules
    return {"seconds": wall, "busy": stages * seconds / WORKERS / wall, "megabytes": most[0]}


if __name__ == "__main__":
    print(json.dumps(keep_busy(int(sys.argv[1]), float(sys.argv[2]))))

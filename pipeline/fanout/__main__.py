"""The runs of a study on many GPUs or machines at once: `python -m pipeline.fanout [study]`

`dvc repro` runs one stage at a time. This runs what is stale of the matrix (train, evaluate,
average and export) as Dask tasks, and `dvc repro` for what comes before and after it. DVC stays
the truth: it says what is stale, and what ran is recorded through it (fanout/matrix.py), by this
process alone, while the others go on. So `dvc status` is clean in the end, and whatever is killed,
whenever, `dvc repro` or this command finishes the study.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline.fanout.cluster import (
    Workers,
    check_offered,
    environment,
    gpus,
    open_client,
    package,
    resources,
    starts_here,
)
from pipeline.fanout.matrix import Matrix
from pipeline.fanout.progress import Progress
from pipeline.fanout.recorder import Recorder
from pipeline.fanout.tasks import is_lost, results, submit
from pipeline.fanout.worker import TOPIC, Checkout, Done, Job, finished_folder, run_away, run_job
from pipeline.study.errors import UserError, run_command, warn
from pipeline.study.reading import load_study
from pipeline.study.values import Count, expect, option

Amount = Annotated[  # of what a run takes
    float, Field(gt=0, lt=1e6), expect("a number greater than 0 and less than 1000000")
]


def main() -> None:
    arguments = parse()
    study = load_study(arguments.study)
    study.check_inputs()
    study.check_exports()
    server = os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http")
    if arguments.remote and study.tracking.live and not server:
        raise UserError(
            "tracking.live with --remote: workers cannot reach this machine's store; set "
            "MLFLOW_TRACKING_URI to the address of an MLflow server"
        )
    if study.tracking.live and not server and not starts_here(arguments):
        warn(
            "tracking.live without an MLflow server: workers on other machines write to one SQLite "
            "file, which network file systems damage; set MLFLOW_TRACKING_URI to a server's address"
        )
    package("distributed")
    os.chdir(arguments.study)  # DVC wants to be inside of the repository
    matrix = Matrix(Path(), arguments.remote)
    if before := matrix.before():
        repro(before)
    with matrix.claimed():
        jobs = matrix.stale()
        print(
            f"fanout: {len(jobs)} of {len(matrix.stages)} stages of the matrix to run", flush=True
        )
        if jobs:
            taken = resources(arguments)
            forks = starts_here(arguments) and not gpus()
            run = run_away if arguments.remote else partial(run_job, forks=forks)
            function = partial(run, environment=environment(arguments), taken=taken)
            checkout = matrix.checkout(arguments.remote, jobs) if arguments.remote else None
            with open_client(arguments, len(jobs)) as client:
                check_offered(client, taken)
                fan_out(client, matrix, jobs, function, taken, checkout)
    repro(["dvc.yaml"])


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.fanout",
        description="Run the stale stages of a study's matrix on a Dask cluster, and record them "
        "with DVC.",
    )
    parser.add_argument(
        "study", type=Path, nargs="?", default=Path(), help="the study's folder; default: this one"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is running")
    where.add_argument(
        "--jobqueue",
        type=lambda text: Path(text).resolve(),
        metavar="YAML",
        help="start workers as jobs of a batch system: dask-jobqueue's configuration",
    )
    parser.add_argument(
        "--remote",
        metavar="NAME",
        help="for workers without this file system: the DVC remote that inputs and outputs travel "
        "through",
    )
    parser.add_argument(
        "--workers",
        type=option(Count),
        help="how many to start; default: the GPUs of this machine, without any its cores; of jobs "
        "one",
    )
    parser.add_argument(
        "--gpus-per-run",
        type=option(Amount),
        metavar="N",
        help="GPUs that a stage takes, 0.5 for two on one; default: 1 on this machine's own, "
        "elsewhere they are not counted",
    )
    parser.add_argument(
        "--memory-per-run",
        type=option(Amount),
        metavar="GB",
        help="memory that a stage takes, of the workers' resource MEMORY; default: not counted",
    )
    parser.add_argument(
        "--threads-per-run",
        type=option(Count),
        metavar="N",
        help="CPU threads that a stage computes with; default: the machine's cores, or the threads "
        "of a worker that this does not start, divided by the stages that run there at once",
    )
    given = parser.parse_args(arguments)
    if given.workers is not None and given.scheduler is not None:
        parser.error("--workers is for workers that this starts: --scheduler has its own")
    return given


def repro(targets: Sequence[str]) -> None:
    """`dvc repro`, as a user would run it. Raises UserError where it fails."""
    process = subprocess.Popen([sys.executable, "-m", "dvc", "repro", *targets])
    try:
        process.wait()
    except KeyboardInterrupt:
        process.wait()  # the terminal tells DVC too, which stops its stage and leaves whole files
        raise
    if process.returncode != 0:
        raise UserError(f"dvc repro {' '.join(targets)} failed, as it says above")


def fan_out(
    client: Any,
    matrix: Matrix,
    jobs: Sequence[Job],
    function: Callable[..., Done],
    taken: dict[str, float],
    checkout: Checkout | None = None,
) -> None:
    """Run the jobs and record each that ended well, soon after its end.

    function: called on a worker with a job. taken: of Dask's resources, by each. checkout: for
    workers without this file system; `function` is given it. Raises UserError when all is over if
    any failed or the scheduler was lost.
    """
    progress = Progress(jobs)
    recorder = Recorder(matrix, jobs, progress, away=checkout is not None)
    workers = Workers(client, taken)

    def idle() -> None:
        recorder.flush()
        workers.attend()

    try:
        client.subscribe_topic(TOPIC, lambda event: progress.began(event[1]))
        # As a task it is made again when all that hold it die; data given to workers would be lost.
        shared = {"checkout": client.submit(Checkout, *checkout, pure=False)} if checkout else {}

        def give(several: Sequence[Job]) -> dict[str, tuple[Job, Any]]:
            return submit(client, function, several, taken, shared)

        for job, result in results(give, jobs, progress, idle):
            recorder.take(job, result)
    except Exception as error:
        if not is_lost(error):
            raise
    finally:
        try:
            recorder.flush(last=True)
        finally:
            progress.close()
            if recorder.lost(len(jobs)) == 0:  # else the next client records what ended here
                for folder in {job.folder for job in jobs}:
                    shutil.rmtree(finished_folder(folder), ignore_errors=True)
            with suppress(Exception):  # the scheduler may be gone
                client.unsubscribe_topic(TOPIC)
    recorder.check(len(jobs))


if __name__ == "__main__":
    run_command(main)

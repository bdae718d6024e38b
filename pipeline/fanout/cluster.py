"""Dask's side: the cluster that was asked for, and what each of its workers has."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.fanout.worker import computing_with
from pipeline.study.cores import usable_cores
from pipeline.study.credentials import part_credentials, without_credentials
from pipeline.study.documents import read_yaml
from pipeline.study.errors import UserError, warn


def package(name: str) -> Any:
    """One of Dask's. Raises UserError if it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is missing: pip install 'lesion-ablation[cluster]'") from None


def resources(arguments: argparse.Namespace) -> dict[str, float]:
    """What each stage takes of Dask's resources."""
    wanted = {"GPU": arguments.gpus_per_run, "MEMORY": arguments.memory_per_run}
    if arguments.gpus_per_run is None and starts_here(arguments) and gpus():
        wanted["GPU"] = 1
    taken = {name: amount for name, amount in wanted.items() if amount is not None}
    return taken | ({"MEMORY": taken["MEMORY"] * 1e9} if "MEMORY" in taken else {})


def starts_here(arguments: argparse.Namespace) -> bool:
    return arguments.scheduler is None and arguments.jobqueue is None


def gpus() -> list[str]:
    """The names by which CUDA knows this machine's GPUs, those only that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, _ in enumerate(listed.stdout.splitlines())]


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    """The variables that a stage's command is given beside its worker's own."""
    part_credentials()
    tracking = ("URI", "USERNAME", "PASSWORD", "TOKEN")
    names = [f"MLFLOW_TRACKING_{name}" for name in tracking]
    names += ["DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY"]
    given = {name: os.environ[name] for name in names if name in os.environ}
    threads = arguments.threads_per_run
    if threads is None and starts_here(arguments):
        workers, each = local_slots(arguments)
        threads = max(1, usable_cores() // (workers * each))
    if threads is not None:
        given |= computing_with(threads)
    return given


def local_slots(arguments: argparse.Namespace) -> tuple[int, int]:
    """Workers on this machine, and the stages that each runs at once."""
    found = len(gpus())
    if not found:
        if arguments.gpus_per_run is not None:
            raise UserError(
                f"--gpus-per-run {arguments.gpus_per_run:g}: this machine has no GPU that can be "
                "used; leave it out to train on its cores"
            )
        return arguments.workers or usable_cores(), 1
    workers = min(arguments.workers or found, found)
    return workers, max(1, int(1 / (arguments.gpus_per_run or 1)))


@contextmanager
def open_client(arguments: argparse.Namespace, jobs: int) -> Iterator[Any]:
    """A client of the cluster that was asked for, which is closed with it."""
    distributed = package("distributed")
    # Its loss of a worker or the scheduler is told in a line of ours.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if arguments.scheduler is not None:
        try:
            client = distributed.Client(arguments.scheduler, timeout=10)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--scheduler {arguments.scheduler}: no Dask scheduler answers there ({error}): "
                "start one with `dask scheduler`, or leave --scheduler out"
            ) from None
        cluster = None
    else:
        cluster = queued(arguments, jobs) if arguments.jobqueue else local(arguments, jobs)
        client = distributed.Client(cluster)
    try:
        print(f"fanout: {dashboard(client)}", flush=True)
        yield client
    finally:
        client.close(5)
        if cluster is not None:
            cluster.close(10)


def check_offered(client: Any, taken: dict[str, float]) -> None:
    """Raise UserError if there are workers and none ever has what a stage takes: it would wait for
    ever."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    for name, amount in taken.items():
        if workers and all(worker["resources"].get(name, 0) < amount for worker in workers):
            raise UserError(
                f"no worker offers {name} {amount:g}, which a stage takes: start them with "
                f'--resources "{name}=..."'
            )


def dashboard(client: Any) -> str:
    if importlib.util.find_spec("bokeh") is None:
        return "no dashboard: pip install bokeh, where the scheduler runs, and Dask shows one"
    return f"dashboard: {client.dashboard_link}"


def local(arguments: argparse.Namespace, jobs: int) -> Any:
    """A cluster on this machine: a worker a GPU, or a stage a core where there is none."""
    workers, each = local_slots(arguments)
    visible = gpus()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    workers = min(workers, -(-jobs // each))
    own: dict[str, float] = {"MEMORY": memory / workers} | ({"GPU": 1} if visible else {})

    class Local(package("distributed").LocalCluster):  # type: ignore[misc]
        def new_worker_spec(self) -> Any:
            ((number, spec),) = super().new_worker_spec().items()
            if visible:
                one = {"CUDA_VISIBLE_DEVICES": visible[int(number) % len(visible)]}
                spec = spec | {"options": spec["options"] | {"env": one}}
            return {number: spec}

    # Dask would set OMP_NUM_THREADS to 1 in this process too, and what `dvc repro` runs after the
    # matrix would compute with one thread, to other bits. A stage is given its own (environment).
    package("dask").config.set({"distributed.nanny.pre-spawn-environ": {}})
    cluster = Local(
        n_workers=0,
        threads_per_worker=each,
        processes=True,
        memory_limit=0,  # the stages' memory is not the worker's
        resources=own,
        dashboard_address="127.0.0.1:0",
        silence_logs=50,
        # Ctrl-C at a terminal reaches them too: they end with this process, in good order.
        preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"],
    )
    cluster.scale(workers)
    return cluster


def queued(arguments: argparse.Namespace, jobs: int) -> Any:
    """A cluster whose workers are jobs of a batch system, by dask-jobqueue's configuration.

    `jobqueue:` with one entry, `slurm`, `pbs`, `lsf`, `sge`, `oar`, `moab` or `htcondor`: the
    arguments of dask-jobqueue's class of that name.
    """
    dask_jobqueue = package("dask_jobqueue")
    file = arguments.jobqueue
    try:
        content = read_yaml(file)
        ((kind, options),) = content["jobqueue"].items()
        # One worker a job: with more, each would offer all of the job's GPUs.
        options = {"processes": 1} | options
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} must be a file with `jobqueue:` and under it one batch system, such as slurm, "
            f"with its options ({' '.join(str(error).split())})"
        ) from None
    classes = {
        name.removesuffix("Cluster").lower(): getattr(dask_jobqueue, name)
        for name in dir(dask_jobqueue)
        if name.endswith("Cluster") and name not in ("JobQueueCluster", "LocalCluster")
    }
    if kind not in classes:
        raise UserError(f"{file}: jobqueue must name one of {', '.join(classes)}, got {kind!r}")
    submit_command = classes[kind].job_cls.submit_command.split()[0]
    if shutil.which(submit_command) is None:
        raise UserError(
            f"--jobqueue: {submit_command} is missing here: run this where {kind} takes jobs"
        )
    try:
        cluster = classes[kind](**options)
    except (TypeError, ValueError, OSError) as error:
        raise UserError(f"{file}: jobqueue.{kind}: {' '.join(str(error).split())}") from None
    script = without_credentials(cluster.job_script())
    print(f"fanout: each worker is this job:\n{script}", flush=True)
    cluster.scale(jobs=arguments.workers or 1)
    return cluster


class Workers:
    """Sees to it that there are some who can do the work, as long as it lasts."""

    def __init__(self, client: Any, taken: dict[str, float], seconds: float = 30) -> None:
        self.client, self.taken, self.seconds = client, taken, seconds
        self.next = time.monotonic() + seconds
        self.problem = ""

    def attend(self) -> None:
        """To be called often: tells in a line what the stages wait for."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + self.seconds
        problem = "" if self.client.scheduler_info(n_workers=1)["workers"] else "no worker is there"
        try:
            check_offered(self.client, self.taken)
        except UserError as error:
            problem = str(error)
        if problem and problem != self.problem:
            warn(f"{problem}; waiting for one")
        self.problem = problem
        base, cluster = package("distributed").SpecCluster, self.client.cluster
        if isinstance(cluster, base):
            # Dask gives up a job that ended, at its time limit for one, and opens none in its place
            # until it is told how many there should be: jobs, where dask-jobqueue counts workers.
            base.scale(cluster, len(cluster.worker_spec))

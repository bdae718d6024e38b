"""The runs of a study on many GPUs or machines at once: `python -m pipeline.fanout [study]`

`dvc repro` runs one stage at a time. This runs what is stale of the matrix (train and evaluate) as
Dask tasks, and `dvc repro` for what comes before and after it. DVC stays the truth: it says what is
stale, and what ran is recorded through it (fanout/matrix.py), by this process alone, while the
others go on. So `dvc status` is clean in the end, and whatever is killed, whenever, `dvc repro` or
this command finishes the study.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import queue
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from pipeline.fanout.matrix import LockedError, Matrix
from pipeline.fanout.worker import (
    TOPIC,
    AbandonedError,
    Checkout,
    Done,
    Job,
    StageFailedError,
    computing_with,
    finished_folder,
    run_away,
    run_job,
)
from pipeline.study.errors import UserError, run_command, warn
from pipeline.study.params import load_study

RETRIES = 5  # how often a job is given to other workers when Dask gives it up: its workers died


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
        if arguments.remote and study.evaluate.resolution == "native":
            # It reads the raw masks, which no stage has as an output: they are here alone.
            jobs = [job for job in jobs if _kind(job.name) == "train"]
        print(
            f"fanout: {len(jobs)} of {len(matrix.stages)} stages of the matrix to run", flush=True
        )
        if jobs:
            taken = resources(arguments)
            run = run_away if arguments.remote else run_job
            function = partial(run, environment=environment(arguments), taken=taken)
            checkout = matrix.checkout(arguments.remote) if arguments.remote else None
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
        type=_count,
        help="how many to start; default: the GPUs of this machine, without any its cores; of jobs "
        "one",
    )
    parser.add_argument(
        "--gpus-per-run",
        type=_positive,
        metavar="N",
        help="GPUs that a stage takes, 0.5 for two on one; default: 1 on this machine's own, "
        "elsewhere they are not counted",
    )
    parser.add_argument(
        "--memory-per-run",
        type=_positive,
        metavar="GB",
        help="memory that a stage takes, of the workers' resource MEMORY; default: not counted",
    )
    parser.add_argument(
        "--threads-per-run",
        type=_count,
        metavar="N",
        help="CPU threads that a stage computes with; default: the machine's cores, or the threads "
        "of a worker that this does not start, divided by the stages that run there at once",
    )
    given = parser.parse_args(arguments)
    if given.workers is not None and given.scheduler is not None:
        parser.error("--workers is for workers that this starts: --scheduler has its own")
    return given


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, got {text!r}")
    return value


def package(name: str) -> Any:
    """One of Dask's. Raises UserError if it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is missing: pip install 'lesion-ablation[cluster]'") from None


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
    given = {
        name: os.environ[name]
        for name in ("MLFLOW_TRACKING_URI", "DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY")
        if name in os.environ
    }
    threads = arguments.threads_per_run
    if threads is None and starts_here(arguments):
        workers, each = local_slots(arguments)
        threads = max(1, (os.cpu_count() or 1) // (workers * each))
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
        return arguments.workers or os.cpu_count() or 1, 1
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
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        ((kind, options),) = content["jobqueue"].items()
        # One worker a job: with more, each would offer all of the job's GPUs.
        options = {"processes": 1} | options
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
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
    print(f"fanout: each worker is this job:\n{cluster.job_script()}", flush=True)
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


class Progress:
    """The jobs of a fan-out in a line of the terminal: done, running, failed, remaining time."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.waiting: dict[str, int] = defaultdict(int)  # jobs of a kind, not done yet
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])  # sum, count
        for job in jobs:
            self.waiting[_kind(job.name)] += 1
        self.names = {job.name for job in jobs}
        self.running: set[str] = set()
        self.done = self.failed = 0
        self.bar = tqdm(
            total=len(jobs),
            bar_format="{n_fmt} of {total_fmt} stages done, {desc}",
            disable=None,  # where no terminal shows it
        )
        self.show()

    def began(self, name: str) -> None:
        if name in self.names:  # and not of another client's
            self.running.add(name)

    def ended(self, name: str) -> None:
        self.running.discard(name)

    def over(self, name: str, seconds: float | None) -> None:
        """What ended is recorded; seconds: None for what failed instead."""
        self.waiting[_kind(name)] -= 1
        if seconds is None:
            self.failed += 1
        else:
            self.done += 1
            known = self.seconds[_kind(name)]
            known[0] += seconds
            known[1] += 1
            self.bar.update()
        self.show()

    def show(self) -> None:
        """Show the line as it is now."""
        self.bar.set_description_str(
            f"{len(self.running)} running, {self.failed} failed{self._remaining()}"
        )

    def _remaining(self) -> str:
        if not self.running or not any(count for _, count in self.seconds.values()):
            return ""
        total = sum(sum_ for sum_, _ in self.seconds.values())
        mean = total / sum(count for _, count in self.seconds.values())
        left = 0.0
        for kind, count in self.waiting.items():
            sum_, known = self.seconds[kind]
            left += count * (sum_ / known if known else mean)
        return f", about {tqdm.format_interval(left / len(self.running))} left"

    def tell(self, line: str) -> None:
        """Print a line above the bar, after how many are done."""
        self.bar.write(f"[{self.done}/{self.bar.total}] {line}", file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def _kind(name: str) -> str:
    """train of studies/demo/dvc.yaml:train@unet-0-0"""
    return name.rpartition(":")[2].partition("@")[0]


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
                    waits[follower.name].discard(before.name)
                    if not isinstance(result, Done):
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
        key=[f"{_kind(job.name)}-{session}-{job.name}" for job in jobs],
        resources=taken or None,
        # What has begun is finished first, so that it can be recorded.
        priority=1 if jobs[0].after else 0,
        pure=False,
        **shared,
    )
    return {future.key: (job, future) for job, future in zip(jobs, given, strict=True)}


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
                f"the scheduler was lost: {len(self.recorded)} stages are recorded, {lost} are "
                "not; run again, and they go on from their last epoch"
            )
        if self.failed:
            raise UserError(
                f"{len(self.failed)} stages failed, {len(self.recorded)} are recorded: see above, "
                "and run again"
            )


if __name__ == "__main__":
    run_command(main)

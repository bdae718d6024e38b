"""What a Dask worker does: run the command of one stage, and tell what it ran with.

A stage's command runs in a process group of its own, which goes with the task: when the worker
dies, however it dies, or when nobody waits for the task any more, the group is killed, as a power
cut would. What it had trained waits in `.resume/` for whoever runs the stage next.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

from pipeline import ROOT
from pipeline.fanout.forks import Forks, NoForksError, stage_of
from pipeline.study.credentials import without_credentials
from pipeline.study.files import write_json
from pipeline.study.stages import state

TOPIC = "lesion-fanout"  # of the events by which workers tell what they began

# Standard input is a pipe that only the worker holds: it ends when the worker does, and the reader
# kills the group ($$ is its leader). `wait` and not the shell's end tells the command's status.
_GUARDED = """
exec 3<&0 </dev/null
{ read -r _ <&3; kill -s KILL 0; } &
guard=$!
( exec 3<&-; eval "$1" )
status=$?
kill -s KILL $guard
exit $status
"""


class Job(NamedTuple):
    """A stage to run, as light as it can be: ten thousand of them travel to the scheduler.

    name: as DVC addresses it. command: run in `folder`. Paths are absolute. params: a file and the
    dotted keys of it that the stage depends on. after: the names of the jobs whose outputs it
    reads. reads: of the matrix's stages whose outputs it reads, jobs or not, each after those that
    it depends on.
    """

    name: str
    command: str
    folder: str
    inputs: tuple[str, ...]
    params: tuple[tuple[str, tuple[str, ...]], ...]
    outputs: tuple[str, ...]
    after: tuple[str, ...]
    reads: tuple[str, ...] = ()


class Done(NamedTuple):
    """A job that ended well: its inputs as they were before and after, its outputs as it left them
    (`state`), its seconds, and the last line it printed."""

    before: dict[str, str]
    after: dict[str, str]
    outputs: dict[str, str]
    seconds: float
    line: str


class Checkout(NamedTuple):
    """What a worker without the client's file system makes a checkout of: a git bundle and the
    commit of it, the study's folder in the repository, its dvc.lock, and a DVC remote's name."""

    bundle: bytes
    commit: str
    study: str
    lock: str
    remote: str


class StageFailedError(Exception):
    """A stage's command ended with an error: its name and the end of what it printed."""

    def __init__(self, name: str, told: str) -> None:
        super().__init__(name, told)
        self.name, self.told = name, told


class AbandonedError(Exception):
    """Nobody waits for the task any more."""


def run_job(
    job: Job,
    *,
    environment: Mapping[str, str],
    taken: Mapping[str, float],
    forks: bool = False,
) -> Done:
    """Run the job where its files are.

    Like DVC it removes the outputs first. taken: of Dask's resources. forks: run the sources' own
    stages as fanout/forks.py does. Raises StageFailedError for a command that fails.

    Once it has ended well it is not run again, as long as its inputs and outputs are as it left
    them: when a worker dies that holds a result, Dask starts its task elsewhere, even while the
    client takes that result and a stage reads the outputs; and a client may die before it records.
    """
    announce(job.name)
    if not Path(job.folder).is_dir():
        told = f"{job.folder} is not on {socket.gethostname()}: a worker without this file system "
        raise StageFailedError(job.name, f"{told}needs --remote")
    start = time.perf_counter()
    inputs = state(job.inputs, job.params)
    known = hashlib.sha256(f"{job.name}\0{job.command}".encode()).hexdigest()
    record = finished_folder(job.folder) / f"{known}.json"
    if record.exists():
        done = Done(**json.loads(record.read_text(encoding="utf-8")))
        if done.before == done.after == inputs and done.outputs == state(job.outputs):
            return done
    for path in map(Path, job.outputs):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    variables = computing_with(own_threads(taken)) | dict(environment)
    line = run_command(job.name, job.command, Path(job.folder), variables, forks=forks)
    after = state(job.inputs, job.params)
    seconds = time.perf_counter() - start
    done = Done(inputs, after, state(job.outputs), seconds, line)
    write_json(record, done._asdict(), indent=None)
    return done


def run_away(
    job: Job,
    *,
    checkout: Checkout,
    environment: Mapping[str, str],
    taken: Mapping[str, float],
) -> Done:
    """Run the job in a checkout on this machine, its inputs and outputs through the DVC remote.

    DVC does it all: it looks into the remote's run-cache, pulls what is missing, runs the command,
    and pushes the outputs with an entry in the run-cache, from which the client takes them, if they
    were made of the same code, params and data as it has.
    """
    announce(job.name)
    start = time.perf_counter()
    variables = computing_with(own_threads(taken)) | dict(environment)
    with _checked_out(checkout) as folder:
        source = shlex.quote(str(ROOT))
        stages = shlex.join([*job.reads, job.name])
        command = f"PYTHONPATH={source} python -m pipeline.fanout.away {stages}"
        run_command(job.name, command, folder, variables)
    return Done({}, {}, {}, time.perf_counter() - start, f"{job.name}, on {socket.gethostname()}")


@contextmanager
def _checked_out(checkout: Checkout) -> Iterator[Path]:
    """The study's folder in a checkout that nobody else uses meanwhile.

    It stays in the system's folder for temporary files, for the next job of the same commit; the
    checkouts of one commit share DVC's cache and the states of interrupted trainings.
    """
    own = Path(tempfile.gettempdir()) / f"lesion-fanout-{os.getuid()}"
    own.mkdir(exist_ok=True, mode=0o700)
    found = own.lstat()  # its name can be foreseen: another may have made it, with code of his own
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        told = f"{own} on {socket.gethostname()} must be a folder that its user alone writes to"
        raise OSError(f"{told}: remove it")
    common = own / checkout.commit
    common.mkdir(exist_ok=True)
    with ExitStack() as stack:
        for number in itertools.count():
            lock = stack.enter_context((common / f"{number}.lock").open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                continue
        root = common / str(number)
        study = root / checkout.study
        if not (root / "ready").exists():
            shutil.rmtree(root, ignore_errors=True)
            bundle = common / f"{number}.bundle"
            bundle.write_bytes(checkout.bundle)
            config = ["dvc", "--cd", str(study), "config", "-q", "--local"]
            for command in (
                ["git", "clone", "-q", "--no-checkout", str(bundle), str(root)],
                ["git", "-C", str(root), "checkout", "-q", "--detach", checkout.commit],
                [*config, "cache.dir", str(common / "cache")],
                [*config, "core.remote", checkout.remote],
            ):
                subprocess.run(command, check=True, env=_variables())
            bundle.unlink()
            (common / "resume").mkdir(exist_ok=True)
            (study / ".resume").symlink_to(common / "resume")
            (root / "ready").touch()
        (study / "dvc.lock").write_text(checkout.lock, encoding="utf-8")
        yield study


def own_threads(taken: Mapping[str, float]) -> int:
    """A worker's threads divided by the stages that it runs at once."""
    from distributed import get_worker

    worker = get_worker().state
    limits = [int(worker.total_resources.get(name, 0) / taken[name]) for name in taken]
    return max(1, worker.nthreads // max(1, min([worker.nthreads, *limits])))


def computing_with(threads: int) -> dict[str, str]:
    """The variables that torch and numpy take their number of threads from. Dask gives its workers
    1, which is right only where each of a worker's threads runs a stage."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def announce(name: str) -> None:
    """Tell whoever listens that the job has begun."""
    from distributed import get_worker

    get_worker().log_event(TOPIC, name)


def run_command(
    name: str,
    command: str,
    folder: Path,
    environment: Mapping[str, str],
    *,
    forks: bool = False,
) -> str:
    """Run a shell command to its end; returns the last line that it printed."""
    abandoned = _abandonment()

    def attend() -> None:
        if abandoned():
            raise AbandonedError(name)

    variables = _variables() | dict(environment)
    with tempfile.NamedTemporaryFile() as printed:
        stage = stage_of(command, folder, printed.name, name) if forks else None
        status: int | None = None
        if stage is not None:
            with suppress(NoForksError):
                status = _forks(variables).run(stage, attend)
        if status is None:
            variables |= {"DVC_STAGE": name}
            status = _run_shell(command, folder, variables, printed.file, attend)
        lines = _lines(printed.file)
    if status != 0:
        told = "\n".join(lines[-20:]) or f"exit status {status}"
        raise StageFailedError(name, without_credentials(told))
    return lines[-1] if lines else ""


def _run_shell(
    command: str,
    folder: Path,
    variables: Mapping[str, str],
    printed: IO[bytes],
    attend: Callable[[], None],
) -> int:
    """The command's exit status. `attend` is called now and then; what it raises ends it."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", _GUARDED, "sh", command],
        cwd=folder,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=printed,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        while process.poll() is None:
            attend()
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
    finally:
        process.stdin.close()  # which kills the group, should it still be there
        process.wait()
    return process.returncode


_of_thread = threading.local()  # a worker's thread runs one stage at a time


def _forks(variables: Mapping[str, str]) -> Forks:
    known: Forks | None = getattr(_of_thread, "forks", None)
    if known is None or not known.serves(variables):
        if known is not None:
            known.close()
        known = _of_thread.forks = Forks(variables)
    return known


def finished_folder(study: str | Path) -> Path:
    """What workers know to be done lies there, by the stage, until a client has recorded it."""
    return Path(study) / ".resume" / ".finished"  # no variant has a dot in its name


def _key() -> str:
    """Dask's, of this thread's task."""
    from distributed.worker import thread_state  # type: ignore[attr-defined]

    key: str = thread_state.key
    return key


def _variables() -> dict[str, str]:
    """The worker's own, with its Python first."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return dict(os.environ) | {"PATH": path}


def _abandonment() -> Callable[[], bool]:
    """A function that tells whether the task of this thread is no longer wanted.

    Dask does not interrupt a running task that was cancelled, or whose client is gone: it only
    marks it. Of a worker that closes it gives the task to another, and waits for this thread.
    """
    from distributed import get_worker

    worker = get_worker()
    tasks, key = worker.state.tasks, _key()

    def abandoned() -> bool:
        task = tasks.get(key)
        closing = worker.status.name in ("closing", "closed", "failed")
        return closing or task is None or task.state not in ("executing", "long-running")

    return abandoned


def _lines(printed: IO[bytes]) -> list[str]:
    """What a command printed, without its progress bars."""
    printed.seek(max(0, printed.seek(0, os.SEEK_END) - 2**16))
    text = printed.read().decode(errors="replace").replace("\x1b[A", "")
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    return [line for line in lines if line and "%|" not in line]

"""Stages as forks of a process that has imported what they need: `python -m pipeline.fanout.forks`

Importing torch and MONAI takes longer than the work of a small stage. A worker (fanout/worker.py)
keeps such a process and names it a stage a line on standard input; it forks, and tells the stage's
exit status in a line. Where standard input ends, the worker is gone or wants the stage no more: the
stage's process group is killed. Where this process is killed, the stage itself goes with it.

Not where there is a GPU: a process that has looked for one cannot be forked to compute on it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from pipeline import ROOT
from pipeline.study.errors import run_command

STAGES = ("train", "evaluate", "average")
IMPORTED = ("albumentations", "monai.metrics", *(f"pipeline.{stage}" for stage in STAGES))
_COMMAND = re.compile(rf"PYTHONPATH=(\S+) python -m pipeline\.({'|'.join(STAGES)})((?: [\w.-]+)*)")
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
READY = b"ready\n"  # its first line


class Stage(NamedTuple):
    """What to run: pipeline.<module> with arguments, in a folder, and where its output goes."""

    module: str
    arguments: list[str]
    folder: str
    printed: str
    variables: dict[str, str]


def stage_of(command: str, folder: Path, printed: str, name: str) -> Stage | None:
    """The stage that dvc.yaml's command runs; None where it is not one of these sources' own."""
    found = _COMMAND.fullmatch(command)
    if found is None or (folder / found[1]).resolve() != ROOT:
        return None
    variables = {"PYTHONPATH": found[1], "DVC_STAGE": name}
    return Stage(found[2], shlex.split(found[3]), str(folder), printed, variables)


class NoForksError(Exception):
    """There is no process that would run stages as forks: it cannot here, or ended in its imports,
    which a stage's own command tells of."""


class Forks:
    """The worker's side of one such process. It serves one stage at a time."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = dict(variables)
        self.started = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.fanout.forks"],
            cwd=ROOT,
            env=self.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        self.ready = False

    def serves(self, variables: Mapping[str, str]) -> bool:
        """Whether it is there, has these variables, and has imported the sources as they are."""
        return (
            self.process.poll() is None
            and self.variables == dict(variables)
            and not any(self.started < when <= time.time() for when in _changes())
        )

    def run(self, stage: Stage, attend: Callable[[], None]) -> int:
        """The stage's exit status, negative where a signal ended it. `attend` is called now and
        then; what it raises ends the stage. Raises NoForksError, and then nothing has run."""
        assert self.process.stdin is not None
        if not self.ready:
            self.ready = self._answer(attend) == READY
        if not self.ready:
            self.close()
            raise NoForksError
        try:
            self.process.stdin.write(json.dumps(stage).encode() + b"\n")
        except BrokenPipeError:
            self.close()
            raise NoForksError from None
        told = self._answer(attend)
        return int(told) if told else -int(signal.SIGKILL)  # it died, and the stage with it

    def _answer(self, attend: Callable[[], None]) -> bytes:
        """Its next line; empty where it died."""
        assert self.process.stdout is not None
        try:
            while not select.select([self.process.stdout], [], [], 0.2)[0]:
                attend()
        except BaseException:
            self.close()
            raise
        return self.process.stdout.readline()

    def close(self) -> None:
        """End it, with the stage that it runs."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def _changes() -> Iterator[float]:
    """When each source file was written or put where it is."""
    for package in ("models", "pipeline"):
        for file in (ROOT / package).rglob("*.py"):
            with suppress(FileNotFoundError):  # a link of an editor's, or gone meanwhile
                found = file.stat()
                yield max(found.st_mtime, found.st_ctime)


def main() -> None:
    if any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd")):  # NVIDIA's and AMD's
        return
    answers = os.dup(1)
    os.dup2(2, 1)  # what an import prints is no answer
    for name in IMPORTED:
        import_module(name)
    gc.collect()
    gc.freeze()  # or the collector would touch, and so copy, the pages that forks share
    own = os.getpid()
    os.close(os.pidfd_open(own))  # Linux has it since 5.3
    os.write(answers, READY)
    while line := sys.stdin.buffer.readline():
        child = os.fork()
        if child == 0:
            os.close(answers)
            begin(Stage(*json.loads(line)), own)
            return  # and so end as any process does
        os.write(answers, f"{_ended(child)}\n".encode())


def begin(stage: Stage, parent: int) -> None:
    """In the fork: be the process that the stage's command would have started."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # killed before that
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(stage.printed, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(stage.folder)
    sys.path[:1] = [stage.folder, str(ROOT)]  # what a study's own network imports is its own
    os.environ.update(stage.variables)
    module = import_module(f"pipeline.{stage.module}")
    sys.argv = [str(module.__file__), *stage.arguments]
    run_command(module.main)


def _ended(child: int) -> int:
    """The exit status of the fork, which is killed with all that it started if stdin ends."""
    with suppress(OSError):  # it has done so itself, or is over
        os.setpgid(child, child)
    ending = os.pidfd_open(child)
    if ending not in select.select([ending, 0], [], [])[0]:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.exit()
    os.close(ending)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()

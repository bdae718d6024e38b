"""Stages in processes of their own that can be killed, started in milliseconds.

They are forked from a server that has imported torch and computed nothing, so that a test can
afford many: a fresh interpreter takes seconds to import.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["pipeline.train", "pipeline.evaluate", "pipeline.predict", "pandas"]
)


def start(
    stage: str, folder: Path, *arguments: str, prepare: Callable[[], None] | None = None
) -> ForkServerProcess:
    """Run `pipeline.<stage>` in a study's folder; what it prints goes to `<folder>.printed`.

    prepare: a function of an importable module, called in the process first.
    """
    process = _server.Process(target=_work, args=(stage, str(folder), arguments, prepare))
    process.start()
    return process


def _work(
    stage: str, folder: str, arguments: tuple[str, ...], prepare: Callable[[], None] | None
) -> None:
    import importlib

    from pipeline.study.errors import run_command

    # A loader's workers, too, would come from the server, and import all that it has not.
    multiprocessing.set_start_method("fork", force=True)
    os.chdir(folder)
    sys.argv = [stage, *arguments]
    main = importlib.import_module(f"pipeline.{stage}").main
    with (
        Path(f"{folder}.printed").open("a") as printed,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        if prepare is not None:
            prepare()
        run_command(main)


def kill_at_step(number: int) -> None:
    """The process kills itself at that step of its writing: with half of a file written, before and
    after a file gets its name, and when one to be added to is open or has half of what is added."""
    steps = itertools.count()

    def step() -> bool:
        return next(steps) == number

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    replace, open_, writes = Path.replace, Path.open, (Path.write_bytes, Path.write_text)

    def killing_replace(self: Path, target: Path) -> Path:
        if step():
            end()
        replaced = replace(self, target)
        if step():
            end()
        return replaced

    def killing_open(self: Path, mode: str = "r", **rest: Any) -> Any:
        opened = open_(self, mode, **rest)
        if mode != "a":
            return opened
        if step():
            end()
        write = opened.write

        def write_half(content: str) -> int:
            if step():
                write(content[: len(content) // 2])
                opened.flush()
                end()
            return write(content)

        opened.write = write_half  # type: ignore[method-assign]
        return opened

    def killing(write: Callable[..., int]) -> Callable[..., int]:
        def half(self: Path, content: Any, **rest: Any) -> int:
            if step():
                write(self, content[: len(content) // 2], **rest)
                end()
            return write(self, content, **rest)

        return half

    Path.replace = killing_replace  # type: ignore[method-assign,assignment]
    Path.open = killing_open  # type: ignore[method-assign,assignment]
    Path.write_bytes, Path.write_text = map(killing, writes)  # type: ignore[method-assign]


def kill_in_second_save() -> None:
    """The process kills itself when half of its second state is written."""
    whole, calls = Path.write_bytes, []

    def half(self: Path, content: bytes) -> int:
        calls.append(self)
        if len(calls) == 2:
            whole(self, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, content)

    Path.write_bytes = half  # type: ignore[method-assign,assignment]


def kill_before_second_rename() -> None:
    """The process kills itself when its second state is written and not yet in place."""
    replace, calls = Path.replace, []

    def killing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = killing  # type: ignore[method-assign,assignment]


def kill_before_state_is_deleted() -> None:
    """The process kills itself when its results are written and its state is still there."""
    from pipeline.training.resume import ResumeFile

    ResumeFile.delete = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore


def kill_a_worker_in_second_epoch() -> None:
    """One of the loader's workers is killed, as the system does when memory runs out."""
    from pipeline.training import loop

    original = loop.train_epoch

    def killing(training: object, batches: object, epoch: int, *rest: object) -> object:
        if epoch == 2:
            worker = multiprocessing.active_children()[0]
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
        return original(training, batches, epoch, *rest)  # type: ignore[arg-type]

    loop.train_epoch = killing  # type: ignore[assignment]

"""study/limits.py: what the machine refuses is told as that, by every command."""

from __future__ import annotations

import errno
import multiprocessing
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.study import errors
from pipeline.study.errors import UserError, run_command
from pipeline.study.files import read_json
from pipeline.study.limits import limit_of


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "file handles ran out"),
        (OSError(errno.ENFILE, "Too many open files in system"), "the whole machine's file"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory ran out"),
        (MemoryError(), "memory ran out"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "memory ran out"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nunable to allocate "
                      "shared memory(shm) for file </torch_1_2>: No space"), "/dev/shm is too"),
        (RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode: "
                      "Read-only file system (30)"), "/dev/shm is too small"),
    ],
)  # fmt: skip
def test_what_a_machine_refuses_is_told_in_a_line(fault, told, capsys):
    def main() -> None:
        raise fault

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {told}")
    assert printed.count("\n") == 1


def test_another_error_is_no_limit():
    assert limit_of(OSError(errno.ENOENT, "No such file")) is None
    assert limit_of(BlockingIOError(errno.EAGAIN, "a lock is held")) is None
    assert limit_of(RuntimeError("shapes differ")) is None


@pytest.mark.parametrize(("most", "advised"), [(256, 4096), (20000, 40000)])
def test_more_file_handles_are_advised_than_there_are(monkeypatch, most, advised):
    monkeypatch.setattr("resource.getrlimit", lambda _: (most, most))
    told = limit_of(OSError(errno.EMFILE, "Too many open files"))
    assert told == (
        f"file handles ran out, of {most}: allow more (ulimit -n {advised}), then run again"
    )


@pytest.mark.parametrize(
    "start",
    [
        lambda: multiprocessing.get_context("fork").Process(target=print).start(),
        lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
        lambda: subprocess.run(["true"]) and None,
    ],
    ids=["fork", "spawn", "command"],
)
def test_a_process_that_cannot_be_started_is_told(monkeypatch, capsys, start):
    def refused(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    for name in ("os.fork", "_posixsubprocess.fork_exec", "subprocess._fork_exec"):
        monkeypatch.setattr(name, refused)
    with pytest.raises(SystemExit):
        run_command(start)
    assert capsys.readouterr().err == (
        "error: no more processes can be started: allow more (ulimit -u; Docker: --pids-limit), "
        "then run again\n"
    )


def test_a_file_that_could_not_be_opened_for_want_of_handles_is_not_blamed(
    tmp_path, monkeypatch, capsys
):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    for name in ("read_text", "read_bytes"):
        monkeypatch.setattr(Path, name, refused)
    with pytest.raises(SystemExit):
        run_command(lambda: read_json(tmp_path / "run.json", "train") and None)
    assert capsys.readouterr().err.startswith("error: file handles ran out, of ")


def test_a_message_that_tells_more_stays(capsys):
    def main() -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise UserError("set a smaller --batch-size") from None

    with pytest.raises(SystemExit):
        run_command(main)
    assert capsys.readouterr().err == "error: set a smaller --batch-size\n"
    assert errors.limit_of(None) is None


def errors_of(command: str, within: Sequence[str] = ()) -> list[str]:
    """The lines that a stage's error has, when it fails in a shell's command; no progress bar."""
    stage = command.replace("python", shlex.quote(sys.executable))
    done = subprocess.run([*within, "bash", "-c", stage], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return [line for line in re.split(r"[\r\n]+", done.stderr) if line and "case/s" not in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "stage"),
    [
        ("-n 10", "preprocess"),
        ("-n 8", "train gated_attention 0"),
        ("-v 700000", "preprocess"),
        ("-v 700000", "train gated_attention 0"),
    ],
)
def test_a_stage_under_a_limit_ends_in_one_line(tiny_study, limit, stage):
    (line,) = errors_of(f"ulimit {limit}; python -m pipeline.{stage}")
    assert line.startswith(
        ("error: file handles ran out, of ", "error: memory ran out, of 683 MiB")
    )


@pytest.mark.slow
def test_a_store_under_a_limit_of_size_is_told_in_one_line(tiny_study):
    (line,) = errors_of("ulimit -f 8; python -m pipeline.tracking sync")
    assert line.startswith("error: MLflow's store at ")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["ro", "size=4k"])
def test_shared_memory_that_cannot_be_written_is_named(tiny_study, options):
    """In a mount namespace of its own, where the machine allows one."""
    unshare = shutil.which("unshare")
    within = [unshare, "--mount", "--map-root-user"] if unshare else []
    mount = f"mount -t tmpfs -o {options} tmpfs /dev/shm"
    if subprocess.run([*(within or ["false"]), "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    fill = "cat /dev/zero 2>/dev/null > /dev/shm/full"
    command = f"{mount}; {{ {fill}; }} 2>/dev/null; python -m pipeline.preprocess"
    (line,) = errors_of(command, within)
    assert line.startswith("error: /dev/shm cannot be written (")

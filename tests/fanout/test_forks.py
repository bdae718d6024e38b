"""fanout/forks.py: a fork does what the stage's command does, and dies when it is to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, change_params

from pipeline.fanout import forks
from pipeline.fanout.forks import Forks, NoForksError, Stage, stage_of

pytestmark = pytest.mark.slow

THREADS = {"OMP_NUM_THREADS": "2"}  # a pool of threads does not survive a fork


@pytest.fixture(scope="module")
def process() -> Iterator[Forks]:
    made = Forks(os.environ | THREADS)
    yield made
    made.close()


def stage(study, printed: Path, *arguments: str) -> Stage:
    printed.touch()
    command = f"PYTHONPATH={REPOSITORY} python -m pipeline.{' '.join(arguments)}"
    found = stage_of(command, study.folder.resolve(), str(printed), "name")
    assert found is not None
    return found


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def runs(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def contents(folder: Path) -> dict[str, bytes]:
    """Of a run's files, but for those that tell times."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("history.csv", "run.json")
    }


def test_a_fork_writes_what_the_command_writes_to_the_bit(tiny_study, process, tmp_path):
    change_params(tracking={"live": False})
    folder = tiny_study.run_dir("gated_attention", 0)
    for work in ("train", "evaluate"):
        printed = tmp_path / work
        one = stage(tiny_study, printed, work, "gated_attention", "0", "0")
        assert process.run(one, lambda: None) == 0, printed.read_text()
        assert printed.read_text().splitlines()[-1].startswith(f"{work}: ")
    forked = contents(folder)
    assert len(forked) > 5
    for work in ("train", "evaluate"):
        subprocess.run(
            [sys.executable, "-m", f"pipeline.{work}", "gated_attention", "0", "0"],
            env=os.environ | THREADS | {"PYTHONPATH": str(REPOSITORY)},
            cwd=tiny_study.folder,
            check=True,
        )
    assert contents(folder) == forked


def test_a_stage_that_fails_tells_why_and_the_next_one_runs(tiny_study, process, tmp_path):
    change_params(tracking={"live": False})
    wrong = stage(tiny_study, tmp_path / "wrong", "train", "gated_attention", "99")
    assert process.run(wrong, lambda: None) == 1
    assert "error: " in (tmp_path / "wrong").read_text()
    assert "Traceback" not in (tmp_path / "wrong").read_text()
    right = stage(tiny_study, tmp_path / "right", "train", "gated_attention", "0")
    assert process.run(right, lambda: None) == 0


class UnwantedError(Exception):
    pass


def fork_of(process: int) -> int | None:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(children[0]) if children else None


def test_a_stage_that_nobody_waits_for_is_killed(tiny_study, tmp_path):
    change_params(tracking={"live": False}, train={"epochs": 10_000})
    process = Forks(os.environ)
    found: list[int] = []

    def attend() -> None:
        heartbeat = Path(".resume/gated_attention/0/0.json")
        child = fork_of(process.process.pid)
        if child is not None and heartbeat.exists():
            found.append(child)
            raise UnwantedError

    with pytest.raises(UnwantedError):
        process.run(stage(tiny_study, tmp_path / "out", "train", "gated_attention", "0"), attend)
    assert not runs(found[0])
    assert not process.serves(os.environ)


WORKER = """
import json, os, sys
from pipeline.fanout.forks import Forks, Stage
process = Forks(os.environ)
print(process.process.pid, flush=True)
process.run(Stage(*json.loads(sys.argv[1])), lambda: None)
"""


@pytest.mark.parametrize("killed", ["the worker", "the process that forks"])
def test_a_stage_dies_with_those_above_it(tiny_study, tmp_path, killed):
    change_params(tracking={"live": False}, train={"epochs": 10_000})
    one = stage(tiny_study, tmp_path / "out", "train", "gated_attention", "0")
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, json.dumps(one)], stdout=subprocess.PIPE, text=True
    )
    try:
        forking = int(worker.stdout.readline())
        until(lambda: fork_of(forking) is not None)
        child = fork_of(forking)
        os.kill(worker.pid if killed == "the worker" else forking, signal.SIGKILL)
        until(lambda: not runs(child))
        until(lambda: not runs(forking))
    finally:
        worker.kill()
        worker.wait()


def test_where_an_import_fails_nothing_has_run_and_the_command_tells_why(tiny_study, tmp_path):
    """As after a mistake in a source: the worker then takes the stage's own command."""
    (tmp_path / "albumentations.py").write_text("raise ImportError('none of that')")
    process = Forks(os.environ | {"PYTHONPATH": str(tmp_path)})
    one = stage(tiny_study, tmp_path / "out", "train", "gated_attention", "0")
    with pytest.raises(NoForksError):
        process.run(one, lambda: None)
    assert not process.serves(process.variables)
    assert (tmp_path / "out").read_text() == ""


def test_what_an_import_prints_is_no_answer(tiny_study, tmp_path):
    (tmp_path / "albumentations.py").write_text("print('1')")
    process = Forks(os.environ | {"PYTHONPATH": str(tmp_path)})
    wrong = stage(tiny_study, tmp_path / "out", "evaluate", "gated_attention", "99")
    assert process.run(wrong, lambda: None) == 1
    assert "error: " in (tmp_path / "out").read_text()
    process.close()


def test_changed_sources_and_other_variables_want_another_process(process, monkeypatch):
    assert process.serves(process.variables)
    assert not process.serves(process.variables | {"OMP_NUM_THREADS": "3"})
    monkeypatch.setattr(forks, "_changes", lambda: iter([process.started + 1]))
    assert not process.serves(process.variables)


def test_only_the_sources_own_stages_are_forked(tmp_path):
    link = tmp_path / "study" / "code"
    link.parent.mkdir()
    link.symlink_to(REPOSITORY)
    own = "PYTHONPATH=code python -m pipeline.train unet 0 0"
    found = stage_of(own, link.parent, "printed", "train@unet-0-0")
    assert found is not None
    assert (found.module, found.arguments) == ("train", ["unet", "0", "0"])
    assert found.variables == {"PYTHONPATH": "code", "DVC_STAGE": "train@unet-0-0"}
    for other in (
        "PYTHONPATH=.. python -m pipeline.train unet 0 0",  # another's sources
        "python -m pipeline.train unet 0 0",
        "PYTHONPATH=code python -m pipeline.report",
        "PYTHONPATH=code python -m pipeline.train unet 0 0; echo done",
        "PYTHONPATH=code python -m pipeline.train $(id)",
        "echo unet",
    ):
        assert stage_of(other, link.parent, "printed", "name") is None

"""study/locks.py: who writes owns, however its process ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from pipeline.study.errors import UserError
from pipeline.study.locks import alone, is_held, owning


def hold(lock: Path, held) -> None:
    with alone(lock, "the test"):
        held.set()
        signal.pause()


def test_a_lock_is_held_while_another_process_lives_and_asking_does_not_take_it(tmp_path):
    lock = tmp_path / "a.lock"
    assert not is_held(lock)
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(lock, held))
    process.start()
    assert held.wait(30)
    assert is_held(lock)
    with pytest.raises(UserError, match="another process"), alone(lock, "the test"):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not is_held(lock)
    with alone(lock, "the test"):
        pass
    assert not lock.exists()


def own(path: Path, held) -> None:
    with owning(path):
        held.set()
        signal.pause()


# The last two have 252 and 254 bytes, of the 255 that a name may have.
@pytest.mark.parametrize("name", ["exported", "e" * 255, "e" * 252, "\u0436" * 127])
def test_a_path_that_is_being_written_has_one_writer(tmp_path, name):
    path = tmp_path / name
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=own, args=(path, held))
    process.start()
    assert held.wait(30)
    told = "is being written by another process"
    with pytest.raises(UserError, match=told) as error, owning(path):
        pass
    assert str(error.value).startswith(str(path))
    process.kill()
    process.join()
    with owning(path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_told_and_not_waited_for(tmp_path, make):
    lock = tmp_path / "a.lock"
    make(lock)
    assert not is_held(lock)
    with pytest.raises(UserError, match=r"a\.lock must be a file"), alone(lock, "the test"):
        pass
    assert lock.exists()

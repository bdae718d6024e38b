"""What goes wrong in a training, told in words: memory, a worker that died."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.study.errors import UserError
from pipeline.study.limits import MEMORY
from pipeline.study.params import Study
from pipeline.study.values import extent


@contextmanager
def machine_faults_told(study: Study) -> Iterator[None]:
    """Raise UserError, in one sentence, for memory that ran out and a loader's worker that died."""
    try:
        yield
        return
    except (MemoryError, RuntimeError, OSError) as error:
        told = _told(error, study)
        if not told:
            raise
    except UserError as error:
        # What a worker raises comes with the worker's traceback before it.
        told = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2].strip()
        if told == str(error):
            raise
    raise UserError(told)


def _told(error: Exception, study: Study) -> str:
    told = str(error)
    if "deterministic implementation" in told:
        return (
            f"{told.splitlines()[0]} set {study.train_key}.deterministic: false to train without "
            "the promise that a run repeats to the bit"
        )
    died = re.match(r"DataLoader worker \(pid.*?\) [^.]*", told)
    if died:
        return (
            f"{died[0]}: run again to go on where it was; if it happens "
            "again, memory or /dev/shm may be too small: set loader_workers: 0"
        )
    if isinstance(error, MemoryError) or re.search(MEMORY, told):
        size, key = extent(study.prepare.size), f"{study.train_key}.batch_size"
        return (
            f"memory ran out with {key} {study.train.batch_size} at {size}: set a smaller "
            f"{key}, or free memory and run again"
        )
    return ""

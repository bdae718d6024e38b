"""What goes wrong in a training, told in words: memory, shared memory, a worker that died."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.study.errors import UserError
from pipeline.study.params import Study


@contextmanager
def machine_faults_told(study: Study) -> Iterator[None]:
    """Raise UserError, in one sentence, for memory that ran out and a loader's worker that died."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        told = str(error)
        if re.search(_SHARED_MEMORY, told):
            raise UserError(
                "/dev/shm is too small for the loader's workers: make it larger (Docker: "
                "--shm-size), or set fewer loader_workers, 0 for none"
            ) from None
        if "deterministic implementation" in told:
            raise UserError(
                f"{told.splitlines()[0]} set train.deterministic: false to train without the "
                "promise that a run repeats to the bit"
            ) from None
        died = re.match(r"DataLoader worker \(pid.*?\) [^.]*", told)
        if died:
            raise UserError(
                f"{died[0]}: run again to go on after the last finished epoch; if it happens "
                "again, memory or /dev/shm may be too small: set loader_workers: 0"
            ) from None
        if isinstance(error, MemoryError) or re.search(_OUT_OF_MEMORY, told):
            size = f"{study.prepare.height}x{study.prepare.width}"
            raise UserError(
                f"memory ran out with train.batch_size {study.train.batch_size} at {size} pixels: "
                "set a smaller train.batch_size, or free memory and run again"
            ) from None
        raise
    except UserError as error:
        # What a worker raises comes with the worker's traceback before it.
        told = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2]
        raise UserError(told.strip()) from None


# CUDA's, oneDNN's and the CPU allocator's words for it.
_OUT_OF_MEMORY = (
    r"out of memory|can't allocate memory|could not allocate|CU(DNN|BLAS)_STATUS_ALLOC_FAILED|"
    r"Cannot allocate memory"
)
_SHARED_MEMORY = r"allocate shared memory|</torch_"

"""What the machine refuses a process, told in words: file handles, memory, processes, threads,
/dev/shm.

Such an error comes from anywhere, from an import too, and is no fault of the file that was at hand.
"""

from __future__ import annotations

import errno
import re
import resource
import sys
import traceback
from types import TracebackType

MEMORY = (  # CUDA's, oneDNN's, the CPU allocator's and the loader's words for it
    r"out of memory|can't allocate memory|could not allocate|CU(DNN|BLAS)_STATUS_ALLOC_FAILED|"
    r"Cannot allocate memory|failed to map segment|Unable to allocate"
)
SHARED_MEMORY = r"allocate shared memory|</torch_"
_STARTERS = ("multiprocessing/popen_fork.py", "multiprocessing/util.py", "/subprocess.py")


def limit_of(error: BaseException | None) -> str | None:
    """What to do about the limit that `error`, or one that it was raised for, comes from; None for
    an error of another kind."""
    while error is not None:
        told = _limit_of(error)
        if told is not None:
            return told
        error = error.__cause__ or error.__context__
    return None


def _limit_of(error: BaseException) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    text = str(error) if isinstance(error, RuntimeError | OSError | ImportError) else ""
    if number == errno.EMFILE:
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        more = max(4096, 2 * most)
        return f"file handles ran out, of {most}: allow more (ulimit -n {more}), then run again"
    if number == errno.ENFILE:
        return (
            "the whole machine's file handles ran out: end what holds many, or allow more (sysctl "
            "fs.file-max), then run again"
        )
    # Its semaphores lie in /dev/shm, which its errors do not say.
    if isinstance(error, OSError) and _raised_in(error, "multiprocessing/synchronize.py"):
        return (
            f"/dev/shm cannot be written ({error.strerror}): processes share their locks there; "
            "make room in it or mount it for writing, then run again"
        )
    if re.search(SHARED_MEMORY, text):
        return (
            "/dev/shm is too small for the loader's workers, or cannot be written: make it larger "
            "(Docker: --shm-size), or set fewer loader_workers, 0 for none"
        )
    if "can't start new thread" in text:
        return "no more threads can be started: allow more (ulimit -u, ulimit -v), then run again"
    if number == errno.EAGAIN and _raised_in(error, *_STARTERS):
        return (
            "no more processes can be started: allow more (ulimit -u; Docker: --pids-limit), then "
            "run again"
        )
    if isinstance(error, MemoryError) or number == errno.ENOMEM or re.search(MEMORY, text):
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY:
            return "memory ran out: free some, then run again"
        return (
            f"memory ran out, of {most // 2**20} MiB of addresses: allow more (ulimit -v "
            "unlimited), then run again"
        )
    return None


def _raised_in(error: BaseException, *files: str) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename.endswith(files) for frame in frames)


def tell_limits() -> None:
    """Have uncaught errors of these kinds told in a line: those of imports, too."""
    before = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        told = limit_of(error)
        if told is None:
            before(kind, error, trace)
        else:
            print(f"error: {told}", file=sys.stderr)

    sys.excepthook = tell

"""One process at a time: who writes a run, a stage's outputs or a folder of results owns it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.study.errors import UserError, warn
from pipeline.study.files import short_name, writing

_FLOCK = "hhqqi"  # Linux' struct flock: type, whence, start, length, pid
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def alone(lock: Path, label: str, doing: str = "written") -> Iterator[None]:
    """Raise UserError if another process is in such a block with the same file `lock`, which is
    there as long as the block lasts.

    A POSIX lock, which goes with its process however that ends. One by flock, as filelock takes,
    would be inherited by the loader's workers and outlive a killed training by some seconds.
    """
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.exists() and not lock.is_file():  # a pipe would wait for ever
            raise UserError(f"{lock} must be a file, for a lock: move away what is in its place")
        file = lock.open("a")
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"{label} is being {doing} by another process, which holds {lock}: wait until it "
                "is done, or stop it; nothing was changed"
            ) from None
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
            warn(f"{lock}: its file system has no locks: take care that {label} has one writer")
        if not _is_at(file.fileno(), lock):  # its owner removed it between our two calls
            with alone(lock, label, doing):
                yield
            return
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # before it is let go


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def owning(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`, a file or a folder that is replaced whole.

    Raises UserError where another is at it. The lock lies beside, for `path` comes and goes.
    """
    whole = path.absolute()
    with alone(whole.with_name(f".{short_name(whole.name)}.lock"), str(path)):
        yield


def is_held(lock: Path) -> bool:
    """Whether another process is in `alone` with this lock; asks, and never takes it.

    Not to be asked of a lock that this process holds: closing the file would let it go.
    """
    try:
        if not lock.is_file():
            return False
        with lock.open("rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            told = fcntl.fcntl(file, fcntl.F_GETLK, asked)
    except OSError:
        return False
    return bool(struct.unpack_from("h", told)[0] != fcntl.F_UNLCK)

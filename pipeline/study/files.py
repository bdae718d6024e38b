"""Files that are whole or absent, and their checksums."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.study.errors import UserError
from pipeline.study.limits import limit_of

# What a disk or its owner refuses: full, over quota, too large, read-only, not allowed, broken.
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
)
# No path for a file or a folder: below a file, too long, a loop of links, in the way, mounted.
_IMPOSSIBLE = (
    *(errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EEXIST, errno.EISDIR, errno.EBUSY),
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UserError where the disk refuses that `path` be written: full, read-only, broken, or
    no place for it."""
    try:
        yield
    except OSError as error:
        if limit_of(error):
            raise
        if error.errno in _REFUSALS:
            advice = "make room or allow writing, then run again"
        elif error.errno in _IMPOSSIBLE or (
            error.errno == errno.ENOENT and not path.parent.is_dir()  # as /proc lets none be made
        ):
            advice = "name another path, or move away what is in its place"
        else:
            raise
        raise UserError(
            f"{path} cannot be written: {os.strerror(error.errno)}; what was there before is kept: "
            f"{advice}"
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (a file's or a folder's) to be written in its place.

    It takes the name of `path` only when the block ends without an error; else it is removed and
    what was there before stays. A file's bytes are on the disk before the rename, and the new name
    is when the block has ended. Raises UserError where the disk refuses, and what `before_placing`
    raises.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        temporary = temporary_path(path)
        try:
            yield temporary
            for check in before_placing:
                check(path)
            if temporary.is_file():
                with temporary.open("rb+") as written:
                    os.fsync(written.fileno())
            else:
                _remove(path)  # a folder cannot be renamed over a filled one
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            _remove(temporary)


# Called with each path that `replacing` is about to put in place; what one raises keeps it away.
before_placing: list[Callable[[Path], None]] = []


def temporary_path(path: Path) -> Path:
    """A hidden path beside `path` that no other writer has, of this process or any other."""
    return path.with_name(
        f".{short_name(path.name)}.{_machine()}-{os.getpid()}-{next(_NUMBER)}.partial"
    )


_NUMBER = itertools.count()
_TEMPORARY = re.compile(r"\.(?P<name>.*)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.partial", re.S)
_OLD = 24 * 3600  # seconds


def short_name(name: str) -> str:
    """Of a name as much as leaves room for more: a file's has at most 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:190])


@cache
def _machine() -> str:
    """Names this machine, or the container: its processes know each other by their ids."""
    processes = Path("/proc/self/ns/pid")
    known = f"{platform.node()} {processes.stat().st_ino if processes.exists() else 0}"
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def is_temporary(name: str) -> bool:
    """Whether it is a name that `temporary_path` gives."""
    return _TEMPORARY.fullmatch(name) is not None


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove the temporary paths of writers that were killed: those for `name`, or all."""
    for entry in os.scandir(folder):
        found = _TEMPORARY.fullmatch(entry.name)
        if found and (not name or found["name"] == short_name(name)):
            with suppress(FileNotFoundError):  # another process was first
                over = found["machine"] == _machine() and not _runs(int(found["pid"]))
                if over or time.time() - entry.stat(follow_symlinks=False).st_mtime > _OLD:
                    _remove(Path(entry.path))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # another user's
    return True


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk: a power cut then keeps a rename."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> None:
    """Write `content` as indented JSON; NaN and infinity are refused, JSON has neither."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=indent, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """The JSON object in `path`. Raises UserError naming the stage that writes it."""
    try:
        content = from_json(path.read_bytes(), allow_inf_nan=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or unusable ({error}); run the stage {stage}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object; run the stage {stage} again")
    return content


def sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

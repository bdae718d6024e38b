"""Files that are whole or absent, and their checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.study.errors import UserError

# What a disk or its owner refuses: full, over quota, read-only, not allowed, broken; and a place
# where there can be no such file.
_REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UserError where the disk refuses that `path` be written: full, read-only, broken."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise UserError(
            f"{path} cannot be written: {os.strerror(error.errno)}; what was there before is kept: "
            "make room or allow writing, then run again"
        ) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (a file's or a folder's) to be written in its place.

    It takes the name of `path` only when the block ends without an error; else it is removed and
    what was there before stays. A file's bytes are on the disk before the rename, and the new name
    is when the block has ended. Raises UserError where the disk refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        _remove(temporary)
        try:
            yield temporary
            if temporary.is_file():
                with temporary.open("rb+") as written:
                    os.fsync(written.fileno())
            else:
                _remove(path)  # a folder cannot be renamed over a filled one
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            _remove(temporary)


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

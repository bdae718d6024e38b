"""What a user did, told in one line: no traceback, a non-zero exit."""

from __future__ import annotations

import errno
import gc
import io
import os
import select
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

from models import NetworkError, told_of_own_code
from pipeline.study.credentials import without_credentials
from pipeline.study.limits import limit_of

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Bad input. The message names file or key, the value found, what is expected, what to do."""


def first_fault(invalid: ValidationError) -> str:
    """Of a file that does not fit its model: the key, what is wrong with it, the value found."""
    first = invalid.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the file"
    wrong = shorten(first["msg"], 300)
    return f"{key}: {wrong[0].lower()}{wrong[1:]}, got {str(first['input'])[:60]!r}"


def warn(message: str) -> None:
    """Tell, in one line on stderr, of something that does not end the stage; above any bars."""
    tqdm.write(f"warning: {without_credentials(message)}", file=sys.stderr)


def _print_error(message: str) -> None:
    print(f"error: {without_credentials(message)}", file=sys.stderr)


def _print_traceback(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    """As Python does, without the credentials that a library may have put into its words."""
    lines = traceback.format_exception(kind, error, where)
    print(without_credentials("".join(lines)), end="", file=sys.stderr)


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed any more: `| head`, which has read enough."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _print_no_more() -> None:
    """Have nothing left that could not be printed: Python would tell of it at exit."""
    with suppress(OSError):
        sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _full(error: Exception) -> str | None:
    """What to do about a full disk where no file of ours is written, whose errors name it."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if not isinstance(error, OSError) or error.errno not in full or error.filename is not None:
        return None
    _print_no_more()
    return (
        f"what is printed, or a temporary file, cannot be written: {error.strerror}; make room, "
        "then run again"
    )


def run_command(main: Callable[[], None], failure: int = 1) -> None:
    """Run a stage's `main`; a UserError, and what a study's own network raises, becomes one message
    on stderr and the exit status `failure`, Ctrl-C the shell's status for it and no traceback. Any
    other exception has its traceback, and the same status."""
    sys.excepthook = _print_traceback
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for good
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name of a file may be any bytes
    try:
        main()
        sys.stdout.flush()
    except (UserError, NetworkError) as error:
        # What could not be read for want of file handles is not at fault, whatever was made of it.
        met = error.__context__ if isinstance(error.__context__, OSError) else None
        _print_error(limit_of(met) or str(error))
        sys.exit(failure)
    except KeyboardInterrupt:
        print("stopped; run again to complete it", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _print_no_more()
            sys.exit(141)  # 128 + SIGPIPE
        told = limit_of(error) or told_of_own_code(error) or _full(error)
        if told is None:
            sys.excepthook(type(error), error, error.__traceback__)
        else:
            _print_error(told)
        sys.exit(failure)
    finally:
        # At exit Python walks every object that torch's import left, for a second or more; frozen
        # ones it passes over.
        gc.freeze()

"""What a user did, told in one line: no traceback, a non-zero exit."""

from __future__ import annotations

import gc
import io
import os
import select
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from tqdm import tqdm

from models import NetworkError, told_of_own_code

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """Bad input. The message names file or key, the value found, what is expected, what to do."""


def first_fault(invalid: ValidationError) -> str:
    """Of a file that does not fit its model: the key, what is wrong with it, the value found."""
    first = invalid.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the file"
    wrong = first["msg"]
    return f"{key}: {wrong[0].lower()}{wrong[1:]}, got {str(first['input'])[:60]!r}"


def warn(message: str) -> None:
    """Tell, in one line on stderr, of something that does not end the stage; above any bars."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed any more: `| head`, which has read enough."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def run_command(main: Callable[[], None], failure: int = 1) -> None:
    """Run a stage's `main`; a UserError, and what a study's own network raises, becomes one message
    on stderr and the exit status `failure`, Ctrl-C the shell's status for it and no traceback. Any
    other exception has its traceback, and the same status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name of a file may be any bytes
    try:
        main()
        sys.stdout.flush()
    except (UserError, NetworkError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(failure)
    except KeyboardInterrupt:
        print("stopped; run again to complete it", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # 128 + SIGPIPE
        told = told_of_own_code(error)
        if told is None:
            traceback.print_exc()
        else:
            print(f"error: {told}", file=sys.stderr)
        sys.exit(failure)
    finally:
        # At exit Python walks every object that torch's import left, for a second or more; frozen
        # ones it passes over.
        gc.freeze()

"""What a user did, told in one line: no traceback, a non-zero exit."""

from __future__ import annotations

import gc
import os
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from tqdm import tqdm

from models import NetworkError, told_of_own_code
from pipeline.study.limits import limit_of

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


def run_command(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a UserError, and what a study's own network raises, becomes one message
    on stderr and exit status 1, Ctrl-C the shell's status for it and no traceback."""
    try:
        main()
        sys.stdout.flush()
    except (UserError, NetworkError) as error:
        # What could not be read for want of file handles is not at fault, whatever was made of it.
        met = error.__context__ if isinstance(error.__context__, OSError) else None
        print(f"error: {limit_of(met) or error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # another pipe's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 + SIGPIPE
    except KeyboardInterrupt:
        print("stopped; run again to complete it", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT
    except Exception as error:
        told = limit_of(error) or told_of_own_code(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(1)
    finally:
        # At exit Python walks every object that torch's import left, for a second or more; frozen
        # ones it passes over.
        gc.freeze()

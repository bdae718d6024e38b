"""What a user did, told in one line: no traceback, a non-zero exit."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from tqdm import tqdm


class UserError(Exception):
    """Bad input. The message names file or key, the value found, what is expected, what to do."""


def warn(message: str) -> None:
    """Tell, in one line on stderr, of something that does not end the stage; above any bars."""
    tqdm.write(f"warning: {message}", file=sys.stderr)


def run_command(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a UserError becomes one message on stderr and exit status 1, Ctrl-C
    the shell's status for it and no traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run again to complete it", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT
    finally:
        # At exit Python walks every object that torch's import left, for a second or more; frozen
        # ones it passes over.
        gc.freeze()

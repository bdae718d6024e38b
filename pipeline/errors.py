"""What a user did, told in one line: no traceback, a non-zero exit."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message names file or key, the value found, what is expected, what to do."""


def run_command(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a UserError becomes one message on stderr and exit status 1."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        # At exit Python walks every object that torch's import left, for a second or more; frozen
        # ones it passes over.
        gc.freeze()

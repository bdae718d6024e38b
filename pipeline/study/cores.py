"""The processor's cores that this process may use, and how its threads wait for one another."""

from __future__ import annotations

import os
import warnings


def usable_cores() -> int:
    """Those that the machine lets this process have, at least 1: by its affinity (`taskset`, a
    batch system's) and its container's or group's quota. LOKY_MAX_CPU_COUNT asks for fewer."""
    # A twentieth of a second. joblib.cpu_count itself says 1 where it cannot start processes.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of that, and nothing here wants its processes
        from joblib.externals.loky import cpu_count

    return int(cpu_count())


def bound_spinning() -> None:
    """Let threads that wait for another spin for microseconds, then sleep. To be called before
    torch is imported: OpenMP's libraries read these when they are loaded.

    GNU's does 300,000 rounds by default: beside another user's busy process a thread then waits for
    the core that another one spins on, at each barrier, and a training step takes 7 times as long.
    With 20,000 steps on idle cores are as fast; with 1,000 or OMP_WAIT_POLICY=PASSIVE they are a
    fifth and more slower (tests/benchmarks/test_busy_machine.py). Intel's and LLVM's spin for 200
    milliseconds by default. A user's own settings of these are left as they are.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        os.environ.setdefault("KMP_BLOCKTIME", "1")

"""study/cores.py: threads as many as a process may have, and how long they spin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from pipeline.study.cores import usable_cores

OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A new process, of whose variables these alone concern threads."""
    own = {name: value for name, value in os.environ.items() if name not in OURS}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=own | {"PYTHONPATH": str(REPOSITORY)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )


SPINNING = "import pipeline, os; print(*map(os.environ.get, ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME')))"


def test_spinning_is_bounded_and_a_users_settings_stay():
    assert python(SPINNING).stdout.split() == ["20000", "1"]
    assert python(SPINNING, GOMP_SPINCOUNT="7").stdout.split() == ["7", "1"]
    assert python(SPINNING, KMP_BLOCKTIME="9").stdout.split() == ["20000", "9"]
    assert python(SPINNING, OMP_WAIT_POLICY="active").stdout.split() == ["None", "None"]


def test_the_library_that_torch_computes_with_reads_it():
    done = python("import pipeline.engine.compute", OMP_DISPLAY_ENV="verbose")
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch uses another OpenMP library than GNU's here")
    assert "GOMP_SPINCOUNT = '20000'" in done.stderr


THREADS = "import pipeline.engine.compute, torch; print(torch.get_num_threads())"


def test_torch_takes_the_cores_that_it_may_use():
    """joblib goes by affinity and by a container's quota; this variable stands for the latter."""
    assert int(python(THREADS).stdout) == usable_cores()
    assert python(THREADS, LOKY_MAX_CPU_COUNT="1").stdout == "1\n"
    assert python(THREADS, LOKY_MAX_CPU_COUNT="1", OMP_NUM_THREADS="2").stdout == "2\n"


def test_affinity_counts():
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(own)})
        assert usable_cores() == 1
        assert python(THREADS).stdout == "1\n"
    finally:
        os.sched_setaffinity(0, own)

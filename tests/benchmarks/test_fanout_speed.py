"""What the fan-out costs: planning, memory and idle workers with 10,000 stages, and each stage.

`pytest tests/benchmarks/test_fanout_speed.py -s` prints the figures; LESION_LONG_BENCHMARKS=1 adds
the runs that take minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from conftest import REPOSITORY
from light_study import LightStudy

from pipeline.fanout import __main__ as fanout
from pipeline.fanout import cluster, tasks
from pipeline.fanout.matrix import Matrix
from pipeline.fanout.worker import computing_with, run_job

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")

import many_stages  # noqa: E402  needs distributed
from dvc.repo import Repo  # noqa: E402  takes a second
from dvc.repo.index import Index  # noqa: E402

long = pytest.mark.skipif(
    "LESION_LONG_BENCHMARKS" not in os.environ,
    reason="takes minutes: set LESION_LONG_BENCHMARKS=1 to run it",
)


def test_planning_a_stage_takes_no_longer_where_there_are_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And half as long at most as DVC's reading of it."""
    study = LightStudy(tmp_path / "repository", variants=5, seeds=1)
    study.take_real_stages()
    monkeypatch.chdir(study.folder)

    def seconds_each(seeds: int, plan: Callable[[], Sequence[object]]) -> float:
        study.params["seeds"] = list(range(seeds))
        study.write_params()
        start = time.perf_counter()
        stages = len(plan())
        assert stages >= 10 * seeds
        return (time.perf_counter() - start) / stages

    def fan_out() -> Sequence[object]:
        made = Matrix(Path())
        with made.claimed():
            return made.stale()

    def dvc() -> Sequence[object]:
        return Index.from_file(Repo("."), str(study.folder / "dvc.yaml")).graph

    seconds_each(1, fan_out)  # imports
    few, many, by_dvc = seconds_each(10, fan_out), seconds_each(80, fan_out), seconds_each(20, dvc)
    print(f"a stage: {few * 1e3:.2f} ms of 100, {many * 1e3:.2f} of 800; DVC {by_dvc * 1e3:.2f}")
    assert many < 1.5 * few
    assert many < by_dvc / 2


@long
def test_ten_thousand_stages_are_planned_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From params.yaml and dvc.yaml to tasks at the scheduler; most of it is DVC's reading."""
    study = LightStudy(tmp_path / "repository", variants=5, seeds=1000)
    study.take_real_stages()
    monkeypatch.chdir(study.folder)
    with many_stages.fifty_workers() as client:
        before, start = many_stages.megabytes(), time.perf_counter()
        made = Matrix(Path())
        with made.claimed():
            jobs = made.stale()
        known = time.perf_counter() - start
        futures = tasks.submit(client, partial(many_stages.sleep, seconds=60), jobs, {}, {})
        planned = time.perf_counter() - start
        time.sleep(3)  # the scheduler has its own work with them
        grown = many_stages.megabytes() - before
        client.cancel([future for _, future in futures.values()])
    print(f"10,000 stages: read in {known:.1f} s, planned in {planned:.1f} s, {grown:.0f} MB")
    assert len(futures) == 10_005  # and an average a variant
    assert planned < 10
    assert grown < 500


@long
def test_fifty_workers_are_kept_busy_by_ten_thousand_stages():
    command = [sys.executable, many_stages.__file__, "10000", "5"]
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"10,000 stages of 5 s: {found['seconds']:.0f} s, workers {found['busy']:.0%} busy, "
        f"{found['megabytes']:.0f} MB for client, scheduler and workers"
    )
    assert found["busy"] >= 0.9
    assert found["megabytes"] < 500


@long
def test_a_stage_costs_less_than_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stages that do nothing, through DVC and Dask, one after the other."""
    study = LightStudy(tmp_path / "repository", variants=4, seeds=5, epochs=1, milliseconds=1)
    study.run("dvc", "--cd", "studies/light", "repro", "preprocess")
    monkeypatch.chdir(study.folder)
    made = Matrix(Path())
    run = partial(run_job, environment={}, taken={})
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
        made.claimed(),
    ):
        jobs = made.stale()
        start = time.perf_counter()
        fanout.fan_out(client, made, jobs, run, {})
        each = (time.perf_counter() - start) / len(jobs)
    print(f"{each:.2f} s a stage")
    assert len(jobs) == 40
    assert each < 1


@long
def test_two_workers_halve_the_demos_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Against `dvc repro`, each stage with one thread, and against what the machine can do: two
    trainings at once instead of one after the other, without DVC and Dask."""
    root = tmp_path / "alone"
    variables = os.environ | computing_with(1) | {"PYTHONPATH": ""}
    variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables.pop("MLFLOW_TRACKING_URI", None)
    subprocess.run(["git", "clone", "-q", str(REPOSITORY), str(root)], check=True)
    repro = ["dvc", "--cd", "studies/demo", "repro", "-q"]

    def seconds(*commands: Sequence[str], at_once: bool = False, cwd: Path = root) -> float:
        start, running = time.perf_counter(), []
        for command in commands:
            running.append(
                subprocess.Popen(command, cwd=cwd, env=variables, stdout=subprocess.DEVNULL)
            )
            if not at_once:
                running[-1].wait()
        assert [process.wait() for process in running] == [0] * len(commands)
        return time.perf_counter() - start

    seconds([*repro, "preprocess", "networks"])
    shutil.copytree(root, tmp_path / "fanned", symlinks=True)
    study = shutil.copytree(root, tmp_path / "plain", symlinks=True) / "studies" / "demo"
    variables["PYTHONPATH"] = "../.."
    trainings = [[sys.executable, "-m", "pipeline.train", "resunet", seed, "0"] for seed in "01"]
    single = seconds(*trainings, cwd=study)
    shutil.rmtree(study / "runs")
    most = single / seconds(*trainings, at_once=True, cwd=study)
    variables["PYTHONPATH"] = ""
    alone = seconds([*repro, "train", "evaluate", "average"])

    monkeypatch.chdir(tmp_path / "fanned" / "studies" / "demo")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    arguments = fanout.parse(["--workers", "2", "--threads-per-run", "1"])
    start, made = time.perf_counter(), Matrix(Path())
    with made.claimed():
        jobs = made.stale()
        with cluster.open_client(arguments, len(jobs)) as client:
            run = partial(run_job, environment=cluster.environment(arguments), taken={})
            fanout.fan_out(client, made, jobs, run, {})
    fanned = time.perf_counter() - start
    assert len(jobs) == 35
    locks = [tmp_path / name / "studies/demo/dvc.lock" for name in ("alone", "fanned")]
    weights = [
        re.findall(r"weights.safetensors\s+hash: md5\s+md5: (\w+)", p.read_text()) for p in locks
    ]
    assert sorted(weights[0]) == sorted(weights[1])
    ratio = alone / fanned
    print(f"dvc repro {alone:.0f} s, fan-out {fanned:.0f} s: {ratio:.2f}; plain {most:.2f}")
    # 1.7 is asked, of two cores.
    assert ratio > 0.85 * most

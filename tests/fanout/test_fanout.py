"""fanout/__main__.py: the matrix on a Dask cluster ends as `dvc repro` alone would end it."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import mlflow
import psutil
import pytest
import requests
import yaml
from conftest import change_params
from light_study import REPOSITORY, LightStudy

from pipeline import describe_networks
from pipeline.fanout import __main__ as fanout
from pipeline.fanout.cluster import (
    Workers,
    check_offered,
    environment,
    local,
    local_slots,
    open_client,
    queued,
    resources,
)
from pipeline.fanout.matrix import Matrix
from pipeline.fanout.progress import Progress
from pipeline.fanout.recorder import Recorder
from pipeline.fanout.worker import (
    Done,
    Job,
    StageFailedError,
    computing_with,
    run_away,
    run_job,
)
from pipeline.study.errors import UserError
from pipeline.study.stages import state

pytestmark = pytest.mark.slow

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


@contextmanager
def ended_with_block(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def scheduler(study: LightStudy, host: str = "127.0.0.1") -> subprocess.Popen:
    """A scheduler of its own; `address_of` tells where."""
    file = study.root.parent / "scheduler.json"
    file.unlink(missing_ok=True)
    return _dask(
        study,
        "scheduler",
        *("--host", host, "--port", "0", "--scheduler-file", str(file)),
        *("--dashboard-address", "127.0.0.1:0"),
    )


def worker(
    study: LightStudy,
    address: str,
    *options: str,
    prefix: tuple[str, ...] = (),
    cwd: Path | None = None,
    **environment: str,
) -> subprocess.Popen:
    options = (address, "--no-dashboard", "--no-nanny", *options)
    return _dask(study, "worker", *options, prefix=prefix, cwd=cwd, **environment)


def _dask(
    study: LightStudy,
    kind: str,
    *options: str,
    prefix: tuple[str, ...] = (),
    cwd: Path | None = None,
    **environment: str,
) -> subprocess.Popen:
    log = study.root.parent / f"{kind}-{time.monotonic_ns()}.log"
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", f"distributed.cli.dask_{kind}", *options],
        cwd=cwd or study.root,
        env=study.environment | environment,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )


def address_of(study: LightStudy) -> str:
    file = study.root.parent / "scheduler.json"
    wait_for(lambda: file.exists() and file.read_text().endswith("}"))
    return re.search(r'"address": "([^"]+)"', file.read_text())[1]


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[object]:
    """A client of a cluster with two workers, in this process, that tests share."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            resources={"GPU": 1},
            dashboard_address=None,
            memory_limit=0,
        ) as made,
        Client(made) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> LightStudy:
    """Two variants, two seeds, two epochs; the stage before the matrix is done."""
    made = LightStudy(tmp_path_factory.mktemp("template") / "repository")
    made.run("dvc", "--cd", "studies/light", "repro", "preprocess")
    return made


@pytest.fixture
def study(template, tmp_path, monkeypatch) -> LightStudy:
    """A copy of `template`, its folder the working folder."""
    made = template.copy(tmp_path / "repository")
    monkeypatch.chdir(made.folder)
    return made


def fan_out(cluster, study: LightStudy, **taken: float) -> Matrix:
    """What main does between the two calls of `dvc repro`."""
    matrix = Matrix(Path())
    function = partial(run_job, environment={}, taken=taken)
    with matrix.claimed():
        jobs = matrix.stale()
        fanout.fan_out(cluster, matrix, jobs, function, taken)
    return matrix


EVERY = {
    f"{stage}@{variant}-{seed}-0"
    for stage in ("train", "evaluate")
    for variant in ("limit_encoder_attention", "encoder_attention")
    for seed in (0, 1)
}


def test_the_command_ends_where_dvc_repro_ends(study, tmp_path):
    """Two workers of its own; the other study is reproduced by DVC alone."""
    alone = study.copy(tmp_path / "alone")
    alone.repro()
    (study.folder / "data.txt").unlink()
    with study.start("--workers", "2", "--threads-per-run", "3") as process:
        printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert "8 of 8 stages of the matrix to run" in printed
    assert study.metrics() == alone.metrics()
    assert study.locked() == alone.locked()
    assert study.status() == set()
    assert study.repro() == []
    assert {line.split()[2] for line in study.epochs()} == {"3"}
    assert len(study.epochs()) == 8


def test_nothing_is_run_that_dvc_has_in_its_run_cache(cluster, study):
    fan_out(cluster, study)
    before = study.metrics()
    study.write_params(epochs=3)
    assert {job.name for job in Matrix(Path()).stale()} == EVERY
    fan_out(cluster, study)
    assert study.metrics() != before
    trained = len(study.epochs())
    study.write_params(epochs=2)
    assert Matrix(Path()).stale() == []
    assert study.metrics() == before
    assert len(study.epochs()) == trained
    assert study.status() == {"compare"}


def test_only_what_is_stale_is_run_after_what_it_depends_on(cluster, study):
    fan_out(cluster, study)
    study.params["models"]["encoder_attention"]["encoder"] = "resnet34"
    study.write_params()
    jobs = Matrix(Path()).stale()
    assert {job.name for job in jobs} == {name for name in EVERY if "@encoder" in name}
    for job in jobs:
        if "evaluate" in job.name:
            assert job.after == (job.name.replace("evaluate", "train"),)
    fan_out(cluster, study)
    assert study.status() == {"compare"}


AVERAGES = {"average@limit_encoder_attention", "average@encoder_attention"}
EXPORT = "export@encoder_attention-0-0"


def test_averages_and_exports_are_run_and_recorded(cluster, study, tmp_path):
    study.average_and_export("encoder_attention")
    alone = study.copy(tmp_path / "alone")
    alone.repro()
    fan_out(cluster, study)
    assert {name for name in study.locked() if "@" in name} == EVERY | AVERAGES | {EXPORT}
    assert study.status() == {"exported", "compare"}
    assert study.repro() == ["exported", "compare"]
    assert study.status() == set()
    assert study.locked() == alone.locked()
    for table in study.folder.glob("reports/averaged/*.csv"):
        assert len(table.read_text().splitlines()) == 2  # none began before all its runs ended


def test_only_the_average_and_the_export_of_changed_weights_are_made_again(cluster, study):
    """By the fan-out and by `dvc repro`; a variant that is taken out costs and breaks nothing."""
    study.average_and_export("encoder_attention", "limit_encoder_attention")
    study.repro()
    study.params["models"]["encoder_attention"]["encoder"] = "resnet34"
    study.write_params()
    own = {name for name in EVERY if "@encoder" in name} | {"average@encoder_attention", EXPORT}
    jobs = {job.name: job for job in Matrix(Path()).stale()}
    assert jobs.keys() == own
    assert set(jobs["average@encoder_attention"].after) == own - {
        "average@encoder_attention", EXPORT,
    }  # fmt: skip
    assert jobs[EXPORT].after == ("train@encoder_attention-0-0",)
    assert set(study.repro()) == own | {"compare"}

    study.params["averaging"] = ["flips"]
    study.params["seeds"] = [0, 1, 2]
    study.write_params()
    more = {f"{s}@{v}-2-0" for s in ("train", "evaluate") for v in study.params["variants"]}
    assert {job.name for job in Matrix(Path()).stale()} == AVERAGES | more
    fan_out(cluster, study)
    assert study.status() == {"compare"}

    study.params["variants"] = ["limit_encoder_attention"]
    study.average_and_export()
    assert Matrix(Path()).stale() == []
    assert (study.folder / "reports/averaged/encoder_attention.csv").exists()
    assert study.repro() == ["compare"]
    assert study.status() == set()


def test_an_average_waits_for_all_its_runs_and_is_given_up_once(cluster, study, monkeypatch):
    study.average_and_export("encoder_attention")
    script = study.root / "work.py"
    script.write_text(script.read_text().replace("== 666", "!= 0 and run[1] == '0'"))
    take, taken = Recorder.take, []

    def take_once(recorder: Recorder, job: Job, result: Done | BaseException) -> None:
        taken.append(job.name)
        take(recorder, job, result)

    monkeypatch.setattr(Recorder, "take", take_once)
    with pytest.raises(UserError, match=r"7 stages failed; recorded: 4"):
        fan_out(cluster, study)
    assert sorted(taken) == sorted([*EVERY, *AVERAGES, EXPORT])
    assert not (study.folder / "reports").exists()


def test_of_what_each_kind_of_stage_writes_its_folder_is_locked(study):
    """And not the study's own, in which another command may write other reports."""
    study.average_and_export("encoder_attention")
    with Matrix(Path()).claimed():
        locks = json.loads((study.folder / ".dvc/tmp/rwlock").read_text())
    written = {str(Path(path).relative_to(study.folder)) for path in locks["write"]}
    assert written == {"runs", "reports/averaged", "reports/exported/encoder_attention"}
    assert not [path for path in locks["read"] if "/runs/" in path]


def test_what_is_recorded_shares_its_bytes_with_the_cache(cluster, study):
    study.run("dvc", "--cd", "studies/light", "config", "cache.type", "hardlink,copy")
    fan_out(cluster, study)
    for path in study.folder.glob("runs/*/*/*/*"):
        assert path.stat().st_nlink == 2, path


@pytest.mark.parametrize("what", ["code", "data", "params"])
def test_a_result_is_not_recorded_when_what_decides_it_changed_meanwhile(
    cluster, study, capsys, what
):
    study.write_params(batch_size=300)
    matrix = Matrix(Path())
    jobs = matrix.stale()

    def run(job: Job) -> Done:
        done = run_job(job, environment={}, taken={})
        if "train@encoder_attention-0" in job.name:
            if what == "code":
                with (study.root / "work.py").open("a") as file:
                    file.write("# another\n")
            elif what == "data":
                (study.folder / "data.txt").unlink()
                (study.folder / "data.txt").write_text("other\n")
            else:
                study.write_params(epochs=7)
        return done

    with pytest.raises(UserError, match=r"stages? failed; recorded: ."):
        fanout.fan_out(cluster, matrix, jobs, run, {})
    key = {"code": "../../work.py", "data": "data.txt", "params": "params.yaml: train.epochs"}[what]
    assert f"train@encoder_attention-0-0: {key} changed while it ran" in capsys.readouterr().out
    assert not any("train@encoder_attention-0-0" in name for name in study.locked())
    assert not any("evaluate@encoder_attention-0-0" in name for name in study.locked())


def test_outputs_that_another_machine_wrote_are_not_recorded(study, cluster):
    """As where a worker has a folder of that name of its own: what is here is older."""
    fan_out(cluster, study)
    study.write_params(epochs=3)
    matrix = Matrix(Path())
    job = matrix.stale()[0]
    inputs = state(job.inputs, job.params)
    elsewhere = Done(inputs, inputs, dict.fromkeys(job.outputs, "another sha256"), 1.0, "")
    assert "a worker without this file system" in matrix.why_not(job, elsewhere)
    here = elsewhere._replace(outputs=state(job.outputs))
    assert matrix.why_not(job, here) == ""


@pytest.mark.parametrize("what", ["work.py", "studies/light/runs/encoder_attention/0/0/weights"])
def test_what_changes_before_it_is_recorded_is_not(cluster, study, capsys, monkeypatch, what):
    """Recording waits for DVC's lock, or until there is enough of it to be worth its time."""
    record, changed = Matrix.record, []

    def record_later(matrix: Matrix, names: list[str], unread: list[str]) -> dict[str, str]:
        if not changed and any("train@encoder_attention-0-0" in name for name in names):
            changed.append(what)
            with (study.root / what).open("a") as file:
                file.write("# another\n")
        return record(matrix, names, unread)

    monkeypatch.setattr(Matrix, "record", record_later)
    with pytest.raises(UserError, match=r"stages? failed; recorded: ."):
        fan_out(cluster, study)
    told = capsys.readouterr().out
    name = what.removeprefix("studies/light/").replace("work.py", "../../work.py")
    assert f"failed: train@encoder_attention-0-0: {name} changed before it was recorded" in told
    assert "train@encoder_attention-0-0" not in study.locked()
    before = len(study.epochs())
    monkeypatch.undo()
    monkeypatch.chdir(study.folder)
    fan_out(cluster, study)
    assert len(study.epochs()) > before
    assert study.status() == {"compare"}


def test_what_ended_before_the_client_died_is_recorded_by_the_next(cluster, study):
    """Nothing is trained again whose inputs and outputs nobody touched since."""
    jobs = [job for job in Matrix(Path()).stale() if "train" in job.name]
    function = partial(run_job, environment={}, taken={})
    cluster.gather([cluster.submit(function, job, pure=False) for job in jobs])
    assert study.locked().keys() == {"preprocess"}
    assert len(study.epochs()) == 8
    (study.folder / "runs/encoder_attention/0/0/weights").write_text("another")
    fan_out(cluster, study)
    again = [line.split()[0] for line in study.epochs()[8:]]
    assert again == ["encoder_attention-0-0"] * 2
    assert study.status() == {"compare"}
    assert not list(study.folder.glob(".resume/*"))


def test_what_lies_in_the_place_of_a_cached_output_is_replaced(cluster, study, monkeypatch):
    """As where a client died before it recorded it: DVC alone would ask, or refuse."""
    fan_out(cluster, study)
    before = study.metrics()
    study.write_params(epochs=3)
    fan_out(cluster, study)
    study.write_params(epochs=2)
    (study.folder / "runs/encoder_attention/0/0/weights").unlink()
    (study.folder / "runs/encoder_attention/0/0/weights").write_text("nobody's")
    assert Matrix(Path()).stale() == []
    assert study.metrics() == before
    assert study.status() == {"compare"}


def test_a_worker_that_closes_gives_its_stage_to_another(study):
    """Told by its batch system, which sends SIGTERM; the stage goes on from its last epoch."""
    study.write_params(epochs=4, batch_size=700)
    with ExitStack() as stack:
        stack.enter_context(ended_with_block(scheduler(study)))
        first = worker(study, address_of(study), "--nthreads", "1")
        stack.enter_context(ended_with_block(first))
        command = stack.enter_context(
            ended_with_block(study.start("--scheduler", address_of(study)))
        )
        wait_for(lambda: len(study.epochs()) >= 2)
        first.terminate()
        second = worker(study, address_of(study), "--nthreads", "2")
        stack.enter_context(ended_with_block(second))
        printed = command.communicate(timeout=120)[0]
        assert command.returncode == 0, printed
        assert first.wait(60) == 0
    assert "failed:" not in printed
    assert study.status() == set()
    assert len(study.epochs()) <= 4 * 4 + 1


def test_workers_that_end_are_replaced_and_what_is_missing_is_told(capsys):
    """As those that a batch system starts, which ends them at their time limit."""
    import dask
    from distributed import Client, LocalCluster

    kept = dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"})
    quiet = {"dashboard_address": None, "silence_logs": 50, "memory_limit": 0}
    with kept, LocalCluster(n_workers=1, processes=False, **quiet) as made, Client(made) as client:
        workers = Workers(client, {}, seconds=0)
        workers.attend()
        assert capsys.readouterr().err == ""
        made.sync(next(iter(made.workers.values())).close)
        wait_for(lambda: not client.scheduler_info()["workers"] and not made.workers)
        workers.attend()
        workers.attend()
        assert capsys.readouterr().err.count("no worker is there; waiting for one") == 1
        wait_for(lambda: client.scheduler_info()["workers"])
        Workers(client, {"GPU": 1}, seconds=0).attend()
        assert "no worker offers GPU 1" in capsys.readouterr().err


def test_a_worker_that_lacks_the_folder_says_so(tmp_path, cluster):
    job = Job("train@a-0-0", "true", str(tmp_path / "elsewhere"), (), (), (), ())
    future = cluster.submit(run_job, job, environment={}, taken={}, pure=False)
    with pytest.raises(StageFailedError, match=r"elsewhere is not on .* needs --remote"):
        future.result()


def test_workers_are_given_the_servers_password_apart_from_its_address(
    monkeypatch, cluster, tmp_path
):
    """They log in with it; an address is said in many places, a stage's own words too."""
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")  # so that what is set is gone with it
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:sesame@host:5000")
    given = environment(fanout.parse(["--threads-per-run", "1"]))
    assert {name: given[name] for name in given if name.startswith("MLFLOW_TRACKING_")} == {
        "MLFLOW_TRACKING_URI": "http://host:5000",
        "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_TRACKING_PASSWORD": "sesame",
    }
    command = "echo no answer: http://ann:sesame@host; false"
    job = Job("train@a-0-0", command, str(tmp_path), (), (), (), ())
    future = cluster.submit(run_job, job, environment={}, taken={}, pure=False)
    with pytest.raises(StageFailedError, match=r"no answer: http://\*\*\*@host"):
        future.result()


def test_progress_tells_what_runs_and_what_is_left():
    names = [f"{kind}@{number}" for kind in ("train", "evaluate") for number in range(4)]
    progress = Progress([Job(name, "", "", (), (), (), ()) for name in names])

    def line() -> str:
        progress.show()
        return progress.bar.desc

    assert line() == "0 running, 0 failed"
    for name in ("train@0", "train@1", "another's"):
        progress.began(name)
    assert line() == "2 running, 0 failed"  # nothing is known of their time
    progress.ended("train@0")
    progress.over("train@0", 100)
    # Three trainings and four evaluations of 100 s, one at a time, until an evaluation is known.
    assert line() == "1 running, 0 failed, about 11:40 left"
    progress.began("evaluate@0")
    progress.ended("evaluate@0")
    progress.over("evaluate@0", 10)
    assert line() == "1 running, 0 failed, about 05:30 left"
    progress.over("evaluate@1", None)
    assert line() == "1 running, 1 failed, about 05:20 left"
    assert progress.done == 2
    progress.close()


def test_a_stage_that_fails_is_told_and_the_others_are_recorded(cluster, study, capsys):
    script = study.root / "work.py"
    script.write_text(script.read_text().replace("== 666", "!= 0 and run[1] == '1'"))
    with pytest.raises(UserError, match=r"4 stages? failed; recorded: 4"):
        fan_out(cluster, study)
    told = capsys.readouterr().out
    assert len(re.findall(r"failed: train@\S+-1-0: error: no such luck", told)) == 2
    assert {name for name in study.locked() if "@" in name} == {n for n in EVERY if "-0-0" in n}
    assert study.status() >= {n for n in EVERY if "-1-0" in n}


def test_an_output_that_is_gone_when_it_is_recorded_fails_its_stage_alone(
    cluster, study, capsys, monkeypatch
):
    record, gone = Matrix.record, "runs/encoder_attention/0/0/weights"

    def record_without(matrix: Matrix, names: list[str], unread: list[str]) -> dict[str, str]:
        if any("train@encoder_attention-0-0" in name for name in names):
            Path(gone).unlink(missing_ok=True)
        return record(matrix, names, unread)

    monkeypatch.setattr(Matrix, "record", record_without)
    with pytest.raises(UserError, match=r"[12] stages? failed; recorded: [67]"):
        fan_out(cluster, study)
    told = capsys.readouterr().out
    assert f"failed: train@encoder_attention-0-0: output '{gone}' does not exist" in told
    assert "train@encoder_attention-0-0" not in study.locked()
    assert {name for name in EVERY if "@encoder_attention-0-0" not in name} <= set(study.locked())


def test_a_stage_that_dask_starts_again_is_not_run_again(cluster, study):
    """It does, when a worker dies with a result that the client is about to take."""

    def twice(job: Job) -> Done:
        first = run_job(job, environment={}, taken={})
        again = run_job(job, environment={}, taken={})
        assert first == again
        return again

    matrix = Matrix(Path())
    with matrix.claimed():
        fanout.fan_out(cluster, matrix, matrix.stale(), twice, {})
    assert len(study.epochs()) == 8
    assert study.status() == {"compare"}
    assert not list(study.folder.glob(".resume/*"))


def test_dvc_tells_a_repro_beside_it_who_is_at_work(study):
    matrix = Matrix(Path())
    with matrix.claimed():
        printed = study.run("dvc", "--cd", "studies/light", "repro", status=255)
        assert f"(PID {os.getpid()})" in printed
        told = study.start()
        printed = told.communicate(timeout=60)[0]
        assert told.returncode == 1
        assert "is busy, it is being blocked by" in printed
        assert "Traceback" not in printed
    assert study.epochs() == []


@pytest.mark.parametrize(("share", "at_once"), [(0.5, 2), (1.0, 1)])
def test_as_many_stages_run_at_once_as_fit_on_a_gpu(cluster, study, share, at_once):
    study.write_params(epochs=1, batch_size=300)
    matrix = Matrix(Path())
    jobs = matrix.stale()
    run = partial(run_job, environment={}, taken={"GPU": share})
    fanout.fan_out(cluster, matrix, jobs, run, {"GPU": share})
    starts = sorted(float(line.split()[3]) for line in study.epochs())
    together = [later - earlier < 0.3 for earlier, later in itertools.pairwise(starts)]
    assert any(together) == (at_once == 2)
    threads = {line.split()[2] for line in study.epochs()}
    assert threads == {str(2 // at_once)}


def stage_processes(study: LightStudy) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if any("work.py" in part for part in command) and process.info["cwd"] == str(study.folder):
            found.append(process.pid)
    return found


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_what_dvc_repro_can_finish(study, tmp_path, ending):
    study.write_params(epochs=4, batch_size=600)
    process = study.start("--workers", "2")
    with ended_with_block(process):
        wait_for(lambda: any("evaluate" in name for name in study.locked()))
        if ending == signal.SIGINT:
            os.killpg(process.pid, ending)  # as a terminal does
        else:
            process.send_signal(ending)
        printed = process.communicate(timeout=60)[0]
    assert process.returncode == (130 if ending == signal.SIGINT else -9)
    assert "Traceback" not in printed
    wait_for(lambda: not stage_processes(study))
    recorded = {name for name in study.locked() if "@" in name}
    printed = study.run("dvc", "--cd", "studies/light", "repro")
    ran = set(re.findall(r"Running stage '(?:[^':]+:)?([^':]+)':", printed))
    # DVC writes its run-cache before dvc.lock: what it has there is not run again either.
    restored = set(re.findall(r"Stage '(?:[^':]+:)?([^':]+)' is cached - skipping run", printed))
    assert ran.isdisjoint(recorded | restored)
    assert ran | recorded | restored == {*EVERY, "compare"}
    assert study.status() == set()
    assert len(study.metrics()) == 4
    # Interrupted trainings went on: at most the epoch in which they were killed was done again.
    assert len(study.epochs()) <= 4 * 4 + 2


KILLS = int(os.environ.get("LESION_KILLS", "0"))


@pytest.mark.skipif(KILLS == 0, reason="takes minutes: set LESION_KILLS to the kills wanted")
def test_kills_of_workers_scheduler_and_client_lose_nothing(tmp_path):
    """Three workers; at random moments one of them, the scheduler or the client is killed."""
    moments = random.Random(int(os.environ.get("LESION_KILL_SEED", "0")))
    alone = LightStudy(tmp_path / "alone", seeds=3, epochs=6)
    alone.repro()
    kills = rounds = again = 0
    while kills < KILLS:
        study = LightStudy(tmp_path / f"killed-{rounds}", seeds=3, epochs=6, milliseconds=150)
        recorded: list[str] = []
        ended, clients = False, 0
        while not ended:
            # Killed for ever it would never end.
            allowed = min(KILLS - kills, 6)
            ended, printed, happened, client = killed(study, moments, allowed)
            kills += happened
            clients += client
            recorded += re.findall(r"^\[\d+/\d+\] ((?:train|evaluate) .+)$", printed, re.M)
            assert "Traceback" not in printed
            assert ended or client or "the scheduler was lost" in printed, printed
        assert study.metrics() == alone.metrics()
        assert len(recorded) == len(set(recorded))
        # A client that is killed has not told of the last that it recorded; DVC has them all.
        assert len(recorded) == 12 or (clients and len(recorded) < 12)
        assert len([name for name in study.locked() if "@" in name]) == 12
        assert study.status() == set()
        assert study.repro() == []
        again += len(study.epochs()) - 6 * 6
        rounds += 1
    # A kill costs the epoch that it falls in, of each training that it ends: three at most.
    assert again <= 3 * kills


def killed(study: LightStudy, moments: random.Random, most: int) -> tuple[bool, str, int, bool]:
    """Run the command while workers are killed and replaced, until it ends or the scheduler or the
    command is killed; whether it ended well, what it printed, how many kills there were, and
    whether it was the command."""
    kills = 0
    with ExitStack() as stack:

        def start(process: subprocess.Popen) -> subprocess.Popen:
            return stack.enter_context(ended_with_block(process))

        master = start(scheduler(study))
        address = address_of(study)
        workers = [start(worker(study, address, "--nthreads", "1")) for _ in range(3)]
        command = start(study.start("--scheduler", address))
        begun = len(study.epochs())
        wait_for(lambda: len(study.epochs()) > begun or command.poll() is not None)
        while command.poll() is None and kills < most:
            time.sleep(moments.uniform(0, 1.5))
            victim = moments.choice([0, 1, 2, "scheduler", "client"])
            kills += 1
            if isinstance(victim, str):
                {"scheduler": master, "client": command}[victim].kill()
                break
            moments.choice([workers[victim].kill, workers[victim].terminate])()
            workers[victim] = start(worker(study, address, "--nthreads", "1"))
        printed = command.communicate(timeout=120)[0]
    wait_for(lambda: not stage_processes(study))
    return command.returncode == 0, printed, kills, command.returncode == -signal.SIGKILL


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """The address of a server that speaks S3, with a bucket named `lesions`."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    requests.put(f"{address}/lesions", timeout=10).raise_for_status()
    yield address
    server.stop()


@pytest.fixture
def remote(study, tmp_path, monkeypatch) -> Path:
    """The folder that is DVC's remote `store` of the study: one run. Its checkouts lie elsewhere
    than this machine's."""
    folder = tmp_path / "remote"
    study.params |= {"variants": ["encoder_attention"], "seeds": [0]}
    study.write_params()
    study.run("dvc", "--cd", "studies/light", "remote", "add", "store", str(folder))
    study.commit()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    return folder


def fan_out_away(cluster, matrix: Matrix) -> None:
    with matrix.claimed():
        jobs = matrix.stale()
        checkout = matrix.checkout("store", jobs)
        function = partial(run_away, environment={}, taken={})
        fanout.fan_out(cluster, matrix, jobs, function, {}, checkout)


def test_outputs_come_through_a_remote_in_place_of_older_ones(cluster, study, remote, tmp_path):
    alone = study.copy(tmp_path / "alone")
    alone.repro()
    weights = study.folder / "runs/encoder_attention/0/0/weights"
    weights.parent.mkdir(parents=True)
    weights.write_text("older")
    fan_out_away(cluster, Matrix(Path(), "store"))
    assert study.metrics() == alone.metrics()
    assert study.status() == {"compare"}
    assert study.epochs() == []


def test_an_average_away_is_of_runs_that_others_and_this_machine_made(cluster, study, remote):
    """Parts of the folder that it reads were recorded before, and are in no remote."""
    study.average_and_export()
    study.commit()
    fan_out(cluster, study)
    study.params |= {"seeds": [0, 1], "export": ["encoder_attention"]}
    study.write_params()
    study.commit()
    fan_out_away(cluster, Matrix(Path(), "store"))
    assert {line.split()[0] for line in study.epochs()} == {"encoder_attention-0-0"}
    assert study.status() == {"exported", "compare"}
    table = (study.folder / "reports/averaged/encoder_attention.csv").read_text()
    assert len(table.splitlines()) == 2
    weights = (study.folder / "runs/encoder_attention/0/0/weights").read_text()
    assert (study.folder / "reports/exported/encoder_attention/model").read_text() == weights


def test_what_workers_away_cannot_have_of_a_folder_is_told(cluster, study, remote):
    """Of a seed that was taken out: what they made would be of another folder than is here."""
    study.params["seeds"] = [0, 1]
    study.average_and_export()
    fan_out(cluster, study)
    study.params |= {"seeds": [0], "averaging": ["flips"]}
    study.write_params()
    study.commit()
    told = r"these are of none: runs/encoder_attention/1/0/metrics\.json .*: move them away"
    with pytest.raises(UserError, match=told):
        fan_out_away(cluster, Matrix(Path(), "store"))
    shutil.rmtree(study.folder / "runs/encoder_attention/1")
    fan_out_away(cluster, Matrix(Path(), "store"))
    assert study.status() == {"exported", "compare"}


def run_cache_of(folder: Path) -> dict[Path, tuple[str, int]]:
    """The entries in a DVC cache or remote: what each holds, and when it was written."""
    files = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    return {path.relative_to(folder): (path.read_text(), path.stat().st_mtime_ns) for path in files}


def test_of_the_remotes_run_cache_a_stages_own_entry_travels_alone(
    cluster, study, remote, tmp_path
):
    for number in range(200):
        key, value = (sha256(f"{part}{number}".encode()).hexdigest() for part in ("key", "value"))
        entry = remote / "runs" / key[:2] / key / value
        entry.parent.mkdir(parents=True)
        entry.write_text("of another stage")
    foreign, before = run_cache_of(remote), run_cache_of(study.folder / ".dvc" / "cache")
    fan_out_away(cluster, Matrix(Path(), "store"))
    there = run_cache_of(remote)
    own = there.keys() - foreign.keys()
    assert {path: there[path] for path in foreign} == foreign  # none is pushed again
    assert len(own) == 2
    (elsewhere,) = (tmp_path / "elsewhere").glob("*/*/cache")
    assert run_cache_of(elsewhere).keys() == own
    assert run_cache_of(study.folder / ".dvc" / "cache").keys() == own | before.keys()


@pytest.mark.parametrize("known_by", ["run-cache", "dvc.lock"])
def test_what_was_pushed_from_elsewhere_is_not_run_again(
    cluster, study, remote, tmp_path, known_by
):
    lock = study.folder / "dvc.lock"
    before = lock.read_text()
    fan_out_away(cluster, Matrix(Path(), "store"))
    metrics = study.metrics()
    if known_by == "run-cache":
        lock.write_text(before)
    else:
        shutil.rmtree(remote / "runs")
    for folder in (study.folder / "runs", study.folder / ".dvc" / "cache", tmp_path / "elsewhere"):
        shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    fan_out_away(cluster, Matrix(Path(), "store"))
    assert study.metrics() == metrics
    assert list((tmp_path / "elsewhere").glob("*/*/*/studies/light"))
    assert not list((tmp_path / "elsewhere").glob("*/*/*/studies/light/log"))


def test_a_remote_that_fails_costs_its_stage_alone(cluster, study, remote, capsys, monkeypatch):
    def fail(*_) -> bool:
        raise PermissionError("no such key")

    monkeypatch.setattr(Matrix, "_pull", fail)
    with pytest.raises(UserError, match=r"2 stages? failed; recorded: 0"):
        fan_out_away(cluster, Matrix(Path(), "store"))
    told = capsys.readouterr().out
    assert "train@encoder_attention-0-0: its outputs could not be taken out of the remote" in told
    assert "no such key" in told


def test_sources_that_git_does_not_follow_do_not_go_away_unseen(study, remote):
    other = study.folder / "networks"
    other.mkdir()
    (other / "part.py").write_text("")
    pipeline = yaml.safe_load((study.folder / "dvc.yaml").read_text())
    pipeline["stages"]["train"]["deps"].append("networks")
    (study.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    study.commit()
    (other / "new.py").write_text("")
    with pytest.raises(UserError, match=r"not .*networks/new\.py: commit or remove it first"):
        Matrix(Path(), "store").checkout("store", [])


def test_another_users_folder_of_checkouts_is_not_trusted(cluster, study, remote, tmp_path, capsys):
    foreseen = tmp_path / "elsewhere" / f"lesion-fanout-{os.getuid()}"
    foreseen.mkdir()
    foreseen.chmod(0o777)
    with pytest.raises(UserError, match=r"2 stages? failed; recorded: 0"):
        fan_out_away(cluster, Matrix(Path(), "store"))
    assert "must be a folder that its user alone writes to: remove it" in capsys.readouterr().out
    assert list(foreseen.iterdir()) == []


def test_runs_are_tracked_live_by_a_server(cluster, drawn_study, server, tmp_path, monkeypatch):
    """Two at once, by a real server with a SQL store."""
    folder = tmp_path / "study"
    shutil.copytree(drawn_study, folder)
    (folder / "dvc.yaml").write_text((REPOSITORY / "dvc.yaml").read_text())
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    monkeypatch.chdir(folder)
    study = change_params(
        tracking={"live": True},
        evaluate={"resolution": "network"},
        models={
            variant: {"encoder": "plain", "plain_width": 2}
            for variant in ("gated_attention", "limit_encoder_attention")
        },
    )
    (folder / "networks").mkdir()
    describe_networks.main()
    server.start()
    matrix = Matrix(Path())
    function = partial(
        run_job, environment={"MLFLOW_TRACKING_URI": server.address, **computing_with(1)}, taken={}
    )
    with matrix.claimed():
        fanout.fan_out(cluster, matrix, matrix.stale(), function, {})
    client = mlflow.MlflowClient(server.address)
    (experiment,) = (one for one in client.search_experiments() if one.name == study.name)
    runs = client.search_runs([experiment.experiment_id])
    variants = [run.data.tags["variant"] for run in runs if run.data.tags["role"] == "run"]
    assert sorted(variants) == sorted(study.variants)
    assert len(runs) == len(variants) + 1  # the study's own
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not (folder / "mlflow.db").exists()


@pytest.mark.skipif(
    "LESION_LONG_BENCHMARKS" not in os.environ,
    reason="takes minutes: set LESION_LONG_BENCHMARKS=1 to run it",
)
def test_workers_without_this_file_system_get_and_give_through_s3(study, bucket, tmp_path):
    study.params["variants"] = ["encoder_attention"]
    study.write_params()
    alone = study.copy(tmp_path / "alone")
    alone.repro()
    study.environment |= {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    study.run("dvc", "--cd", "studies/light", "remote", "add", "store", "s3://lesions/dvc")
    study.run("dvc", "--cd", "studies/light", "remote", "modify", "store", "endpointurl", bucket)
    with pytest.raises(UserError, match=r"not in it: M studies.*commit them first"):
        Matrix(Path(), "store").checkout("store", [])
    study.commit()
    with ExitStack() as stack:
        stack.enter_context(ended_with_block(scheduler(study)))
        for name in ("one", "two"):
            elsewhere = tmp_path / name
            elsewhere.mkdir()
            options = ("--nthreads", "1", "--name", name)
            away = worker(study, address_of(study), *options, cwd=elsewhere, TMPDIR=str(elsewhere))
            stack.enter_context(ended_with_block(away))
        command = study.start("--scheduler", address_of(study), "--remote", "store")
        printed = stack.enter_context(ended_with_block(command)).communicate(timeout=200)[0]
    assert command.returncode == 0, printed
    assert study.metrics() == alone.metrics()
    assert study.status() == set()
    assert study.repro() == []
    assert study.epochs() == []  # no epoch was trained in this folder
    trained = [len(list((tmp_path / name).rglob("studies/light/log"))) for name in ("one", "two")]
    assert min(trained) == 1


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces on a bridge, as two machines beside this one: 10.77.0.1 is here,
    10.77.0.2 and 10.77.0.3 are there. What runs a command there: `ip netns exec <name>`."""
    bridge, names = f"les{os.getpid() % 10**6}", []

    def ip(*command: str) -> None:
        subprocess.run(["ip", *command], check=True, capture_output=True)

    try:
        try:
            ip("link", "add", bridge, "type", "bridge")
            ip("address", "add", "10.77.0.1/24", "dev", bridge)
            ip("link", "set", bridge, "up")
            for number in (2, 3):
                name = f"{bridge}-{number}"
                ip("netns", "add", name)
                names.append(name)
                ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
                ip("link", "set", name, "master", bridge, "up")
                ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
                ip("-n", name, "link", "set", "eth0", "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces: {getattr(error, 'stderr', error)!r}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True)


@pytest.mark.skipif(
    "LESION_LONG_BENCHMARKS" not in os.environ,
    reason="takes minutes: set LESION_LONG_BENCHMARKS=1 to run it",
)
def test_workers_at_other_addresses_do_the_work(study, machines):
    """With the file system in common, as on a cluster with NFS."""
    study.write_params(batch_size=300)
    with ExitStack() as stack:
        stack.enter_context(ended_with_block(scheduler(study, host="10.77.0.1")))
        address = address_of(study)
        for name in machines:
            prefix = ("ip", "netns", "exec", name)
            away = worker(study, address, "--nthreads", "1", prefix=prefix)
            stack.enter_context(ended_with_block(away))
        command = study.start("--scheduler", address)
        printed = stack.enter_context(ended_with_block(command)).communicate(timeout=120)[0]
    assert command.returncode == 0, printed
    assert study.status() == set()
    assert len(study.epochs()) == 8
    logs = [path.read_text() for path in study.root.parent.glob("worker-*.log")]
    addresses = {re.search(r"Start worker at:\s+tcp://([\d.]+)", log)[1] for log in logs}
    assert addresses == {"10.77.0.2", "10.77.0.3"}


SLURM = """
jobqueue:
  slurm:
    cores: 4
    memory: 4GB
    queue: gpu
    walltime: "01:00:00"
    interface: lo
    job_extra_directives: ["--gres=gpu:1"]
    worker_extra_args: ["--resources", "GPU=1"]
"""


def run_as_jobs(study: LightStudy, tmp_path: Path, queue: str, *arguments: str) -> str:
    """SLURM's own commands are missing here: in their place are two that start a job at once."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {tmp_path}/job\nsh {tmp_path}/job > {tmp_path}/log-$$ 2>&1 &\n'
        'echo "Submitted batch job $!"\n'
    )
    (commands / "scancel").write_text('#!/bin/sh\nkill "$@"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    (tmp_path / "slurm.yaml").write_text(queue)
    study.environment["PATH"] += f":{commands}"
    process = study.start("--jobqueue", str(tmp_path / "slurm.yaml"), *arguments)
    with ended_with_block(process):
        printed = process.communicate(timeout=300)[0]
    assert process.returncode == 0, printed
    return printed


@pytest.mark.skipif(
    "LESION_LONG_BENCHMARKS" not in os.environ,
    reason="takes minutes: set LESION_LONG_BENCHMARKS=1 to run it",
)
def test_workers_come_as_jobs_of_a_batch_system(study, tmp_path):
    printed = run_as_jobs(study, tmp_path, SLURM, "--gpus-per-run", "0.5")
    job = (tmp_path / "job").read_text()
    assert job.rpartition("--name ")[0] in printed
    for line in ("-p gpu", "--cpus-per-task=4", "--mem=4G", "-t 01:00:00", "--gres=gpu:1"):
        assert f"#SBATCH {line}\n" in job
    assert "--nthreads 4" in job
    assert "--resources GPU=1" in job
    assert study.status() == set()
    assert {line.split()[2] for line in study.epochs()} == {"2"}  # four threads, two stages at once


@pytest.mark.skipif(
    "LESION_LONG_BENCHMARKS" not in os.environ,
    reason="takes minutes: set LESION_LONG_BENCHMARKS=1 to run it",
)
def test_jobs_that_reach_their_time_limit_are_replaced(study, tmp_path):
    """Each job's worker closes after twelve seconds; a training takes ten, two at once."""
    study.write_params(epochs=10, batch_size=1000)
    queue = SLURM.replace('"GPU=1"]', '"GPU=1", "--lifetime", "12s"]')
    printed = run_as_jobs(study, tmp_path, queue, "--gpus-per-run", "0.5")
    assert len(list(tmp_path.glob("log-*"))) > 1
    assert "failed:" not in printed
    assert study.status() == set()
    assert len(study.metrics()) == 4
    assert len(study.epochs()) < 4 * 10 + 8  # they go on from their last epoch


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("jobqueue: {slrum: {cores: 1}}", "must name one of .*slurm.*, got 'slrum'"),
        ("jobqueue: {}", "must be a file with `jobqueue:`"),
        ("[", "queue.yaml is not valid YAML"),
        ("jobqueue: &a [*a]", "a block holds itself"),
        ("jobqueue: {slurm: {cores: 1, memory: 1GB}}", "sbatch is missing here"),
    ],
)
def test_a_bad_jobqueue_file_is_told(tmp_path, content, told):
    (tmp_path / "queue.yaml").write_text(content)
    arguments = fanout.parse(["--jobqueue", str(tmp_path / "queue.yaml")])
    with pytest.raises(UserError, match=told):
        queued(arguments, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workers", "0"], "must be a whole number of at least 1, got '0'"),
        (
            ["--gpus-per-run", "-1"],
            "must be a number greater than 0 and less than 1000000, got '-1'",
        ),
        (["--scheduler", "a:1", "--jobqueue", "b"], "not allowed with argument"),
        (["--scheduler", "tcp://a:1", "--workers", "2"], "--scheduler has its own"),
    ],
)
def test_bad_arguments_are_told(capsys, arguments, told):
    with pytest.raises(SystemExit) as ended:
        fanout.parse(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_live_tracking_away_needs_a_server(study, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study.params["tracking"] |= {"live": True}
    study.write_params()
    monkeypatch.setattr(sys, "argv", ["fanout", "--remote", "store"])
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        fanout.main()


def test_resources_that_no_worker_offers_are_told(cluster):
    check_offered(cluster, {"GPU": 1})
    with pytest.raises(UserError, match=r'no worker offers GPU 2, .* --resources "GPU=\.\.\."'):
        check_offered(cluster, {"GPU": 2})


def test_gpus_that_are_not_there_are_told(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="no GPU that can be used"):
        local_slots(fanout.parse(["--gpus-per-run", "0.5"]))


def test_two_stages_share_each_of_two_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    arguments = fanout.parse(["--gpus-per-run", "0.5"])
    assert local_slots(arguments) == (2, 2)
    assert resources(arguments) == {"GPU": 0.5}
    cluster = local(arguments, jobs=100)
    try:
        from distributed import Client

        with Client(cluster) as client:
            seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
            info = client.scheduler_info()["workers"].values()
            assert sorted(seen.values()) == ["2", "5"]
            assert [(w["nthreads"], w["resources"]["GPU"]) for w in info] == [(2, 1), (2, 1)]
    finally:
        cluster.close()


def test_the_dashboard_is_there_while_stages_run(capsys):
    with open_client(fanout.parse(["--workers", "1"]), jobs=1):
        address = re.search(r"dashboard: (http://\S+)", capsys.readouterr().out)[1]
        page = requests.get(address, timeout=30)
        assert page.status_code == 200
        assert "bokeh" in page.text


def test_no_scheduler_at_an_address_is_told():
    arguments = fanout.parse(["--scheduler", "tcp://127.0.0.1:1"])
    with (
        pytest.raises(UserError, match="no Dask scheduler answers"),
        open_client(arguments, 1),
    ):
        pass

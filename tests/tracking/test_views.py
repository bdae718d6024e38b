"""tracking/views.py and `python -m pipeline.tracking ui`: what MLflow's own pages show."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import FLAGS, NAMES
from conftest import REPOSITORY
from recorded_runs import VARIANT, make_recorded

from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.tracking import __main__ as command
from pipeline.tracking import store
from pipeline.tracking.store import StudyRecord
from pipeline.tracking.sync import sync

pytestmark = pytest.mark.slow


def view(study: Study, name: str) -> dict[str, Any]:
    """What a saved view says, as MLflow's pages read it."""
    tag = StudyRecord.open(study).experiment.tags[f"mlflow.sharedViewState.{name}"]
    return json.loads(json.loads(tag)["state"])


@pytest.mark.parametrize("name", ["runs", "variants"])
def test_a_view_is_of_the_runs_alone_the_best_first(tiny_study, name):
    study = make_recorded()
    state = view(study, name)
    record = StudyRecord.open(study)
    found = record.client.search_runs(
        [record.experiment.experiment_id],
        state["searchFilter"],
        order_by=[f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"],
    )
    assert [run.data.metrics["test/dice"] for run in found] == [0.6, 0.5]
    assert [run.info.run_name for run in found] == [f"{VARIANT} 1", f"{VARIANT} 0"]
    columns = [re.fullmatch(r"metrics\.`(.*)`", column) for column in state["selectedColumns"]]
    assert columns[0] is not None
    assert columns[0][1] == "test/dice"


def test_a_description_that_was_changed_is_put_back(tiny_study):
    study = make_recorded()
    record = StudyRecord.open(study)
    told = record.experiment.tags["mlflow.note.content"]
    assert told.startswith("1 variant of a network, each trained with 2 seeds: ")
    record.client.set_experiment_tag(record.experiment.experiment_id, "mlflow.note.content", "?")
    assert sync(study) == (0, 2)
    assert StudyRecord.open(study).experiment.tags["mlflow.note.content"] == told


@pytest.fixture
def pages(tiny_study, tmp_path) -> Iterator[dict[str, str]]:
    """What `ui` prints and serves of a recorded study: the addresses by what they show."""
    make_recorded()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking", "ui", "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().split() for _ in range(5)]
        assert lines[0] == ["Study", "tiny"]
        assert lines[4] == ["Serving", "them", "until", "Ctrl-C."]
        answers(f"http://127.0.0.1:{port}", process)
        yield dict(lines[1:4])
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(server: str, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        try:
            urllib.request.urlopen(f"{server}/health", timeout=5).close()
            return
        except OSError:
            with pytest.raises(subprocess.TimeoutExpired):  # it has not ended
                process.wait(timeout=0.1)
    pytest.fail("no pages in two minutes")


def seen(address: str, folder: Path, *, until: str) -> str:
    """The text of a page in a real browser, as soon as it holds `until`, or what it holds then."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on the PATH (Debian's package chromium)")
    flags = [flag for flag in FLAGS if "budget" not in flag]
    text = ""
    for budget in (10_000, 40_000, 160_000):  # milliseconds, of which a page uses what it wants
        shown = subprocess.run(
            [
                *(browser, *flags, f"--virtual-time-budget={budget}", "--window-size=2400,1200"),
                *(f"--user-data-dir={folder / 'browser'}", "--dump-dom", address),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        ).stdout
        text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", shown)))
        if until in text:
            break
    return " ".join(text.split())


def test_mlflows_pages_show_the_views_and_the_studys_run(pages, tmp_path):
    """The form of a saved view is documented nowhere: MLflow's pages tell whether it holds."""
    assert list(pages) == ["verdict", "runs", "variants"]
    runs = seen(pages["runs"], tmp_path, until=f"{VARIANT} 0")
    assert "Runs, best first" in runs  # the view's name
    assert "Sort: test/dice" in runs
    assert runs.index(f"{VARIANT} 1") < runs.index(f"{VARIANT} 0")
    assert "verdict and report" not in runs.partition("Run Name")[2]
    assert "2 matching runs" in runs
    variants = seen(pages["variants"], tmp_path, until="Group: ")
    assert "Group by: variant" in variants
    assert "0.55" in variants  # the mean of 0.5 and 0.6
    verdict = seen(pages["verdict"], tmp_path, until="Created at")
    assert "verdict and report" in verdict


@pytest.mark.parametrize(("given", "port"), [([], 5000), (["PORT=5001"], 5001)])
def test_make_mlflow_takes_a_port(given, port):
    done = subprocess.run(
        ["make", "-n", "mlflow", *given],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"python -m pipeline.tracking ui --port {port}" in done.stdout.splitlines()


def test_a_port_that_is_taken_is_told_before_anything_is_served(tiny_study, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["tracking", "ui", "--port", str(port)])
        with pytest.raises(UserError, match=f"port {port} cannot .*: make mlflow PORT={port + 1}"):
            command.main()


def test_a_servers_pages_are_named_and_not_served_again(tiny_study, server, monkeypatch, capsys):
    server.start()
    monkeypatch.setattr(sys, "argv", ["tracking", "ui"])
    command.main()
    assert capsys.readouterr().out == f"No study is recorded yet: {server.address}\n"
    study = make_recorded()
    parent_id = StudyRecord.open(study).parent_id
    command.main()
    printed = capsys.readouterr().out
    assert f"{server.address}/#/experiments/1/runs/{parent_id}?" in printed
    assert f"{server.address}/#/experiments/1/runs?viewStateShareKey=runs&" in printed


@pytest.mark.parametrize(
    ("column", "metric"),
    [
        ("train_loss", "train/loss"),
        ("validation_dice", "validation/dice"),
        ("learning_rate", "train/learning_rate"),
        ("encoder_learning_rate", "train/encoder_learning_rate"),
        ("images_per_second", "training_cost/images_per_second"),
    ],
)
def test_a_column_of_the_history_stands_in_the_section_of_its_kind(column, metric):
    assert store._in_section(column) == metric

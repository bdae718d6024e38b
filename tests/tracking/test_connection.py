"""tracking/connection.py: one store for many processes, whatever its path, and who may use it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import mlflow
import numpy as np
import pytest
from conftest import REPOSITORY
from recorded_runs import make_recorded

from pipeline.deployment.loading import opened
from pipeline.study.errors import UserError, run_command
from pipeline.study.params import Study
from pipeline.tracking import connection
from pipeline.tracking.connection import faults_told, locked, open_store
from pipeline.tracking.live import LiveRun

pytestmark = pytest.mark.slow

# The study's record, opened from a clone of its own: argv[1] is that clone's root.
OPEN = """
import sys
from pathlib import Path
from pipeline.study.reading import load_study
from pipeline.tracking import connection
from pipeline.tracking.store import StudyRecord
connection.ROOT = Path(sys.argv[1])
print(StudyRecord.open(load_study()).parent_id)
"""


def process(code: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables,
    )


@pytest.mark.parametrize("clones", ["one", "several"])
def test_processes_that_open_a_new_store_at_once_share_it(tiny_study, tmp_path, clones):
    """Of one clone, and of several that MLFLOW_TRACKING_URI gives one file."""
    roots = [tmp_path / f"clone{number if clones == 'several' else 0}" for number in range(3)]
    for root in roots:
        (root / "pipeline").mkdir(parents=True, exist_ok=True)
    uri = f"sqlite:///{tmp_path}/new/mlflow.db" if clones == "several" else ""
    processes = [process(OPEN, str(root), MLFLOW_TRACKING_URI=uri) for root in roots]
    ended = [one.communicate(timeout=300) for one in processes]
    assert [one.returncode for one in processes] == [0, 0, 0], ended
    assert len({printed for printed, _ in ended}) == 1
    store = tmp_path / "new" if uri else roots[0]
    assert {path.name for path in store.iterdir()} - {"pipeline"} == {"mlflow.db", ".mlflow.lock"}


def test_a_folders_name_may_hold_what_an_address_may_not(tiny_study, tmp_path, monkeypatch):
    """What is in the store beside the tables as well: runs, their files and their networks."""
    root = tmp_path / "per%20cent #1? ü+;"
    (root / "pipeline").mkdir(parents=True)
    shutil.move(tiny_study.folder.resolve(), root / "study")
    monkeypatch.chdir(root / "study")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(connection, "ROOT", root)
    study = make_recorded()
    assert {path.name for path in root.iterdir()} == {
        "pipeline", "study", "mlflow.db", ".mlflow.lock", "mlruns",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} <= {root.name, "mlflow.db"}
    (run,) = mlflow.search_runs(
        experiment_names=[study.name], filter_string="tags.seed = '0'", output_format="list"
    )
    uri = f"runs:/{run.info.run_id}/model"
    images = np.zeros((1, 32, 64, 3), np.uint8)
    assert mlflow.pyfunc.load_model(uri).predict(images).shape == (1, 32, 64)
    with opened(uri) as (trained,):
        assert trained.metrics == {"dice": 0.5}


def test_what_mlflow_adds_by_itself_points_to_no_study(tmp_path, monkeypatch):
    """Its experiment Default: where the store is made, a study's folder is the working folder."""
    root = tmp_path / "project"
    for folder in (root / "pipeline", root / "study"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(root / "study")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(connection, "ROOT", root)
    experiment = open_store().get_experiment("0")
    assert experiment.artifact_location == (root / "mlruns" / "0").as_uri()
    assert not list((root / "study").iterdir())


class Guarded(BaseHTTPRequestHandler):
    """Answers as a server of MLflow that nobody may use."""

    status: ClassVar[int]
    body: ClassVar[str]
    asked: ClassVar[list[str]]

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization", ""))
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


REFUSALS = [  # MLflow's own, then those of a proxy before it
    (401, "You are not authenticated."),
    (403, json.dumps({"error_code": "PERMISSION_DENIED", "message": "Permission denied"})),
    (401, json.dumps({"message": "Unauthorized"})),
    (403, json.dumps({"detail": "Forbidden"})),
]


@pytest.fixture(params=REFUSALS)
def guarded(request, monkeypatch) -> Iterator[str]:
    """The address of a server that refuses with that status and body; with a password in it."""
    Guarded.status, Guarded.body = request.param
    Guarded.asked = []
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")  # so that what is set is gone with it
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:ses%40me@{host}")
        yield host
        server.shutdown()


def test_a_server_that_refuses_wants_a_user_and_a_password(guarded):
    told = rf"{guarded} cannot be used: .*; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASS"
    with pytest.raises(UserError, match=told):
        open_store()
    sent = "Basic " + base64.b64encode(b"ann:ses@me").decode()
    assert set(Guarded.asked) == {sent}  # the password in the address is used, if not said


@pytest.mark.parametrize(
    "command", [["pipeline.tracking", "sync"], ["pipeline.predict", "runs:/1", ".", "--out", "o"]]
)
@pytest.mark.parametrize("guarded", REFUSALS[:1], indirect=True)
def test_a_command_says_no_password(tiny_study, guarded, command):
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 1
    assert "MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert "Traceback" not in done.stderr
    assert "me@" not in done.stdout + done.stderr


def test_a_training_that_goes_on_without_its_store_says_no_password(
    tiny_study: Study, monkeypatch, capfd
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:sesame@127.0.0.1:9")
    for name in ("USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    LiveRun(required=False).open(tiny_study, tiny_study.runs()[0], {}, None)
    printed = capfd.readouterr()
    assert "127.0.0.1" in printed.err
    assert "sesame" not in printed.out + printed.err


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("postgresql://ann:sesame@127.0.0.1:9/runs", "postgresql://***@127.0.0.1:9/runs"),
        ("postgresql://ann:se same@127.0.0.1:9/runs", "postgresql://***@127.0.0.1:9/runs"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dann%3BPWD%3Dsesame", "mssql+pyodbc:///"),
    ],
)
def test_a_databases_password_is_not_said(monkeypatch, capsys, uri, named):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(SystemExit):
        run_command(open_store)  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"MLflow's store at {named} cannot be used" in told
    assert "same" not in told


def test_a_disk_that_refuses_the_runs_files_is_told_with_the_file(tiny_study: Study, tmp_path):
    (tmp_path / "mlruns").write_text("in its place")
    told = rf"^MLflow's store cannot be used: {tmp_path}/mlruns\S*: Not a directory; make room, "
    with pytest.raises(UserError, match=told), faults_told():
        make_recorded()


def test_a_server_needs_no_file_in_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "ROOT", tmp_path / "project")
    monkeypatch.setattr(connection, "database", lambda: None)
    with locked():
        assert not list(tmp_path.iterdir())

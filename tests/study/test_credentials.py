"""study/credentials.py: passwords are parted from addresses, and left out of what is printed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from pipeline.study.credentials import part_credentials, without_credentials
from pipeline.study.errors import warn

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@pytest.mark.parametrize(
    ("given", "uri", "user", "password"),
    [
        ("http://ann:sesame@host:5000/a", "http://host:5000/a", "ann", "sesame"),
        ("https://ann:se%40s:me@host", "https://host", "ann", "se@s:me"),
        ("HTTP://ann:se@same@host", "HTTP://host", "ann", "se@same"),
        ("http://ann@host", "http://host", "ann", "kept"),
        ("http://host/a@b", "http://host/a@b", "before", "kept"),
        ("sqlite:////tmp/a:b@c/mlflow.db", "sqlite:////tmp/a:b@c/mlflow.db", "before", "kept"),
        ("postgresql://ann:sesame@host/a", "postgresql://ann:sesame@host/a", "before", "kept"),
        ("", "", "before", "kept"),
    ],
)
def test_a_servers_password_is_parted_from_its_address(monkeypatch, given, uri, user, password):
    for name, value in zip(VARIABLES, (given, "before", "kept"), strict=True):
        monkeypatch.setenv(name, value)
    part_credentials()
    assert [os.environ[name] for name in VARIABLES] == [uri, user, password]


@pytest.mark.parametrize(
    "address",
    [
        "http://ann:sesame@host/a",
        "postgresql+psycopg2://ann:sesame@host/a",
        "http://ann:ses/ame@host/a",
        "http://ann:ses@ame@host/a",
        "http://sesame@host/a",
        "https://host/a?X-Amz-Signature=sesame&x=1",
        "postgresql://host/a?user=ann&password=sesame",
        "https://host/a?access_token=sesame",
        "https://host/a?password=ses(am)e'ame",
        *(f"mssql://host/a?{key}=sesame" for key in ("PWD", "pass", "passphrase", "sig")),
        "mssql+pyodbc://host/a?odbc_connect=UID%3Dann%3BPWD%3Dsesame",
        "host/a DRIVER=x;PWD=sesame",
        "host/a MLFLOW_TRACKING_PASSWORD=sesame",
        "host/a export AWS_SECRET_ACCESS_KEY='ses ame'",
    ],
)
def test_what_is_printed_holds_no_secret(address, capsys):
    said = f"Max retries ({address}) 'b@c', asked for /a/b"
    told = without_credentials(said)
    assert "ses" not in told
    assert "ame" not in told
    assert "host/a" in told
    assert told.endswith("'b@c', asked for /a/b")
    warn(said)
    assert capsys.readouterr().err == f"warning: {told}\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_URI", "postgresql://ann:se%20same@127.0.0.1:9/runs"),
        ("MLFLOW_TRACKING_URI", "postgresql://ann:se same@127.0.0.1:9/runs"),
        ("MLFLOW_TRACKING_PASSWORD", "se same"),
        ("MLFLOW_TRACKING_TOKEN", "se same"),
    ],
)
def test_the_users_own_secrets_are_printed_nowhere(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    said = "no login for ann with 'se same', that is se%20same, at x://ann:se same@127.0.0.1:9/runs"
    assert "same" not in without_credentials(said).replace("that is", "")


def test_a_secret_of_a_few_letters_leaves_words_as_they_are(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a")
    assert without_credentials("a word at http://a:a@host") == "a word at http://***@host"


def test_what_holds_no_secret_is_printed_as_it_is():
    said = "models:/lesions@champion, s3://bucket/a?versionId=1, mail a@b, http://host:80/a"
    assert without_credentials(said) == said


@pytest.mark.parametrize("kind", ["UserError", "NetworkError", "RuntimeError"])
def test_a_command_ends_without_saying_a_password(kind):
    code = (
        "from models import NetworkError\n"
        "from pipeline.study.errors import UserError, run_command\n"
        "def main():\n"
        f"    raise {kind}('no answer from http://ann:sesame@host')\n"
        "run_command(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 1
    assert "sesame" not in done.stdout + done.stderr
    assert done.stderr.endswith("no answer from http://***@host\n")
    assert ("Traceback" in done.stderr) == (kind == "RuntimeError")

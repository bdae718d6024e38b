"""MLflow's store: where it is, how every process opens it, what is said when it cannot be used."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from pipeline import ROOT
from pipeline.study.credentials import part_credentials
from pipeline.study.errors import UserError
from pipeline.study.params import original

if TYPE_CHECKING:
    from mlflow import MlflowClient


def home() -> Path:
    """The project's root; of a copy that DVC made for an experiment, the root of the project that
    it was copied from: the copy is deleted in the end."""
    copied = original(ROOT)
    above = [folder for folder in (copied, *copied.parents) if (folder / "pipeline").is_dir()]
    return above[0] if above else ROOT


def open_store() -> MlflowClient:
    """The store that MLFLOW_TRACKING_URI names, else mlflow.db at the project's root.

    Whoever opens it, opens it here first: then its tables are there. Raises UserError if it cannot
    be reached: two retries, which take seconds, where the library would try for minutes.
    """
    part_credentials()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds; the library's is 120
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or _uri(home() / "mlflow.db"))
    try:
        with locked():  # a client already makes the tables
            _make(database())
            client = mlflow.MlflowClient()
            client.search_experiments(max_results=1)
    except Exception as error:  # SQLAlchemy's, the disk's, a driver's that is missing
        raise UserError(fault(error)) from None
    return client


def _make(file: Path | None) -> None:
    """Make an SQLite store that is not there. MLflow's client alone would do so too, and let the
    experiment Default, which it adds, point into the working folder: a study's, as a rule."""
    if file is not None and not file.exists():
        import mlflow
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        SqlAlchemyStore(mlflow.get_tracking_uri(), artifact_location(file))


def artifact_location(file: Path) -> str:
    """Where the runs' files are of a store that is a file: in mlruns/ beside it."""
    return (file.parent / "mlruns").as_uri()


def _uri(file: Path) -> str:
    """Of an SQLite file, with what means something else in an address escaped.

    With the driver's name: of `sqlite:///` MLflow would make the folder as it is escaped.
    """
    from sqlalchemy.engine import URL

    return URL.create("sqlite+pysqlite", database=str(file)).render_as_string()


def database() -> Path | None:
    """The SQLite file that is the store; None for a server or a database of another kind."""
    import mlflow
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(mlflow.get_tracking_uri())
    except ArgumentError:  # a folder's path, or nobody's
        return None
    file = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or file.startswith((":memory:", "file:")):
        return None
    return Path(file).resolve()


@contextmanager
def locked() -> Iterator[None]:
    """Alone among this machine's processes: those that make one store, experiment or run at the
    same time spoil it, or make two. A server needs no file in the project."""
    file = database() or Path(tempfile.gettempdir(), f"mlflow-{os.getuid()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.stem}.lock")):
        yield


def fault(error: Exception) -> str:
    """Which store cannot be used, what it or a library says of it, and what to do; in one line."""
    if isinstance(error, UserError):
        return str(error)
    file = database()
    do = "start its server or correct MLFLOW_TRACKING_URI"
    if file is not None:
        do = (
            "mend it or move it away (`python -m pipeline.tracking sync` makes one of the run "
            "folders), or correct MLFLOW_TRACKING_URI"
        )
    at = file or _address()
    if isinstance(error, OSError) and error.filename:  # the disk's
        do = "make room, allow it, or move away what is in its place, then run again"
        named = error.filename2 or error.filename
        return f"MLflow's store cannot be used: {named}: {error.strerror}; {do}"
    return f"MLflow's store at {at} cannot be used: {said(error, do)}"


def _address() -> str:
    """The store's, as it may be said: without a query, where a database's may hold its password."""
    import mlflow
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    uri: str = mlflow.get_tracking_uri()
    try:
        return make_url(uri).set(query={}).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):  # a folder's path, or nobody's
        return uri


def said(error: Exception, otherwise: str) -> str:
    """An error's first line, and what to do: to log in, where it is for that, else `otherwise`."""
    lines = str(error).splitlines() or [type(error).__name__]
    if _status(error) in (401, 403):
        otherwise = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of a user who may "
            "read and write there"
        )
    return f"{lines[0]}; {otherwise}"


def _status(error: Exception) -> int | None:
    """HTTP's, of an answer to MLflow or to requests, which carries its files."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException, Response

    if isinstance(error, RequestException) and error.response is not None:
        return int(error.response.status_code)
    # MLflow forgets the status of an answer without an error code of its own, as a proxy gives it.
    for frame, _ in traceback.walk_tb(error.__traceback__):
        answer = frame.f_locals.get("response")
        if isinstance(answer, Response):
            return int(answer.status_code)
    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else None


@contextmanager
def faults_told(then: str = "") -> Iterator[None]:
    """Raise UserError for what the store refuses or does not answer. then: what to do besides."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, OSError, RequestException, SQLAlchemyError) as error:
        raise UserError(fault(error) + then) from None

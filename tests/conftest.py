"""Fixtures that more than one test file uses."""

from __future__ import annotations

import gc
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from mlflow_server import Server

# First, before anything uses oneDNN: the import keeps it off AMX where AMX is broken.
import pipeline.engine.compute  # noqa: F401
from pipeline import download, preprocess
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.tracking.connection import open_store

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: side by side, a file a process, a long one may not come last."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    minutes = {"test_dvc_commands.py", "test_pipeline.py"}  # each of few tests
    items.sort(key=lambda item: (item.path.name not in minutes, -slow[item.path]))


def pytest_collection_finish() -> None:
    """statsmodels collects garbage in each adjustment of p-values: a quarter of a second, if it
    walks all that the imports left."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _computing_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,  # which puts its own changes back first
) -> Iterator[None]:
    """With another number of threads, here or in the commands that later tests start, a training
    ends in other bits."""
    before = _threads()
    yield
    monkeypatch.undo()
    assert _threads() == before


def _threads() -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if "_NUM_THREADS" in name}
    return variables | {"torch": str(torch.get_num_threads())}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's store without a run. Making one takes ten seconds: tests copy this one."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
            patch.setenv(name, "")  # so that what the pipeline sets is gone with it
            patch.delenv(name)
        open_store()
    return file


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Iterator[Server]:
    """The server that MLFLOW_TRACKING_URI names, not started."""
    server = Server(tmp_path)
    shutil.copy(empty_store, tmp_path / "server.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")  # so that what the pipeline sets is gone with the test
        monkeypatch.delenv(name)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def real_cases() -> Path:
    """The folder of real cases, in the raw layout."""
    if "LESION_DATA_DIR" not in os.environ:
        pytest.skip("LESION_DATA_DIR is unset: it names the folder that holds isic2018/")
    folder = Path(os.environ["LESION_DATA_DIR"]) / "isic2018"
    assert folder.is_dir(), f"LESION_DATA_DIR must hold isic2018/, got {folder}"
    return folder


@pytest.fixture(scope="session")
def drawn_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with 20 + 4 + 6 prepared synthetic cases of 32x64 pixels and two variants on
    ResNet-18, one seed, one epoch; nothing trained. Copy it before writing to it."""
    folder = tmp_path_factory.mktemp("drawn")
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params["name"] = "tiny"
    params["code"] = str(REPOSITORY)
    params["data"] |= {"height": 48, "width": 64, "training": 20, "validation": 4, "test": 6}
    params["prepare"] |= {"height": 32, "width": 64}
    schedule = {"method": "constant", "warmup_epochs": 0}
    params["train"] |= {"schedule": schedule, "gradient_clip": None}  # not the demo's
    params["train"] |= {"epochs": 1, "batch_size": 8}
    params["train"]["optimizer"]["learning_rate"] = 0.001
    params["seeds"] = [0]
    params["averaging"] = []
    params["variants"] = ["gated_attention", "limit_encoder_attention"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    before = Path.cwd()
    os.chdir(folder)
    try:
        download.main()
        preprocess.main()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def tiny_study(
    drawn_study: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Study:
    """`drawn_study` as the working folder, with an MLflow store of its own; runs are its own."""
    if request.node.get_closest_marker("slow"):
        shutil.copy(request.getfixturevalue("empty_store"), tmp_path / "mlflow.db")
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "params.yaml").write_text((drawn_study / "params.yaml").read_text())
    (folder / "data").symlink_to(drawn_study / "data")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return load_study()


def change_params(**changes: object) -> Study:
    """Replace top-level keys of the working folder's params.yaml; blocks are merged."""
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(params))
    return load_study()

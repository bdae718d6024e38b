"""The project's own files agree with each other."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
import yaml
from conftest import REPOSITORY
from mutations import HARMS
from packaging.requirements import Requirement
from survivors import report

LOCK = (REPOSITORY / "requirements.lock").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
STUDIES = sorted(path.parent for path in REPOSITORY.glob("studies/**/params.yaml"))

# Python packages imported by the sources, under the name that the index knows them by.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pydantic_core": "pydantic",  # which pins it
    "ruamel": "ruamel-yaml",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "yaml": "pyyaml",
}


def locked() -> dict[str, list[Requirement]]:
    """Every line of the lock by package; a package may have a line for each platform."""
    found: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^([A-Za-z0-9][^\\\n]*)", LOCK, flags=re.MULTILINE):
        requirement = Requirement(line)
        found.setdefault(requirement.name.lower(), []).append(requirement)
    return found


def direct() -> list[Requirement]:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    lines = [*project["dependencies"], *groups["test"], *groups["lint"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    return [Requirement(line) for line in lines]


def test_the_lock_pins_every_direct_dependency_within_its_bounds():
    pins = locked()
    for requirement in direct():
        assert requirement.name in pins, f"{requirement.name}: run make lock"
        for pin in pins[requirement.name]:
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            assert specifier.version in requirement.specifier, f"{pin}: run make lock"


def test_every_line_of_the_lock_has_a_hash():
    blocks = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_lock_names_no_index_and_no_address():
    assert re.search(r"https?://|index-url|find-links|trusted-host", LOCK) is None


def test_the_environment_that_runs_is_the_locked_one():
    pins = locked()
    for requirement in direct():
        allowed = {
            next(iter(pin.specifier)).version
            for pin in pins[requirement.name]
            if pin.marker is None or pin.marker.evaluate()
        }
        assert version(requirement.name).partition("+")[0] in allowed


def test_conda_users_get_the_lock_and_a_python_that_the_project_allows():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    *others, pip = environment["dependencies"]
    assert pip == {"pip": ["--require-hashes", "-r requirements.lock"]}
    (python,) = (line for line in others if line.startswith("python="))
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(
        python.partition("=")[2]
    )
    assert environment["name"] == PROJECT["project"]["name"]


def test_every_import_of_the_sources_is_a_direct_dependency():
    names = {requirement.name for requirement in direct()}
    for path in [*REPOSITORY.glob("models/**/*.py"), *REPOSITORY.glob("pipeline/**/*.py")]:
        for module in re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE):
            if module in sys.stdlib_module_names or module in ("models", "pipeline"):
                continue
            assert DISTRIBUTIONS.get(module, module).lower() in names, f"{path.name}: {module}"


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_study_is_a_dvc_repository_with_the_one_pipeline(study):
    """As `make studies` leaves it."""
    for name in ("dvc.yaml", ".dvcignore", "networks/README.md"):
        assert not (study / name).is_symlink()
        assert (study / name).read_bytes() == (REPOSITORY / name).read_bytes()
    config = configparser.ConfigParser()
    config.read(study / ".dvc" / "config")
    root = configparser.ConfigParser()
    root.read(REPOSITORY / ".dvc" / "config")
    cache = (study / ".dvc" / config["cache"].pop("dir")).resolve()
    assert cache == REPOSITORY / ".dvc" / "cache"
    assert config == root


@pytest.mark.slow
def test_only_stages_that_compute_import_torch():
    code = "import sys; import pipeline.{}; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for stage in (
        "download", "preprocess", "average", "export_variants", "plot", "report",
        "tracking.__main__",
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code.format(stage)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert done.stdout.split() == ["False", "False"], stage


def test_dvc_and_the_makefile_turn_usage_statistics_off():
    config = (REPOSITORY / ".dvc" / "config").read_text()
    assert re.search(r"analytics = false", config)
    assert re.search(r"check_update = false", config)
    makefile = (REPOSITORY / "Makefile").read_text()
    for line in ("DVC_NO_ANALYTICS := 1", "MLFLOW_DISABLE_TELEMETRY := true"):
        assert f"export {line}" in makefile


@pytest.mark.parametrize("target", ["demo", "setup", "reproduce", "study", "studies", "test"])
def test_make_says_what_an_unpacked_archive_needs_before_it_makes_anything(tmp_path, target):
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    done = subprocess.run(
        ["make", target, "PYTHON=false"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "DVC needs a git repository here: git clone the project, or" in done.stderr
    assert len(list(tmp_path.iterdir())) == 3


def test_make_leaves_what_else_git_refuses_in_gits_words(tmp_path):
    """Such as a clone that another user owns: git init would not help."""
    told = "fatal: detected dubious ownership in repository"
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\necho '{told}' >&2\nexit 128\n")
    git.chmod(0o755)
    done = subprocess.run(
        ["make", "repository"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert "git init" not in done.stderr


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_a_mutations_line_is_in_the_sources(harm):
    assert (REPOSITORY / harm.file).read_text().count(harm.old) == 1


def test_the_share_of_changes_caught_is_told_by_package_and_too_little_fails():
    tried = ["killed"] * 17 + ["timeout", "survived", "no tests", "not checked"]
    lines = [
        f"    pipeline.evaluation.metrics.x_dice__mutmut_{n}: {s}" for n, s in enumerate(tried)
    ]
    lines += ["    pipeline.gate.speed.x_time__mutmut_1: survived", ""]
    table, survivors, poor = report(lines)
    assert table[2:] == [
        "| evaluation | 18 | 1 | 1 | 1 | 90.0% |",
        "| gate | 0 | 1 | 0 | 0 | 0.0% |",
    ]
    assert survivors == [
        "pipeline.evaluation.metrics.x_dice__mutmut_18: survived",
        "pipeline.evaluation.metrics.x_dice__mutmut_19: no tests",
        "pipeline.gate.speed.x_time__mutmut_1: survived",
    ]
    assert poor == []
    assert report([*lines, lines[18]])[2] == ["evaluation 85.7%, at least 90%"]

"""What DVC's users do, with the real DVC: at the root and in a study, on commits and on a change.

`pytest -s tests/test_dvc_commands.py` prints each command with what it said.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from clones import copy_project
from PIL import Image

from pipeline.data.synthetic import draw_case

pytestmark = pytest.mark.slow

PLACES = [".", "studies/tiny"]
UP_TO_DATE = "Data and pipelines are up to date."
SUMMARY = "reports/summary.json"


class Clone:
    """A git repository in which the root's study and studies/tiny are one small run each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": "",
            "DVC_NO_ANALYTICS": "1",
            "COLUMNS": "200",
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    def start(self, place: str, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root / place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, place: str, *command: str) -> str:
        start = time.perf_counter()
        process = self.start(place, *command)
        out, told = process.communicate()
        print(
            f"\n[{place}] {' '.join(command)}  ({time.perf_counter() - start:.1f} s)\n{out[-900:]}"
        )
        assert process.returncode == 0, out[-3000:] + told[-3000:]
        return out

    def dvc(self, place: str, *command: str) -> str:
        return self.run(place, "dvc", *command)

    def json(self, place: str, *command: str) -> Any:
        return json.loads(self.dvc(place, *command) or "{}")

    def commit(self, message: str) -> None:
        author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        self.run(".", "git", "add", "-A")
        self.run(".", "git", *author, "commit", "-qm", message)

    def set_threshold(self, place: str, value: float) -> None:
        file = self.root / place / "params.yaml"
        params = yaml.safe_load(file.read_text())
        params["evaluate"]["threshold"] = value
        file.write_text(yaml.safe_dump(params, sort_keys=False))

    def dice(self, place: str) -> float:
        summary = json.loads((self.root / place / SUMMARY).read_text())
        return float(summary["dice"]["resunet"]["mean"])


def ran(printed: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", printed)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    """Both studies reproduced, at the same time, and committed; the outputs are pushed."""
    made = Clone(tmp_path_factory.mktemp("clone"))
    copy_project(made.root, r"tests/|studies/")
    params = yaml.safe_load((made.root / "params.yaml").read_text())
    demo = Path(__file__).parents[1] / "studies" / "demo" / "params.yaml"
    params |= {"data": yaml.safe_load(demo.read_text())["data"]}
    params["data"] |= {"height": 40, "width": 48, "training": 8, "validation": 3, "test": 5}
    params["prepare"] |= {"height": 32, "width": 32}
    params["train"] |= {"epochs": 1, "precision": "float32"}
    params["train"]["optimizer"]["learning_rate"] = 0.001
    params |= {"variants": ["resunet"], "seeds": [0], "averaging": [], "export": []}
    params["models"] = {"resunet": {"encoder": "plain", "plain_width": 2}}
    params |= {"paper": None, "factors": {}}
    params["compare"]["draws"] = 1000
    params["tracking"]["live"] = False
    (made.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    made.run(".", "git", "init", "-q")
    for key, value in (("user.name", "test"), ("user.email", "test@localhost")):
        made.run(".", "git", "config", key, value)
    made.commit("clone")
    made.run(".", "python", "-m", "pipeline.new_study", "studies/tiny", "--like", ".")
    made.commit("study")
    both = [made.start(place, "dvc", "repro") for place in PLACES]
    for process in both:
        out, told = process.communicate()
        assert process.returncode == 0, out[-3000:] + told[-3000:]
        assert "train@resunet-0-0" in ran(out)
    made.commit("first")
    for place in PLACES:
        made.dvc(place, "remote", "add", "-d", "store", str(made.root.parent / "store"))
    made.commit("remote")
    for place in PLACES:
        made.dvc(place, "push", "--run-cache")
    return made


@pytest.fixture
def restored(clone):
    """The clone, as it was committed afterwards."""
    head = clone.run(".", "git", "rev-parse", "HEAD").strip()
    yield clone
    clone.run(".", "git", "reset", "-q", "--hard", head)
    for place in PLACES:
        clone.dvc(place, "checkout", "-q", "--force")


@pytest.fixture
def elsewhere(clone, tmp_path) -> Clone:
    """A fresh clone of the clone."""
    other = Clone(tmp_path / "elsewhere")
    clone.run(".", "git", "clone", "-q", str(clone.root), str(other.root))
    for key, value in (("user.name", "test"), ("user.email", "test@localhost")):
        other.run(".", "git", "config", key, value)
    return other


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_to_be_done_after_repro(clone, place):
    assert clone.dvc(place, "status").strip() == UP_TO_DATE
    assert ran(clone.dvc(place, "repro")) == []
    graph = clone.dvc(place, "dag", "--mermaid")
    assert "train@resunet-0-0" in graph
    assert "tiny" not in graph


@pytest.mark.parametrize("place", PLACES)
def test_an_experiment_with_nothing_to_do_is_quick(clone, place):
    """DVC reads two repositories for it, where a plain repro reads one; with the studies' stages in
    one repository it took twenty times as long."""
    seconds = {}
    for command in (("repro",), ("exp", "run")):
        start = time.perf_counter()
        assert ran(clone.dvc(place, *command)) == []
        seconds[command] = time.perf_counter() - start
    assert seconds["exp", "run"] < 6 * seconds["repro",]
    clone.dvc(place, "exp", "remove", "-A")


@pytest.mark.parametrize("place", PLACES)
def test_a_change_is_told_against_the_commit(restored, place):
    before = restored.dice(place)
    restored.set_threshold(place, 0.05)
    assert restored.json(place, "params", "diff", "--json") == {
        "params.yaml": {"evaluate.threshold": {"old": 0.5, "new": 0.05, "diff": -0.45}}
    }
    stale = restored.json(place, "status", "--json")
    assert "evaluate@resunet-0-0" in stale
    assert not {name for name in stale if name.startswith(("train", "preprocess", "download"))}
    assert "evaluate@resunet-0-0" in ran(restored.dvc(place, "repro"))
    assert restored.dice(place) != before

    found = restored.json(place, "metrics", "diff", "--json")
    assert list(found) == [SUMMARY]
    change = found[SUMMARY]["dice.resunet.mean"]
    assert (change["old"], change["new"]) == (before, restored.dice(place))
    shown = restored.json(place, "metrics", "show", "--json")[""]["data"]
    assert list(shown) == [SUMMARY]  # of no other study, and of no single run
    assert shown[SUMMARY]["data"]["test_cases"] == 5
    changed = restored.json(place, "diff", "--json")
    assert SUMMARY in {entry["path"] for entry in changed["modified"]}
    for command in (("plots", "show"), ("plots", "diff", "HEAD")):
        page = restored.dvc(place, *command, "-o", "drawn").strip().removeprefix("file://")
        assert "Validation BCE" in Path(page).read_text()
    shutil.rmtree(restored.root / place / "drawn")


def finished(clone: Clone, place: str) -> bool:
    told = clone.dvc(place, "queue", "status")
    assert "Failed" not in told, told
    return "Success" in told


@pytest.mark.parametrize("place", PLACES)
def test_experiments_are_run_compared_and_taken_over(restored, place):
    compare = ("exp", "run", "compare")  # and what it needs
    restored.dvc(place, *compare, "-n", "here", "-S", "evaluate.threshold=0.05")
    here = restored.dice(place)
    restored.run(".", "git", "checkout", "-q", ".")
    restored.dvc(place, "checkout", "-q", "--force")
    first = restored.dice(place)
    # Of other cases: the copy that it runs in draws its own.
    restored.dvc(place, *compare, "-n", "copied", "--temp", "-S", "data.seed=7")
    restored.dvc(place, *compare, "-n", "queued", "--queue", "-S", "focal.alpha=0.5")
    restored.dvc(place, "queue", "start")
    end = time.monotonic() + 300
    while not finished(restored, place):
        assert time.monotonic() < end
        time.sleep(2)
    restored.dvc(place, "queue", "stop")
    assert restored.dice(place) == first

    (commit,) = restored.json(place, "exp", "show", "--json")[1:]
    prefix = "" if place == "." else f"{place}/"
    figures = {"commit": commit["data"]["metrics"]}
    for experiment in commit["experiments"]:
        (revision,) = experiment["revs"][:1]
        figures[experiment["name"]] = revision["data"]["metrics"]
    assert set(figures) == {"commit", "here", "copied", "queued"}
    dice, told = {}, set()
    for name, files in figures.items():
        ((file, content),) = files.items()
        assert file in (SUMMARY, prefix + SUMMARY)
        dice[name] = content["data"]["dice"]["resunet"]["mean"]
        told.add(json.dumps(content["data"]))
    assert dice["commit"] == first
    assert dice["here"] == here
    assert len(told) == 4  # each has its own figures
    assert "resunet" in restored.dvc(place, "exp", "show", "--only-changed", "--no-pager")

    restored.dvc(place, "exp", "apply", "copied")
    params = yaml.safe_load((restored.root / place / "params.yaml").read_text())
    assert params["data"]["seed"] == 7
    assert restored.dice(place) == dice["copied"]
    restored.dvc(place, "exp", "remove", "-A")


@pytest.mark.parametrize("place", PLACES)
def test_a_fresh_clone_goes_on_from_the_remote(clone, place, elsewhere):
    elsewhere.dvc(place, "pull")
    assert elsewhere.dvc(place, "status").strip() == UP_TO_DATE
    assert ran(elsewhere.dvc(place, "repro")) == []
    assert not (elsewhere.root / place / "data" / "raw").exists()
    assert elsewhere.dice(place) == clone.dice(place)
    # Raw cases are wanted now, and drawn again.
    file = elsewhere.root / place / "params.yaml"
    params = yaml.safe_load(file.read_text())
    params["prepare"]["near_duplicates"] = None
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    assert ran(elsewhere.dvc(place, "repro", "preprocess")) == ["preprocess"]


@pytest.mark.parametrize("place", PLACES)
def test_repro_pulls_what_it_needs_in_a_fresh_clone(clone, place, elsewhere):
    assert ran(elsewhere.dvc(place, "repro", "--pull")) == []
    assert elsewhere.dice(place) == clone.dice(place)


@pytest.mark.parametrize("place", PLACES)
def test_older_commits_are_checked_out_fetched_from_and_collected(restored, place, tmp_path):
    before = restored.dice(place)
    restored.set_threshold(place, 0.05)
    restored.dvc(place, "repro")
    after = restored.dice(place)
    restored.commit("threshold")
    restored.dvc(place, "push")  # of a study that is not the root DVC gets from its remote alone
    path = SUMMARY if place == "." else f"{place}/{SUMMARY}"
    for revision, dice in (("HEAD~1", before), ("HEAD", after)):
        out = tmp_path / revision
        restored.dvc(".", "get", str(restored.root), path, "--rev", revision, "-o", str(out))
        assert json.loads(out.read_text())["dice"]["resunet"]["mean"] == dice
    restored.run(".", "git", "checkout", "-q", "HEAD~1")
    restored.dvc(place, "checkout")
    assert restored.dice(place) == before
    assert restored.dvc(place, "status").strip() == UP_TO_DATE
    restored.run(".", "git", "checkout", "-q", "-")
    restored.dvc(place, "checkout")
    assert restored.dice(place) == after

    # Collected is what neither this study nor the named ones have in their folders.
    others = [str(restored.root / other) for other in PLACES if other != place]
    restored.dvc(place, "gc", "-w", "-f", "-p", *others)
    for each in PLACES:
        restored.dvc(each, "checkout", "--force")
        assert restored.dvc(each, "status").strip() == UP_TO_DATE
    restored.run(".", "git", "checkout", "-q", "HEAD~1")
    restored.dvc(place, "pull")  # what was pushed is not lost
    assert restored.dice(place) == before


def test_a_folder_of_ones_own_is_found_from_everywhere_and_wanted_by_preprocess_alone(
    restored, elsewhere
):
    folder, place = restored.root.parent / "cases", "studies/cases"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(12):
        image, mask = draw_case(0, number, height=40, width=48)
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
    restored.run(".", "python", "-m", "pipeline.new_study", place, "--data", "../cases")
    own, tiny = (
        yaml.safe_load((restored.root / study / "params.yaml").read_text())
        for study in (place, "studies/tiny")
    )
    assert own["data"]["source"] == "directory"
    params = tiny | {key: own[key] for key in ("name", "data")}
    params["prepare"]["split"] = {
        "method": "random",
        "seed": 0,
        "training": 0.5,
        "validation": 0.25,
        "test": 0.25,
    }
    file = restored.root / place / "params.yaml"
    file.write_text(yaml.safe_dump(params, sort_keys=False))
    restored.commit("cases")
    evaluate = "evaluate@resunet-0-0"
    assert ran(restored.dvc(place, "repro", evaluate))[-1] == evaluate

    # From the copy of the repository that DVC makes for an experiment.
    told = restored.dvc(place, "exp", "run", "--temp", "-S", "prepare.height=64", "preprocess")
    assert "preprocess" in ran(told)
    restored.dvc(place, "exp", "remove", "-A")

    # A second study of the same cases.
    restored.run(".", "python", "-m", "pipeline.new_study", "studies/again", "--like", place)
    restored.dvc("studies/again", "repro", "preprocess")
    prepared = [restored.root / study / "data" / "prepared" for study in (place, "studies/again")]
    assert len({(each / "images.npy").read_bytes() for each in prepared}) == 1
    restored.dvc("studies/again", "repro", "--single-item", "--force", "preprocess")

    # Without the folder: here, and in a clone that pulled what was pushed.
    restored.commit("both")
    restored.dvc(place, "remote", "add", "-d", "store", str(restored.root.parent / "store"))
    restored.dvc(place, "push")
    folder.rename(folder.with_name("gone"))
    restored.set_threshold(place, 0.05)
    assert ran(restored.dvc(place, "repro", evaluate)) == [evaluate]
    elsewhere.run(".", "git", "pull", "-q", "origin", "HEAD")
    elsewhere.dvc(place, "remote", "add", "-d", "store", str(restored.root.parent / "store"))
    elsewhere.dvc(place, "pull", "--with-deps", evaluate)
    elsewhere.set_threshold(place, 0.1)
    assert ran(elsewhere.dvc(place, "repro", evaluate)) == [evaluate]
    shutil.rmtree(restored.root / place)
    shutil.rmtree(restored.root / "studies" / "again")

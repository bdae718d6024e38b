"""The house of the sources: which package may import which, and what each stage depends on."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache

import grimp
import pytest
import yaml
from conftest import REPOSITORY

# What a package may import, and with it what that may.
BELOW = {
    "models": "",
    "study": "models",
    "data": "study",
    "engine": "study",
    "training": "data engine",
    "evaluation": "data engine",
    "tracking": "data engine",
    "statistics": "training evaluation",
    "deployment": "statistics tracking",
    "reporting": "deployment",
    "stages": "reporting",
    "gate": "stages",
    "judge": "reporting",
    "fanout": "study",
    "status": "stages",
}
TOP = {
    "download", "preprocess", "train", "evaluate", "average", "export_variants", "compare",
    "attention", "plot", "report", "predict", "export", "new_study",
    "describe_networks", "check_network",
}  # fmt: skip
STAGES = {  # of dvc.yaml, and the module that each runs
    "download": "download",
    "preprocess": "preprocess",
    "prepare_external": "preprocess",
    "networks": "describe_networks",
    "train": "train",
    "evaluate": "evaluate",
    "evaluate_external": "evaluate",
    "average": "average",
    "export": "export_variants",
    "compare": "compare",
    "attention": "attention",
    "plot": "plot",
    "report": "report",
}
PLAIN = {"folders", "track"}  # a command of the shell, and one that decides nothing
DECIDE_NOTHING = {"study", "tracking"}


@cache
def graph() -> grimp.ImportGraph:
    """Imports within functions are in it, those for type checkers alone are not."""
    return grimp.build_graph(
        "pipeline", "models", exclude_type_checking_imports=True, cache_dir=None
    )


def room(module: str) -> str:
    """The package that a module is in; `stages` for what lies on top, `models` for networks."""
    first, *rest = module.split(".")
    if first == "models":
        return "models"
    return rest[0] if graph().find_children(f"pipeline.{rest[0]}") else "stages"


def modules() -> list[str]:
    return sorted(graph().modules - {"pipeline"})


@cache
def imports() -> set[tuple[str, str]]:
    """(a, b) where a module of the package a imports one of b."""
    found = set()
    for module in modules():
        for imported in graph().find_modules_directly_imported_by(module) - {"pipeline"}:
            found.add((room(module), room(imported)))
    return {(a, b) for a, b in found if a != b}


def allowed(package: str) -> set[str]:
    direct = set(BELOW[package].split())
    return direct.union(*(allowed(below) for below in direct))


def test_every_package_has_a_place_in_the_order():
    assert {room(module) for module in modules()} == set(BELOW)
    assert {module.split(".")[1] for module in modules() if room(module) == "stages"} == TOP


def test_a_package_imports_only_those_below_it():
    assert [(a, b) for a, b in sorted(imports()) if b not in allowed(a)] == []


def test_no_stage_imports_another():
    names = {f"pipeline.{name}" for name in TOP}
    for name in names:
        assert graph().find_modules_directly_imported_by(name) & names == set(), name


def test_networks_know_their_own_family_alone():
    for module in graph().find_descendants("models"):
        for imported in graph().find_modules_directly_imported_by(module):
            family = module.split(".")[1]
            assert imported == "models.config" or f"{imported}.".startswith(f"models.{family}."), (
                module
            )
    assert graph().find_modules_directly_imported_by("models") == {"models.config"}


def of(package: str) -> set[str]:
    return graph().find_descendants(f"pipeline.{package}")


@pytest.mark.slow
def test_a_training_is_made_by_models_engine_training_study_and_train_alone():
    """MLflow's view of a run is imported only where a study wants it live; albumentations, and the
    flip that derives from it, only where training batches are made."""
    assert graph().find_upstream_modules("pipeline.train") - of("tracking") == {
        "pipeline", "models", "models.config", *of("engine"), *of("training"), *of("study"),
    }  # fmt: skip
    code = "import sys, json, pipeline.train; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    own = {name for name in json.loads(done.stdout) if name.startswith(("pipeline.", "models."))}
    rooms = {name.split(".")[1] for name in own if name.startswith("pipeline.")}
    assert rooms == {"engine", "training", "study", "train"}
    assert own | {"pipeline.engine.depth_flip"} >= of("engine") | of("training")


def sources(stage: str) -> list[str]:
    """Of dvc.yaml: `models/config.py`, `pipeline/train.py` or `pipeline/data/raw.py`."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    return [dep[len("${code}/") :] for dep in stages[stage]["deps"] if dep.startswith("${code}/")]


def templates(modules: set[str]) -> set[str]:
    """Files of other kinds that are named in the text of one of the modules, or of such a file."""
    found: set[str] = set()
    left = [REPOSITORY / f"{module.replace('.', '/')}.py" for module in modules]
    while left:
        text = left.pop().read_text()
        for other in (REPOSITORY / "pipeline").rglob("*.*"):
            name = str(other.relative_to(REPOSITORY))
            if (
                other.suffix in (".html", ".css", ".js")
                and f'"{other.name}"' in text
                and name not in found
            ):
                found.add(name)
                left.append(other)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_what_it_imports_and_on_nothing_else(stage):
    module = f"pipeline.{STAGES[stage]}"
    wanted = {
        name
        for name in graph().find_upstream_modules(module) | {module}
        if name.startswith("pipeline.") and room(name) not in DECIDE_NOTHING
        if not graph().find_children(name)
    }
    listed = sources(stage)
    assert len(listed) == len(set(listed))
    files = {f"{name.replace('.', '/')}.py" for name in wanted} | templates(wanted)
    if stage == "networks":  # the others depend on what it says of each variant's sources
        files |= {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("models/**/*.py")}
    assert set(listed) == files


def test_a_stage_that_opens_networks_depends_on_what_they_are_made_of():
    """The report opens run.json alone, for the networks' cards."""
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    made_of = {
        stage: {dep for dep in stages[stage]["deps"] if dep.startswith("data/networks")}
        for stage in STAGES
        if "pipeline.engine.weights" in graph().find_upstream_modules(f"pipeline.{STAGES[stage]}")
    }
    one, every = {"data/networks/${item.variant}.json"}, {"data/networks"}
    assert made_of == {
        "networks": set(), "train": one, "evaluate": one, "evaluate_external": one,
        "average": one, "export": one,
        "attention": every, "report": set(),
    }  # fmt: skip


def test_dvcs_own_stages_are_these():
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert set(stages) == {*STAGES, *PLAIN}
    for stage, module in STAGES.items():
        assert f"python -m pipeline.{module}" in stages[stage]["cmd"]
        # Of a folder above a study's own DVC would follow what Python leaves in it, too.
        for dep in stages[stage]["deps"]:
            assert re.match(r"\$\{code\}/\S+\.\w+$|data/|external|networks|runs|reports/", dep), dep


def test_no_two_modules_differ_by_an_ending():
    """Names that a reader would take for one another, such as compare and comparison."""

    def stem(name: str) -> str:
        return re.sub(r"(isons?|ations?|ings?|e?ds?|e?rs?|es|s|e)$", "", name)

    own = [
        module.split(".")[-1]
        for module in modules()
        if room(module) != "models"
        and not graph().find_children(module)
        and not module.endswith("__main__")
    ]
    assert {stem(name) for name in ("compare", "comparison", "exported", "exporter")} == {
        "compar", "export"
    }  # fmt: skip
    assert [name for name in own if sum(stem(name) == stem(other) for other in own) > 1] == []


def drawn() -> set[tuple[str, str]]:
    """The arrows of CONTRIBUTING.md's diagram."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    block = text.partition("<!-- imports: begin -->")[2].partition("<!-- imports: end -->")[0]
    return set(re.findall(r"^\s*(\w+) --> (\w+)$", block, re.MULTILINE))


def reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without those that others together say already."""

    def reached(start: str, without: tuple[str, str]) -> set[str]:
        found: set[str] = set()
        ahead = [start]
        while ahead:
            here = ahead.pop()
            following = {b for a, b in arrows - {without} if a == here} - found
            found |= following
            ahead += following
        return found

    return {(a, b) for a, b in arrows if b not in reached(a, (a, b))}


def test_the_diagram_of_the_house_shows_the_packages_imports():
    assert drawn() == reduced(imports())


def test_a_module_says_what_it_is():
    for path in [*REPOSITORY.glob("pipeline/**/*.py"), *REPOSITORY.glob("models/**/*.py")]:
        told = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(told.split()) > 2, path

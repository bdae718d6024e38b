""".github/workflows/: valid, and every command in them exists."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from pipeline.gate import command as gate

WORKFLOWS = sorted(REPOSITORY.glob(".github/workflows/*.yml"))
TARGETS = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


class Loader(yaml.SafeLoader):
    """YAML 1.2's booleans: in YAML 1.1 the key `on` is one."""


Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: Path) -> dict[str, Any]:
    workflow: dict[str, Any] = yaml.load(path.read_text(), Loader=Loader)
    return workflow


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands(workflow: dict[str, Any]) -> list[str]:
    return [step["run"] for step in steps(workflow) if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_valid_and_its_commands_exist(path):
    workflow = load(path)
    assert {"name", "on", "jobs"} <= workflow.keys()
    for job in workflow["jobs"].values():
        assert {"runs-on", "timeout-minutes", "steps"} <= job.keys()
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step), step
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
    for command in commands(workflow):
        for module in re.findall(r"python -m ([\w.]+)", command):
            assert find_spec(module) is not None, command
        for target in re.findall(r"\bmake (\w+)", command):
            assert target in TARGETS, command
        for script in re.findall(r"\bbash (\S+)", command):
            assert (REPOSITORY / script).is_file(), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_gates_arguments_are_ones_that_it_takes(path):
    for command in commands(load(path)):
        if "pipeline.gate" in command:
            arguments = shlex.split(command.partition("pipeline.gate")[2].partition("|")[0])
            gate.parse(arguments)


def test_a_pull_request_runs_every_tier_and_shows_its_table():
    workflow = load(REPOSITORY / ".github/workflows/gate.yml")
    assert "pull_request" in workflow["on"]
    gates = [command for command in commands(workflow) if "pipeline.gate" in command]
    tiers = [gate.parse(shlex.split(c.partition("gate")[2].partition("|")[0])).tier for c in gates]
    assert tiers == ["a", "b", "c"]
    assert all('tee -a "$GITHUB_STEP_SUMMARY"' in command for command in gates)
    # Without pipefail, which the default shell lacks, a failed gate would pass.
    assert workflow["defaults"]["run"]["shell"] == "bash"
    (upload,) = (step for step in steps(workflow) if "upload-artifact" in step.get("uses", ""))
    assert upload["with"]["path"] == "studies/demo/reports/"


def test_the_full_study_runs_on_a_schedule_on_a_gpu():
    workflow = load(REPOSITORY / ".github/workflows/reproduce.yml")
    (schedule,) = workflow["on"]["schedule"]
    assert len(schedule["cron"].split()) == 5
    (job,) = workflow["jobs"].values()
    assert {"self-hosted", "gpu"} <= set(job["runs-on"])
    assert "make reproduce" in commands(workflow)

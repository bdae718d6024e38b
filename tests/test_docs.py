"""The texts for people: their commands run, their links resolve, what they name exists.

A fence of commands that is not run has the reason in a line before it: `<!-- not run: ... -->`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from clones import copy_project
from conftest import REPOSITORY

PAGES = [  # those with commands, in the order that their commands are run in
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "CONTRIBUTING.md",
]
TEXTS = [*PAGES, REPOSITORY / "CHANGELOG.md", REPOSITORY / "reports" / "README.md"]
LANGUAGES = {"bash", "yaml", "python", "text", "mermaid"}
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- not run: (\S.*) -->$", re.MULTILINE)
STUDY = "studies/demo"
# Left out of the clone: DVC reads every study, each time.
LEFT_OUT = r"studies/(?!demo/|isic-sample/params)"
# By readers and by runs.
MADE = re.compile(r"^(studies/(mine\b|[^/]+/(data|runs|reports|\.resume|networks/\w+\.py)\b))")


@dataclass(frozen=True)
class Fence:
    """A block between ``` lines. skipped: why its commands are not run; empty where they are."""

    page: str
    line: int
    language: str
    body: str
    skipped: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def fences(page: Path) -> list[Fence]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        mark = MARK.fullmatch(text[: match.start()].rstrip("\n").rpartition("\n")[2])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Fence(page.name, line, match[1], match[2], mark[1] if mark else ""))
    ticks = len(re.findall(r"^ *```", text, re.MULTILINE))
    assert ticks == 2 * len(found), f"{page.name}: a fence that does not begin or end a line"
    return found


def prose(page: Path) -> str:
    """The page without its fences."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_a_fence_says_its_language_and_marks_stand_before_commands(page):
    found = fences(page)
    for fence in found:
        assert fence.language in LANGUAGES, f"{fence}: {fence.language or 'no language'}"
    marked = [fence for fence in found if fence.skipped]
    assert all(fence.language == "bash" for fence in marked)
    assert len(marked) == len(MARK.findall(page.read_text())), "a mark must stand before its fence"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_is_valid(page):
    for fence in fences(page):
        if fence.language == "yaml":
            assert yaml.safe_load(fence.body), str(fence)


def test_the_readme_is_an_introduction():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 120


@pytest.mark.parametrize("page", PAGES[1:-1], ids=lambda page: page.name)
def test_a_page_starts_with_what_does_the_job(page):
    first = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[0]
    assert re.search(r"^```(bash|yaml)$", first, re.MULTILINE)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_links_and_anchors_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / unquote(path) if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_readmes_table_or_linked_from_another():
    linked = set()
    for page in TEXTS:
        for target in re.findall(r"\]\(([^)#\s]+)", prose(page)):
            linked.add((page.parent / target).resolve())
    assert [page.name for page in PAGES[1:] if page not in linked] == []


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    """Files, modules and make's targets."""
    text = page.read_text()
    for path in re.findall(
        r"(?<![\w/.])((?:pipeline|tests|models|studies|docs)/[^\s`'\"|)(,;#]*)", text
    ):
        path = path.rstrip(".:")
        if not re.search(r"[<>*]", path) and not MADE.match(path):
            assert (REPOSITORY / path).exists(), path
    for module in re.findall(r"python -m (pipeline(?:\.\w+)+)", text):
        found = find_spec(module)
        assert found is not None, module
        assert not found.submodule_search_locations or find_spec(f"{module}.__main__"), module
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:`|^)make (\w+)", text, re.MULTILINE):
        assert target in targets, target


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's files in a git repository of their own, where a reader has done what the texts
    take for granted: an environment, a finished demo (a tiny one), and cases in data/mine."""
    root = tmp_path / "clone"
    copy_project(root, LEFT_OUT)
    shrink(root / STUDY / "params.yaml")
    shrink(root / "params.yaml")  # it is read with every other
    environment = root / ".venv"  # this one, by links, but for the file that `make` looks at
    environment.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != "ready":
            (environment / path.name).symlink_to(path)
    (environment / "ready").touch()
    run(root, "git init -q && git add -A")
    run(root, "git -c user.name=test -c user.email=test@localhost commit -qm clone")
    run(root, f"python tests/helpers/finished_study.py {STUDY}")
    run(root, "dvc --cd studies/demo commit -q -f")
    for setting in ("user.name test", "user.email test@localhost"):
        run(root, f"git config {setting}")
    for kind, ending in (("images", "_Input"), ("masks", "_GroundTruth")):
        folder = root / "data" / "mine" / kind
        folder.mkdir(parents=True)
        for file in sorted((root / STUDY / "data" / "raw").glob(f"*{ending}/SYNTHETIC_*")):
            shutil.copy2(file, folder)
    return root


def shrink(params_file: Path) -> None:
    """Make the demo as small as a study can be that has every output."""
    params = yaml.safe_load(params_file.read_text())
    params |= {"variants": ["gated_attention", "resunet"], "seeds": [0, 1], "export": []}
    # As many cases as the random split of studies/isic-sample can divide.
    params["data"] |= {"height": 32, "width": 32, "training": 12, "validation": 4, "test": 8}
    params["prepare"] |= {"height": 32, "width": 32}
    params["train"] |= {"epochs": 1}
    params["train"]["schedule"]["warmup_epochs"] = 0
    params["train"]["optimizer"]["learning_rate"] = 0.001  # YAML 1.1 reads 1e-3 as text
    params["compare"] |= {"draws": 1000}
    for network in params["models"].values():
        small = {"weights": "none", "plain_width": 2, "encoder_attention": []}
        network |= {"encoder": "plain"} | small
    params_file.write_text(yaml.safe_dump(params, sort_keys=False))


def run(root: Path, commands: str) -> str:
    """What `commands` print, run by bash at `root` as a reader would; the first failure ends it."""
    environment = os.environ | {
        "PATH": f"{root / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),  # before the sources that the environment was made for
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", commands],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout[-3000:]}"
    return done.stdout


@contextmanager
def followed(root: Path, page: Path) -> Iterator[None]:
    """For the commands of own-network.md its file and its entry of params.yaml are put in place."""
    if page.name != "own-network.md":
        yield
        return
    file, params_file = root / STUDY / "networks" / "senet.py", root / STUDY / "params.yaml"
    before = params_file.read_bytes()
    shown = {fence.language: fence.body for fence in reversed(fences(page))}
    file.write_text(shown["python"])
    params, entry = yaml.safe_load(before), yaml.safe_load(shown["yaml"])
    params["variants"] += entry["variants"]
    params["models"] |= entry["models"]
    params_file.write_text(yaml.safe_dump(params, sort_keys=False))
    yield
    file.unlink()
    params_file.write_bytes(before)


@pytest.mark.slow
def test_the_commands_of_every_page_run(clone):
    """In their order, page by page."""
    failed: list[str] = []
    for page in PAGES:
        with followed(clone, page):
            run_page(clone, page, failed)
    assert not failed, "\n".join(failed)


def run_page(clone: Path, page: Path, failed: list[str]) -> None:
    for fence in fences(page):
        if fence.language == "bash" and not fence.skipped:
            try:
                run(clone, fence.body)
                if "make demo" in fence.body:
                    left = run(clone, "git status --porcelain").split()
                    assert left == ["??", f"{STUDY}/dvc.lock"], "what the demo leaves"
            except AssertionError as error:
                failed.append(f"{fence}: {error}")

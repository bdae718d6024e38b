"""DVC's reading of a dvc.yaml with a matrix, in seconds where it has 10,000 stages.

DVC makes each stage's dependencies and outputs anew, of which most are the same in all of them.
Here it makes one of each, and the others are copies: tests/fanout/test_stage_graph.py holds them
equal to DVC's own.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from dvc import dependency, output
from dvc.dvcfile import ProjectFile
from dvc.repo.graph import build_graph, check_acyclic
from dvc.repo.trie import build_outs_trie
from dvc.stage.loader import StageLoader

_OUTS = ("outs", "metrics", "plots")
_PLAIN = re.compile(r"(?!/)(?!.*\.\.)[\w./-]+")  # of a path: below the folder of dvc.yaml


class _Loader(StageLoader):  # type: ignore[misc]  # DVC has no types
    @classmethod
    def load_stage(
        cls, dvcfile: Any, name: str, stage_data: dict[str, Any], lock_data: Any = None
    ) -> Any:
        apart = ("deps", "params", *_OUTS)
        rest = {key: value for key, value in stage_data.items() if key not in apart}
        stage, made = super().load_stage(dvcfile, name, rest, lock_data), dvcfile.made
        for path in stage_data.get("deps", []):
            make = partial(dependency.loads_from, stage, [path])
            stage.deps += made(stage, ("deps", path), make)
        params = stage_data.get("params", [])
        make = partial(dependency.loads_params, stage, params)
        stage.deps += made(stage, ("params", repr(params)), make)
        for kind in _OUTS:
            stage.outs += _outputs(made, stage, kind, stage_data.get(kind, []))
        cls.fill_from_lock(stage, lock_data)
        return stage


def _outputs(made: Any, stage: Any, kind: str, entries: list[Any]) -> list[Any]:
    """Of one kind and without flags they differ in their paths alone. That .dvcignore hides none
    DVC is asked for the first: it would take seconds, and one that is hidden cannot be recorded."""
    plain = all(isinstance(entry, str) and _PLAIN.fullmatch(entry) for entry in entries)
    if not plain or len(set(entries)) < len(entries):
        return list(output.load_from_pipeline(stage, entries, typ=kind))
    found = []
    for path in entries:
        make = partial(output.load_from_pipeline, stage, [path], typ=kind)
        (out,) = made(stage, kind, make)
        out._validate_output_path(path)
        out.def_path, out.fs_path = path, out._parse_path(out.fs, path)
        found.append(out)
    return found


class _File(ProjectFile):  # type: ignore[misc]
    LOADER = _Loader

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._made: dict[Any, list[Any]] = {}

    def made(self, stage: Any, key: Any, make: Callable[[], list[Any]]) -> list[Any]:
        """Copies, for the stage, of what was made for the first that asked with that key."""
        key = (stage.wdir, key)
        if key not in self._made:
            self._made[key] = make()
        copies = []
        for entry in self._made[key]:
            copies.append(object.__new__(type(entry)))
            vars(copies[-1]).update(vars(entry), stage=stage)
        return copies


def is_given_out(stage: Any) -> bool:
    """Whether it is one of a matrix that any worker can run: one whose outputs persist is made of
    raw cases, which lie on this machine."""
    return "@" in stage.name and not any(out.persist for out in stage.outs)


class StageGraph:
    """The stages of a dvc.yaml, and what each needs.

    graph: of those that are given out and what these need, as DVC's: an edge leads from a stage to
    one whose output it reads.
    """

    def __init__(self, repo: Any, path: str) -> None:
        with _no_collector():
            self.stages = list(_File(repo, path).stages.values())
            self._outputs = build_outs_trie(self.stages)
            self._makers: dict[str, list[Any]] = {}
            self.graph = build_graph([])
            waiting = [stage for stage in self.stages if is_given_out(stage)]
            self.graph.add_nodes_from(waiting)
            while waiting:
                stage = waiting.pop()
                for dep in stage.deps:
                    for maker in self.makers(dep):
                        if maker not in self.graph:
                            waiting.append(maker)
                        self.graph.add_edge(stage, maker)
            check_acyclic(self.graph)

    def makers(self, dep: Any) -> list[Any]:
        """The stages that write it, some of it or more than it."""
        if dep.fs_path not in self._makers:
            key, outs = dep.fs.parts(dep.fs_path), self._outputs
            found = [step.value.stage for step in outs.prefixes(key)]
            if outs.has_subtrie(key):
                found += [out.stage for out in outs.values(prefix=key)]
            self._makers[dep.fs_path] = list(dict.fromkeys(found))
        return self._makers[dep.fs_path]


@contextmanager
def _no_collector() -> Iterator[None]:
    """Millions of objects come, and stay as long as the process: Python would look through all of
    them again and again, now and later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

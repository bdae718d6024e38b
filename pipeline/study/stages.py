"""A stage as dvc.yaml has it: what decides its result stays, while it runs, what it was.

DVC takes the hashes of a stage's dependencies after its command (treeverse/dvc#11058): without this
it would record, and give back from its cache for ever, the result of files and params as they were
at the start as that of the files and params at the end.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import models
from pipeline import ROOT, STARTED
from pipeline.study.documents import read_yaml
from pipeline.study.errors import UserError
from pipeline.study.files import before_placing, read_json, sha256
from pipeline.study.locks import alone
from pipeline.study.params import Run, Study

CODE = "${code}/"  # in dvc.yaml: the sources
_SMALL = 1 << 20  # bytes; a larger file is known by its size and its time of change alone


def read_stage(name: str) -> dict[str, Any]:
    """The stage's block of dvc.yaml."""
    return dict(_read(ROOT / "dvc.yaml")["stages"][name])


def _read(path: Path) -> Any:
    """The document in a YAML file; of one that cannot be read what is said of it."""
    try:
        found = path.stat()
        return _document(path, found.st_size, found.st_mtime_ns, found.st_ino)
    except (OSError, UserError) as error:
        return str(error)


@cache
def _document(path: Path, *_: int) -> Any:
    return read_yaml(path)


def state(
    paths: Iterable[Path | str], params: Iterable[tuple[Path | str, Sequence[str]]] = ()
) -> dict[str, str]:
    """What files and folders are now, each as a short text that differs when they do; and each
    value below keys of a params file, "" for all of it."""
    found = {str(path): _state_of(Path(path)) for path in paths}
    for file, keys in params:
        found |= params_state(file, keys)
    return found


def _state_of(path: Path, small: int = _SMALL) -> str:
    """small: bytes up to which a file is read, not only looked at."""
    if path.is_dir():
        files = sorted(file for file in _files_below(path) if not _ignored(file))
        parts = [f"{file} {_state_of(file, small)}" for file in files]
        return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()
    try:
        found = path.stat()
        if found.st_size > small:
            return f"{found.st_size} bytes, {found.st_mtime_ns}"
        return _sha256(path, found.st_size, found.st_mtime_ns, found.st_ino)
    except OSError:
        return "absent"


def _files_below(folder: Path) -> Iterator[Path]:
    """Those of linked folders, too; where links lead to one folder twice, or round, only once."""
    met = set()
    for top, below, names in os.walk(folder, followlinks=True):
        below.sort()  # so that it is the same one each time
        if (real := os.path.realpath(top)) in met:
            below.clear()
            continue
        met.add(real)
        yield from (path for path in map(Path(top).joinpath, names) if path.is_file())


def _ignored(file: Path) -> bool:
    """Whether DVC passes it over, as .dvcignore says."""
    passed_over = {"__pycache__", ".gitignore"} & set(file.parts)
    return bool(passed_over) or "/reports/partial/" in f"/{file.as_posix()}"


@cache
def _sha256(path: Path, *_: int) -> str:
    return sha256(path)


def params_state(file: Path | str, keys: Sequence[str], content: Any = None) -> dict[str, str]:
    """The part of `state` of a params file; content: what it held when it was read."""
    content = _read(Path(file)) if content is None else content
    found: dict[str, str] = {}
    for key in keys:
        below = content
        for part in key.split(".") if key else ():
            below = below.get(part) if isinstance(below, dict) else None
        found |= _flat(below, key)
    return {f"{file}: {name}": value for name, value in found.items()}


def _flat(content: Any, name: str) -> dict[str, str]:
    """Nested blocks as one: train.optimizer.method."""
    if not isinstance(content, dict) or not content:
        return {name: repr(content)}
    found: dict[str, str] = {}
    for key, value in content.items():
        found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found


def differing(then: dict[str, str], now: dict[str, str]) -> str:
    """The names under which two states differ, in words; empty where they are equal."""
    names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


class _Held:
    """What decides a stage's result, and what it was at the start."""

    def __init__(
        self,
        study: Study,
        name: str,
        run: Run | None,
        variant: str | None,
        external: str | None,
        networks: Sequence[str],
        also: Sequence[Path],
    ) -> None:
        self.study, self.name = study, name
        stage = read_stage(name)
        item: dict[str, Any] = {"variant": variant} if run is None else run._asdict()
        item["set.name"] = external

        def named(block: str) -> list[str]:
            """The block's paths or keys; one with options is a dict with it as its key."""
            entries = [e if isinstance(e, str) else next(iter(e)) for e in stage.get(block, [])]
            for field, value in item.items():
                entries = [entry.replace(f"${{item.{field}}}", str(value)) for entry in entries]
            return entries

        deps = named("deps")
        self.sources = [ROOT / dep[len(CODE) :] for dep in deps if dep.startswith(CODE)]
        self.inputs = [study.folder / dep for dep in deps if not dep.startswith(CODE)]
        self.also = also
        for variant in networks:
            self.inputs += check_network(study, variant)
        self.keys = ["" if key == "params.yaml" else key for key in named("params")]
        self.outs = [(study.folder / out).resolve() for out in named("outs") + named("metrics")]
        self.label = (variant or f"the stage {name}") if run is None else study.label(run)
        self.check_sources_are_those_imported()
        self.before = self.state(study.content)

    def check_sources_are_those_imported(self) -> None:
        now = time.time()
        late = [
            source.relative_to(ROOT).as_posix()
            for source in self.sources
            if source.is_file() and any(STARTED < when <= now for when in _changes(source))
        ]
        if late:
            raise UserError(f"{', '.join(late)} changed while {self.label} was started: run again")

    def state(self, content: Any = None) -> dict[str, str]:
        found = {path.relative_to(ROOT).as_posix(): _state_of(path) for path in self.sources}
        found |= state(self.inputs)
        found |= {str(path): _state_of(path, small=-1) for path in self.also}
        return found | params_state(self.study.folder / "params.yaml", self.keys, content)

    def check(self, placed: Path | None = None) -> None:
        """Raise UserError if anything is another now. placed: with it only if that is an output."""
        if placed is not None and not self.is_output(placed.resolve()):
            return
        if changed := differing(self.before, self.state()):
            raise UserError(
                f"{changed} changed while {self.label} was at {self.name}: its result is not that "
                "of what is there now, and what of it is in place already is not to be used; run "
                "again, or put back what was there and run again"
            )

    def is_output(self, path: Path) -> bool:
        return any(path == out or path in out.parents or out in path.parents for out in self.outs)


def _changes(source: Path) -> tuple[float, float]:
    """When its content was written, and when it was put there: a copy may keep an older time."""
    found = source.stat()
    return found.st_mtime, found.st_ctime


def check_network(study: Study, variant: str) -> list[Path]:
    """The source files of the variant's network. Raises UserError if they are not those that the
    stage networks described: DVC goes by that."""
    hashes, file = models.source_hashes(study.models[variant]), study.network_file(variant)
    if file.is_file() and read_json(file, "networks")["sources"] != hashes:
        raise UserError(
            f"models.{variant}: its network's sources are not those of {file}; run the stage "
            "networks"
        )
    # A study's own are named as seen from its folder.
    return [(study.folder if name.startswith("networks/") else ROOT) / name for name in hashes]


@contextmanager
def at_stage(
    study: Study,
    name: str,
    run: Run | None = None,
    *,
    variant: str | None = None,
    external: str | None = None,
    networks: Sequence[str] = (),
    also: Sequence[Path] = (),
    partial: bool = False,
) -> Iterator[None]:
    """Be the only process at the stage, and put none of its outputs in place if what decides it
    became another meanwhile: its deps and params in dvc.yaml, the sources of the variants
    `networks`, the paths `also` (by their sizes and times of change).

    run: of a stage with a matrix of runs, which beating() has for itself. variant: of one with a
    matrix of variants, or that writes what is a variant's: be the only process at that. external:
    likewise, of one with a matrix of external test sets. partial: of a part of a study, whose
    results are no outputs. Raises UserError.
    """
    whose = variant or external
    part = ".partial" if partial else f".{whose}" if whose else ""
    lock = study.folder / ".resume" / f"{name}{part}.lock"
    label = f"the stage {name}" + (f" of {whose}" if whose else "")
    with nullcontext() if run and not variant else alone(lock, label, "run"):
        if partial:
            yield
            return
        held = _Held(study, name, run, variant, external, networks, also)
        before_placing.append(held.check)
        try:
            yield
        finally:
            before_placing.remove(held.check)
        held.check()

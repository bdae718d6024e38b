"""The stages of a study's matrix as DVC has them: which are stale, and recording those that ran.

All that is asked of DVC and written through it stands here, in one process: the client's. It holds
DVC's own locks as `dvc repro` does: the repository's for moments, and for as long as stages run
the one on what they read and write, so that a `dvc repro` beside it is told by DVC who is at work.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline.fanout import run_cache
from pipeline.fanout.progress import kind_of
from pipeline.fanout.worker import Checkout, Done, Job
from pipeline.study.errors import UserError, warn
from pipeline.study.files import replacing
from pipeline.study.stages import state


class LockedError(UserError):
    """Another process keeps a lock of DVC's; the message names it where DVC knows it."""


class Matrix:
    """The stages of one dvc.yaml that it writes as a matrix, loaded once.

    folder: of the dvc.yaml, a study's. remote: the name of the DVC remote that inputs and outputs
    travel through, where workers do not share this file system. Raises UserError where DVC cannot
    read one or has no such remote.
    """

    def __init__(self, folder: Path, remote: str | None = None) -> None:
        from dvc.repo import Repo
        from dvc.repo.reproduce import plan_repro

        from pipeline.fanout.stage_graph import StageGraph, is_given_out

        # It would name the copy of dvc.lock that is written before it takes its place.
        logging.getLogger("dvc").setLevel(logging.WARNING)
        self.file = folder.resolve() / "dvc.yaml"
        with _told():
            config = {"core": {"remote": remote}} if remote is not None else None
            self.repo = Repo(str(folder.resolve()), config=config)
            if remote is not None:
                self.repo.cloud.get_remote(remote)
        with self._locked():
            self.stage_graph = StageGraph(self.repo, str(self.file))
        self.graph = self.stage_graph.graph
        # In DVC's own order: each after those that it depends on.
        order = plan_repro(self.graph)
        self.stages = {stage.addressing: stage for stage in order if is_given_out(stage)}
        # The jobs that may be recorded, each with its inputs and outputs as they were then.
        self.verified: dict[str, tuple[Job, dict[str, str]]] = {}

    def before(self) -> list[str]:
        """The stages outside of the matrix that it reads from, where any before them is stale."""
        with self._locked():
            return [name for name, stage in self._read().items() if self._changed(stage, {}, True)]

    def _read(self) -> dict[str, Any]:
        """The stages outside of the matrix that it reads from."""
        return {
            needed.addressing: needed
            for stage in self.stages.values()
            for needed in self.graph.successors(stage)
            if needed.addressing not in self.stages
        }

    def _changed(self, stage: Any, said: dict[Any, Any], deeply: bool = False) -> bool:
        """As `stage.changed()`, which also writes DVC's file of locks, for each of its parts. said:
        what DVC said already."""
        if stage.frozen:
            return False
        if stage.changed_stage() or stage.always_changed:
            return True
        if any(self._status(dep, said) for dep in stage.deps):
            return True
        if any(out.status() for out in stage.outs):
            return True
        return deeply and any(
            self._changed(needed, said, True) for needed in self.graph.successors(stage)
        )

    def _status(self, dep: Any, said: dict[Any, Any]) -> Any:
        """As `dep.status()`. What no stage of the matrix writes, all of them have in common: one
        file and one hash of it, and DVC is asked once."""
        if any(maker.addressing in self.stages for maker in self.stage_graph.makers(dep)):
            return dep.status()
        key = (type(dep), dep.fs_path, repr(dep.hash_info), *getattr(dep, "params", ()))
        if key not in said:
            said[key] = dep.status()
        return said[key]

    def stale(self) -> list[Job]:
        """What must run, each after what it depends on. What DVC's run-cache holds is taken from
        there and recorded. To be asked for while the matrix is `claimed`."""
        from dvc.stage.cache import RunCacheNotFoundError

        jobs: dict[str, Job] = {}
        places = {name: place for place, name in enumerate(self.stages)}
        restored = []
        said: dict[Any, Any] = {}
        known = self._known_commands()
        with self._locked():
            for name, stage in self.stages.items():
                needed = {each.addressing for each in self.graph.successors(stage)}
                reads = tuple(sorted(needed & places.keys(), key=places.__getitem__))
                after = tuple(each for each in reads if each in jobs)
                if not after:
                    if not self._changed(stage, said):
                        continue
                    with suppress(RunCacheNotFoundError):
                        if str(stage.cmd) in known or any(out.hash_info for out in stage.outs):
                            self._restore(stage)
                            restored.append(name)
                            continue
                jobs[name] = _job(stage, after, reads)
            for name, told in self._write(restored).items():
                raise UserError(f"{name} was taken from DVC's run-cache, and is gone: {told}")
            self._share(restored)
        return list(jobs.values())

    def _restore(self, stage: Any) -> None:
        """Take the outputs from DVC's run-cache, in place of those that lie there. Raises
        RunCacheNotFoundError, and then leaves them."""
        run_cache.ask(stage)
        self.repo.stage_cache.restore(stage, dry=True)
        stage.remove_outs()  # DVC asks a user before it replaces one that it could not bring back
        self.repo.stage_cache.restore(stage)

    def _known_commands(self) -> set[str]:
        """Those of DVC's run-cache. To look a stage up there DVC reads params.yaml anew: minutes,
        for ten thousand that never ran."""
        commands = set()
        for file in Path(self.repo.stage_cache.cache_dir).glob("*/*/*"):
            with suppress(OSError, yaml.YAMLError, KeyError, TypeError):
                entry = yaml.load(file.read_bytes(), yaml.CSafeLoader)  # the fast one
                commands.add(str(entry["cmd"]))
        return commands

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold DVC's lock on what the matrix reads and writes. Raises UserError if another holds
        it.

        Of what each kind of stage writes the folder that holds all of it: DVC compares every path
        with every other, each time that anything is locked.
        """
        from dvc.rwlock import rwlock

        read: set[str] = set()
        written: dict[str, set[str]] = defaultdict(set)
        for name, stage in self.stages.items():
            read |= {dep.fs_path for dep in stage.deps}
            written[kind_of(name)] |= {out.fs_path for out in stage.outs}
        folders = sorted({os.path.commonpath(paths) for paths in written.values()})
        hardlink = self.repo.config["core"].get("hardlink_lock", False)
        with (
            _told(),
            rwlock(
                self.repo.tmp_dir,
                _WholeFiles,
                " ".join(sys.argv),
                sorted(path for path in read if not any(_inside(path, each) for each in folders)),
                folders,
                hardlink,
            ),
        ):
            yield

    def why_not(self, job: Job, done: Done) -> str:
        """What speaks against recording that result, in words; empty if nothing does.

        DVC would record whatever lies there as the result of the files as they are now: so they
        must be those that the command was started with, and the outputs those that it wrote.
        """
        now = state(job.inputs, job.params)
        changed = [
            _short(path, job.folder)
            for path in now
            if not done.before.get(path) == done.after.get(path) == now[path]
        ]
        if changed:
            return f"{', '.join(changed)} changed while it ran: run again"
        outputs = state(job.outputs)
        missing = [_short(path, job.folder) for path in outputs if outputs[path] == "absent"]
        if missing:
            return f"{', '.join(missing)} is not there: its command must write it, in this folder"
        if outputs != done.outputs:
            return (
                "its worker wrote other files than those that are here: a worker without this "
                "file system needs --remote"
            )
        self.verified[job.name] = (job, now | outputs)
        return ""

    def checkout(self, remote: str, jobs: Sequence[Job]) -> Checkout:
        """Put what the jobs read of other stages into the remote, and the commit of the sources
        into a bundle.

        Raises UserError where files that git follows are not as they were committed, and where a
        folder that a job reads holds what workers will not have.
        """
        root, study = Path(self.repo.scm.root_dir), self.file.parent
        # dvc.lock says what was run, and nothing of what runs.
        kept = ":(exclude,glob)**/dvc.lock"
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", kept)
        known = _git(root, "ls-files", "--", str(study / "params.yaml"), str(self.file))
        if changed or len(known.splitlines()) < 2:
            what = " ".join(changed.split()) or f"{study.name}/params.yaml, {study.name}/dvc.yaml"
            raise UserError(
                f"--remote: workers are given the last commit, and these are not in it: {what}; "
                "commit them first"
            )
        inputs = {dep.fs_path for stage in self.stages.values() for dep in stage.deps}
        made = {out.fs_path for stage in self.stage_graph.stages for out in stage.outs}
        if foreign := self._foreign({path for job in jobs for path in job.inputs}, made):
            told = " ".join(_short(path, str(study)) for path in foreign[:5])
            raise UserError(
                f"--remote: workers have what stages write, and these are of none: {told}; a stage "
                "reads the folder that they are in: move them away"
            )
        sources = [path for path in inputs - made if _inside(path, str(root))]
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", *sources)
        if untracked:
            raise UserError(
                f"--remote: workers are given what git follows, not {' '.join(untracked.split())}: "
                "commit or remove it first"
            )
        ours = {job.name for job in jobs}
        done = {name for job in jobs for name in job.reads} - ours
        if needed := [*self._read(), *sorted(done)]:
            try:
                with _told():
                    self.repo.push(targets=needed, remote=remote)
            except OSError as error:
                raise UserError(f"--remote {remote}: {_sentence(error)}") from None
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            _git(root, "bundle", "create", "-q", str(bundle), "HEAD")
            content = bundle.read_bytes()
        lock = self.file.with_suffix(".lock")
        return Checkout(
            bundle=content,
            commit=_git(root, "rev-parse", "HEAD"),
            study=str(study.relative_to(root.resolve())),
            lock=lock.read_text(encoding="utf-8") if lock.exists() else "",
            remote=remote,
        )

    def _foreign(self, inputs: set[str], made: set[str]) -> list[str]:
        """The files that no stage makes, of `made`, in those folders of `inputs` whose other files
        stages do: such as those of a seed that the study had."""
        from dvc.fs import localfs

        folders = {str(parent) for path in made for parent in Path(path).parents}
        return sorted(
            file
            for folder in inputs & folders
            for file in self.repo.dvcignore.find(localfs, folder)
            if made.isdisjoint(map(str, (file, *Path(file).parents)))
        )

    def fetched(self, job: Job, done: Done) -> str:
        """Take what a worker pushed out of the remote; empty, or why that cannot be, in words.

        DVC's run-cache is asked for what the stage's command makes of the code, params and data as
        they are here: what was made of others is not found.
        """
        now = state(job.inputs, job.params)
        while True:
            try:
                with self._locked():
                    found = self._pull(self.stages[job.name])
                break
            except LockedError:
                warn("another DVC command keeps DVC's lock: waiting for it, to record")
                time.sleep(5)
            except (UserError, OSError) as error:
                return f"its outputs could not be taken out of the remote ({error}): run again"
        if not found:
            return (
                "what its worker pushed was made of other code, params or data than are here now: "
                "run again"
            )
        self.verified[job.name] = (job, now | state(job.outputs))
        return ""

    def _pull(self, stage: Any) -> bool:
        """Restore a stage by the remote's run-cache; whether it is there."""
        from dvc.stage.cache import RunCacheNotFoundError

        stage.remove_outs()  # of an earlier run
        for again in (False, True):  # entries that are here already are seldom wanted again
            run_cache.ask(stage, always=again)
            run_cache.fetch(stage, again=again)
            with suppress(RunCacheNotFoundError):
                self.repo.stage_cache.restore(stage, pull=True)
                return True
        return False

    def record(self, names: Sequence[str], unread: Sequence[str]) -> dict[str, str]:
        """Write these stages into DVC's lock, cache and run-cache, as `dvc commit -f` does; returns
        those that are refused, each with why: outputs are gone, or what was verified changed since.

        unread: those recorded, now or before, whose outputs no running stage reads: the outputs
        then share their bytes with the cache. Until then they stay as they are, because DVC takes
        a file away for the moment in which it links it. Raises LockedError where another process
        keeps DVC's lock: nothing is recorded then.
        """
        with self._locked():
            refused = self._write(names)
            self._share(unread)
        return refused

    def _write(self, names: Sequence[str]) -> dict[str, str]:
        from dvc.dvcfile import Lockfile
        from dvc.exceptions import DvcException

        stages, refused = [], {}
        for name in names:
            stage = self.stages[name]
            try:
                stage.save(run_cache=False)  # hashes what lies there now
                if name in self.verified:
                    job, before = self.verified[name]
                    now = state((*job.inputs, *job.outputs), job.params)
                    if changed := [
                        _short(path, job.folder) for path in now if now[path] != before[path]
                    ]:
                        refused[name] = (
                            f"{', '.join(changed)} changed before it was recorded: run again"
                        )
                        continue
                self.repo.stage_cache.save(stage)
                for out in stage.outs:  # stage.commit() does it too, under locks that are held
                    out.commit(relink=False)
                stages.append(stage)
            except DvcException as error:
                refused[name] = _sentence(error)
        if not stages:
            return refused
        # DVC writes its lock in place: killed in the midst of it, it leaves half of one, which no
        # `dvc repro` can read.
        lock = self.file.with_suffix(".lock")
        with replacing(lock) as temporary:
            if lock.exists():
                shutil.copyfile(lock, temporary)
            Lockfile(self.repo, str(temporary)).dump_stages(stages)
        return refused

    def _share(self, names: Sequence[str]) -> None:
        """Let outputs share their bytes with the cache, those that are still there."""
        for name in names:
            for out in self.stages[name].outs:
                if out.exists:
                    out.commit(relink=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with _told(), self.repo.lock:
            yield


def _git(root: Path, *command: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", "") or str(error)
        raise UserError(f"git {command[0]}: {' '.join(told.split())}") from None
    return done.stdout.strip()


class _WholeFiles:
    """What DVC's file of locks is read and written through: DVC writes it in place, and no command
    of DVC's goes on from an empty one, which a kill would leave."""

    join = staticmethod(os.path.join)

    @staticmethod
    @contextmanager
    def open(path: str, mode: str = "r", encoding: str = "utf-8") -> Iterator[IO[Any]]:
        with ExitStack() as stack:
            opened = stack.enter_context(replacing(Path(path))) if mode == "w" else Path(path)
            yield stack.enter_context(opened.open(mode, encoding=encoding))


@contextmanager
def _told() -> Iterator[None]:
    """Raise UserError, in a line, for what DVC refuses."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        yield
    except LockError as error:
        raise LockedError(_sentence(error)) from None
    except DvcException as error:
        raise UserError(f"DVC: {_sentence(error)}") from None


def _job(stage: Any, after: tuple[str, ...], reads: tuple[str, ...]) -> Job:
    from dvc.dependency import ParamsDependency

    params = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
    files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    command = stage.cmd if isinstance(stage.cmd, str) else "\n".join(["set -e", *stage.cmd])
    return Job(
        name=stage.addressing,
        command=command,
        folder=stage.wdir,
        inputs=tuple(dep.fs_path for dep in files),
        params=tuple((dep.fs_path, tuple(dep.params or [""])) for dep in params),
        outputs=tuple(out.fs_path for out in stage.outs),
        after=after,
        reads=reads,
    )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}{os.sep}")


def _short(path: str, folder: str) -> str:
    file, colon, key = path.partition(":")
    return f"{os.path.relpath(file, folder)}{colon}{key}"


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())

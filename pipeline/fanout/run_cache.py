"""What DVC's run-cache has of one stage, to and from the default remote.

DVC itself carries the whole run-cache each time (`dvc push --run-cache`, `dvc repro --pull`): with
10,000 stages ten thousand files, ten thousand times. Where an entry lies DVC keeps to itself: hence
the names with an underscore.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def ask(stage: Any, *, always: bool = False) -> None:
    """Prepare to ask: what dvc.lock knows of the stage's outputs counts for its inputs as they were
    then. always: even if they are the same now."""
    if always or stage.changed_stage() or not stage.deps_cached():
        stage.save_deps()
        for out in stage.outs:
            out.clear()


def fetch(stage: Any, *, again: bool = True) -> None:
    """Take what the remote has of the stage's command with its inputs, after `ask`.

    again: even if there are such entries here.
    """
    from dvc.stage.cache import _can_hash, _get_stage_hash

    if not _can_hash(stage):
        return
    key, remote = _get_stage_hash(stage), _remote(stage)
    here = Path(stage.repo.stage_cache._get_cache_dir(key))
    if not again and here.is_dir() and any(here.iterdir()):
        return
    folder = _folder(remote, key)
    if remote.fs.exists(folder):
        _copy(remote.fs, remote.fs.find(folder), stage.repo.cache.legacy.fs, str(here))


def push(stage: Any) -> None:
    """Give the remote the stage's outputs, then the entry of which inputs made them."""
    from dvc.exceptions import UploadError
    from dvc.stage.cache import _get_cache_hash, _get_stage_hash
    from dvc.stage.serialize import to_single_stage_lockfile

    repo = stage.repo
    for odb, objects in stage.get_used_objs(push=True).items():
        if failed := repo.cloud.push(objects, odb=odb).failed:
            raise UploadError(len(failed))
    key, value = _get_stage_hash(stage), _get_cache_hash(to_single_stage_lockfile(stage))
    remote, entry = _remote(stage), repo.stage_cache._get_cache_path(key, value)
    folder = _folder(remote, key)
    if Path(entry).exists() and not remote.fs.exists(remote.fs.join(folder, value)):
        _copy(repo.cache.legacy.fs, [entry], remote.fs, folder)


def _remote(stage: Any) -> Any:
    from dvc.fs import HTTPFileSystem
    from dvc.stage.cache import RunCacheNotSupported

    # Entries lie among the objects of DVC 2.
    remote = stage.repo.cloud.get_remote_odb(None, "push --run-cache", hash_name="md5-dos2unix")
    if isinstance(remote.fs, HTTPFileSystem):
        raise RunCacheNotSupported(f"no run-cache on HTTP, which lists no folders: {remote.path}")
    return remote


def _folder(remote: Any, key: str) -> str:
    return str(remote.fs.join(remote.path, "runs", key[:2], key))


def _copy(from_fs: Any, files: Iterable[str], to_fs: Any, folder: str) -> None:
    from dvc.fs import generic

    for file in files:
        generic.copy(from_fs, file, to_fs, to_fs.join(folder, from_fs.name(file)))

"""What a study's own file builds. All that goes wrong in it is told with its file and line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path, PurePosixPath
from types import ModuleType

import torch
from torch import Tensor, nn

from models.config import OWN_FOLDERS, NetworkError, told_of_own_code
from models.module import ModuleConfig


def build(config: ModuleConfig) -> nn.Module:
    """For models.build_model. Raises NetworkError for a file that builds no network."""
    with _opened(config) as module:
        return _build(module, config)


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A state dict of the whole network."""
    model.load_state_dict(state)


def sources(config: ModuleConfig) -> list[Path]:
    """The file and what of its folder it imports, found out by building the network."""
    with _opened(config) as module:
        _build(module, config)
        return [config.folder / config.file, *_beside(config)]


def _build(module: ModuleType, config: ModuleConfig) -> nn.Module:
    if not callable(getattr(module, "build", None)):
        raise NetworkError(f"{config.file} must have a function build(**arguments)")
    with torch.device("cpu"):  # a stranger's code need not know torch's device "meta"
        model = module.build(**deepcopy(config.arguments))
    if not isinstance(model, nn.Module):
        raise NetworkError(
            f"{config.file}: build must return a torch.nn.Module, got {type(model).__name__}"
        )
    return model


@contextmanager
def _opened(config: ModuleConfig) -> Iterator[ModuleType]:
    """The file as a module, and its folder first where Python looks for others: both for this
    block, so that files of one name in two studies do not meet. Modules that are known by the name
    of a file in it are put aside meanwhile, and no bytecode is read or written."""
    path = (config.folder / config.file).resolve()
    name = f"network_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    OWN_FOLDERS[path.parent] = PurePosixPath(config.file).parent.as_posix()
    beside = {each.stem for each in path.parent.glob("*.py")}
    beside |= {each.parent.name for each in path.parent.glob("*/__init__.py")}
    aside = {known: sys.modules[known] for known in sys.modules if known.split(".")[0] in beside}
    for known in aside:
        del sys.modules[known]
    before, bytecode = sys.path[:], (sys.dont_write_bytecode, sys.pycache_prefix)
    sys.path.insert(0, str(path.parent))
    # DVC would take it for a source, and one that is there may be older than its source: it knows
    # a time in whole seconds.
    sys.dont_write_bytecode, sys.pycache_prefix = True, os.devnull
    importlib.invalidate_caches()
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module
    except NetworkError:
        raise
    except Exception as error:  # whatever a stranger's code raises
        told = told_of_own_code(error)
        if told is None:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            told = f"{config.file}: build({', '.join(config.arguments)}): {what}"
        raise NetworkError(told) from error
    finally:
        for other in [name, *_modules_beside(path.parent)]:
            sys.modules.pop(other, None)
        sys.modules |= aside
        sys.path[:] = before
        sys.dont_write_bytecode, sys.pycache_prefix = bytecode


def _modules_beside(folder: Path) -> dict[str, Path]:
    """Modules that were imported from that folder, by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and folder in Path(file).parents:
            found[name] = Path(file)
    return found


def _beside(config: ModuleConfig) -> list[Path]:
    """What is imported now of the file's folder, but for the file."""
    folder = (config.folder / config.file).parent
    whole = folder.resolve()
    files = set(_modules_beside(whole).values()) - {whole / Path(config.file).name}
    return [folder / file.relative_to(whole) for file in sorted(files)]

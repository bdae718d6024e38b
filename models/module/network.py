"""What a study's own file builds. All that goes wrong in it is told with its file and line."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from models.config import NetworkError
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
        model = module.build(**config.arguments)
    if not isinstance(model, nn.Module):
        raise NetworkError(
            f"{config.file}: build must return a torch.nn.Module, got {type(model).__name__}"
        )
    return model


@contextmanager
def _opened(config: ModuleConfig) -> Iterator[ModuleType]:
    """The file as a module, and its folder first where Python looks for others: both for this
    block, so that files of one name in two studies do not meet."""
    path = (config.folder / config.file).resolve()
    name = f"network_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    before, bytecode = sys.path[:], sys.dont_write_bytecode
    sys.path.insert(0, str(path.parent))
    sys.dont_write_bytecode = True  # DVC would take it for a source
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
        raise NetworkError(_told(error, config)) from error
    finally:
        for other in [name, *_modules_beside(path.parent)]:
            sys.modules.pop(other, None)
        sys.path[:], sys.dont_write_bytecode = before, bytecode


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


def _told(error: Exception, config: ModuleConfig) -> str:
    """Where in the study's files it happened, and what."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError):
        return f"{config.file}, line {error.lineno}: {what}"
    folder = (config.folder / config.file).resolve().parent
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if folder in Path(frame.filename).parents
    ]
    if not own:
        return f"{config.file}: build({', '.join(config.arguments)}): {what}"
    at = Path(config.file).parent / Path(own[-1].filename).relative_to(folder)
    return f"{at.as_posix()}, line {own[-1].lineno}: {what}"

"""What every network's configuration has: one entry under `models:` in params.yaml."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from traceback import extract_tb
from typing import Any, ClassVar, Self

CHANNELS = {2: 3, 3: 1}  # of a picture, in colour, and of a volume, in grey: by its axes


def images_shape(size: Sequence[int]) -> str:
    """`(N, 256, 256, 3), RGB`: of arrays of images of that size."""
    lengths = ", ".join(map(str, (*size, CHANNELS[len(size)])))
    return f"(N, {lengths}), {'RGB' if len(size) == 2 else 'grey'}"


class NetworkError(Exception):
    """A network that cannot be built; the message says where and why."""


OWN_FOLDERS: dict[Path, str] = {}  # of studies' own files that were opened: as an error tells them


def told_of_own_code(error: BaseException) -> str | None:
    """Where in a study's own file it happened, and what; None for what happened elsewhere."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [(frame.filename, frame.lineno) for frame in extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        frames.append((error.filename, error.lineno))
    for filename, line in reversed(frames):
        for folder, shown in OWN_FOLDERS.items():
            if Path(filename).is_relative_to(folder):
                return (
                    f"{shown}/{Path(filename).relative_to(folder).as_posix()}, line {line}: {what}"
                )
    return None


class NetworkConfig:
    """One variant's network. Each family derives a frozen dataclass with the switches that it has,
    these two among them.

    family: the kind of the network, a folder of models/. weights: what it starts from: `imagenet`
    (torchvision's, downloaded, for the encoder), `none` (random), or the path of a state dict
    (.safetensors, or a .pt of tensors only).

    packages: what the family needs beside the suite's own; all are in the extra of the name
    `extra`. folder: from where paths are seen, the study's; no switch, for where a study lies
    decides nothing.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    folder: ClassVar[Path] = Path()

    family: str
    encoder: str  # its name, as the family knows it; a study's own file has none
    weights: str
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def at(self, folder: Path) -> Self:
        """The same network, its paths seen from `folder`."""
        moved = copy.copy(self)
        object.__setattr__(moved, "folder", folder)
        return moved

    @property
    def starts_from(self) -> str:
        """What a file of weights must hold, in words."""
        raise NotImplementedError

    def check(self, *size: int) -> None:
        """Raise ValueError, from the key or "must be" on, if there is no such network for images of
        that size in pixels, height and width, or volumes of that in voxels, depth before them."""

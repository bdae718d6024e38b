"""Pictures inside a page, so that it can be mailed as one file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from pipeline.study.errors import UserError


@dataclass(frozen=True)
class InlineFigure:
    """A figure inside the page: `source` is a data URI. name: of its file. photographs: whether it
    holds any."""

    name: str
    title: str
    caption: str
    source: str
    photographs: bool = False


def inline_figure(path: Path, title: str, caption: str, stage: str) -> InlineFigure:
    """The picture in `path`. Raises UserError naming the stage that draws it if it is missing.

    As an image, because inline SVGs of one page share their ids and would draw each other's parts.
    """
    types = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}
    try:
        content = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(f"{path} is missing ({error.strerror}); run the stage {stage}") from None
    source = f"data:{types[path.suffix]};base64,{content}"
    return InlineFigure(path.stem, title, caption, source, photographs=path.suffix != ".svg")

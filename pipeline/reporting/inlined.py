"""Pictures inside a page, so that it can be mailed as one file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from pipeline.study.errors import UserError


@dataclass(frozen=True)
class InlineFigure:
    """A figure inside the page: `source` is a data URI."""

    title: str
    caption: str
    source: str


def inline_figure(path: Path, title: str, caption: str, stage: str) -> InlineFigure:
    """The picture in `path`. Raises UserError naming the stage that draws it if it is missing.

    As an image, because inline SVGs of one page share their ids and would draw each other's parts.
    """
    types = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}
    try:
        content = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(f"{path} is missing ({error.strerror}); run the stage {stage}") from None
    return InlineFigure(title, caption, f"data:{types[path.suffix]};base64,{content}")

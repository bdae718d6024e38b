"""Pictures inside a page, so that it can be mailed as one file."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.study.errors import UserError

# What white and black become on a dark page: on black each of style.COLOURS has a contrast of 3.
DARK_PAPER, LIGHT_INK = 0x00, 0xE6
GREY = re.compile(r"#([0-9a-f]{2})\1\1\b")


@dataclass(frozen=True)
class InlineFigure:
    """A figure inside the page: `source` is a data URI. name: of its file. photograph: it stays as
    it is where the page is dark; a drawing follows the page."""

    name: str
    title: str
    caption: str
    source: str
    photograph: bool


def inline_figure(path: Path, title: str, caption: str, stage: str) -> InlineFigure:
    """The picture in `path`. Raises UserError naming the stage that draws it if it is missing.

    As an image, because inline SVGs of one page share their ids and would draw each other's parts.
    """
    types = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} is missing ({error.strerror}); run the stage {stage}") from None
    drawing = path.suffix == ".svg"
    if drawing:
        content = follow_scheme(content.decode()).encode()
    source = f"data:{types[path.suffix]};base64,{base64.b64encode(content).decode()}"
    return InlineFigure(path.stem, title, caption, source, photograph=not drawing)


def follow_scheme(svg: str) -> str:
    """A drawing of matplotlib's whose greys, from the paper's white to the letters' black, turn
    round where the page is dark. Colours stay.

    Greys become variables of a style within the drawing, which prefers-color-scheme changes: in an
    <img> it is the page's. Black is the colour of what names none.
    """
    greys = sorted({int(grey, 16) for grey in GREY.findall(svg)} | {0})
    light = "".join(f"--grey-{grey:02x}: {_grey(grey)}; " for grey in greys)
    dark = "".join(f"--grey-{grey:02x}: {_grey(_on_dark(grey))}; " for grey in greys)
    style = (
        f"<style>:root {{ {light}fill: var(--grey-00) }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}</style>"
    )
    drawn = GREY.sub(r"var(--grey-\1)", svg)
    opening = re.compile(r"<svg(?:\s[^>]*[^/>])?>")
    return opening.sub(lambda found: f"{found[0]}\n{style}", drawn, count=1)


def _on_dark(grey: int) -> int:
    """The power keeps lines that are a little darker than white apart from black, too."""
    share: float = (1 - grey / 0xFF) ** 0.7
    return round(DARK_PAPER + (LIGHT_INK - DARK_PAPER) * share)


def _grey(grey: int) -> str:
    return f"#{grey:02x}{grey:02x}{grey:02x}"

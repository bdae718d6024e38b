"""The stages compare and report on a made study, with stand-ins for the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import compare, report
from pipeline.study.params import Study

PIXEL = (  # the smallest PNG: its content is not the report's business
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2"
    b"\0\1H\xaf\xa4q\0\0\0\0IEND\xaeB`\x82"
)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


def write_reports(study: Study, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Run both stages; their outputs by file name."""
    figures = study.reports_dir / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for name in report.FIGURES:
        (figures / name).write_bytes(PIXEL if name.endswith("png") else SVG.encode())
    monkeypatch.chdir(study.folder)
    compare.main()
    report.main()
    return {Path(path).name: path.read_text() for path in study.reports_dir.glob("*.*")}

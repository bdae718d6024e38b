"""Scores of cases from the files of several tools, each told by what stands in it.

A file's name matters nowhere but for MONAI's metrics, which are named by it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pipeline.judge import merging, monai_raw, nnunet, spreadsheets
from pipeline.judge.arguments import Source, find_files, parse_source, printed
from pipeline.judge.assembly import Scores
from pipeline.judge.delimited import header_of, read_columns
from pipeline.study.errors import UserError
from pipeline.study.values import shown

__all__ = ["Scores", "Source", "parse_source", "read_scores"]

FORMATS = (
    "a table with columns variant, seed, case and metrics; a table with case_id and a column a "
    f"method; {nnunet.KIND}; {monai_raw.KIND} (*_raw.csv); {merging.KIND}"
)
MEANS = "holds means over all images and no score of a case, which is what a comparison needs"
READERS: dict[str, Callable[[Sequence[tuple[Source, Any]]], Scores]] = {
    spreadsheets.LONG: spreadsheets.read_long,
    spreadsheets.WIDE: spreadsheets.read_wide,
    nnunet.KIND: nnunet.read_summaries,
    monai_raw.KIND: monai_raw.read_raw,
    merging.KIND: merging.read_results,
}


def read_scores(paths: Sequence[Path | Source]) -> Scores:
    """All scores in these files and folders, which are of one format.

    Nothing is read in part: raises UserError, one line with the file, what was found in it, what is
    expected and what to do, for a file that is missing, empty, no UTF-8 or of no known format, for
    two formats at once, and for what the formats' readers refuse.
    """
    found: list[tuple[str, Source, Any]] = []
    for source in find_files(paths):
        kind, content = _open(source)
        found.append((kind, source, content))
    kind, first, _ = found[0]
    for other, source, _ in found[1:]:
        if other != kind:
            raise UserError(
                f"{printed(first.path)} is {kind}, and {printed(source.path)} is {other}; give "
                "files of one format"
            )
    return READERS[kind]([(source, content) for _, source, content in found])


def _open(source: Source) -> tuple[str, Any]:
    """A file's format and what is in it: JSON, or columns."""
    name = printed(source.path)
    text = _text(source.path)
    if text.lstrip().startswith(("{", "[")):
        return _open_json(name, text)
    header = header_of(text)
    if monai_raw.is_raw(header):
        kind = monai_raw.KIND
    elif spreadsheets.has_variants(header):
        kind = spreadsheets.LONG
    elif spreadsheets.is_table(header):
        kind = spreadsheets.LONG if source.variant is not None else spreadsheets.WIDE
    elif text.startswith("Overall:") and "Macro averaged metrics:" in text:
        raise _means_alone(name)
    else:
        line = next(line for line in text.splitlines() if line.strip())
        raise _unknown(name, f"its first line is {shown(line.strip())}")
    return kind, read_columns(name, text)


def _open_json(name: str, text: str) -> tuple[str, Any]:
    try:
        content = from_json(text)
    except ValueError as error:
        raise UserError(f"{name} is no whole JSON: {error}; write it anew") from None
    if nnunet.is_summary(content):
        return nnunet.KIND, content
    if merging.is_results(content):
        return merging.KIND, content
    if isinstance(content, dict) and "macro_average" in content:
        raise _means_alone(name)
    keys = list(content) if isinstance(content, dict) else []
    told = f"its keys are {shown(', '.join(keys))}" if keys else "it is a list or has no key"
    raise _unknown(name, told)


def _text(path: Path) -> str:
    name = printed(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}; name a file of scores") from None
    if data.startswith(b"PK\x03\x04"):
        raise UserError(f"{name} is a workbook or an archive; save the table in it as CSV (UTF-8)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 (byte {error.start} is {data[error.start]:#04x}); save it as "
            "UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"{name} is no text: it has a zero byte; save the table as CSV (UTF-8)")
    if not text.strip():
        raise UserError(f"{name} is empty; write the scores anew")
    return text


def _unknown(name: str, told: str) -> UserError:
    return UserError(f"{name} is of no known format: {told}; expected one of: {FORMATS}")


def _means_alone(name: str) -> UserError:
    return UserError(
        f"{name} is the ISIC challenge's scorer's: it {MEANS}; score each image, and write a table "
        "with columns variant, seed, case and a metric"
    )

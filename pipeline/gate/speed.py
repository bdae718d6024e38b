"""Has the code become slower? Benchmarks' ratios against stored ones.

A benchmark's `ratio`, in the extra_info of pytest-benchmark's JSON, is that of two works that took
turns on one machine, so it carries over to others better than seconds do. Higher is better, unless
its extra_info says `better: lower`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.gate.baseline import read_finite
from pipeline.gate.regression import Check
from pipeline.statistics.results import Record
from pipeline.study.errors import UserError, first_fault
from pipeline.study.files import write_json

SCHEMA_VERSION: Literal[1] = 1
TOLERANCE = 0.2  # of the stored ratio


class Ratio(Record):
    ratio: float | None  # null where it is not finite
    better: Literal["higher", "lower"] = "higher"


class Speeds(Record):
    """The stored file: a benchmark's full name -> its ratio."""

    schema_version: Literal[1]
    processor: str
    ratios: dict[str, Ratio]


def read_benchmarks(path: Path) -> Speeds:
    """What `pytest --benchmark-json` wrote, of the benchmarks that have a ratio. Raises UserError
    for a file that is not that, or has none."""
    content = read_finite(path)
    try:
        found = {
            benchmark["fullname"]: Ratio.model_validate(_of_ratio(benchmark["extra_info"]))
            for benchmark in content["benchmarks"]
            if "ratio" in benchmark["extra_info"]
        }
        processor = content["machine_info"].get("cpu", {}).get("brand_raw", "unknown")
        speeds = Speeds(schema_version=SCHEMA_VERSION, processor=processor, ratios=found)
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise UserError(
            f"{path} must be what pytest --benchmark-json writes: {' '.join(str(error).split())}"
        ) from None
    if not found:
        raise UserError(f"{path} holds no benchmark with a ratio")
    return speeds


def _of_ratio(extra_info: dict[str, Any]) -> dict[str, Any]:
    return {name: extra_info[name] for name in ("ratio", "better") if name in extra_info}


def load_speeds(path: Path) -> Speeds:
    """The stored file. Raises UserError for one that is missing or of another schema."""
    try:
        return Speeds.model_validate(read_finite(path))
    except ValidationError as invalid:
        raise UserError(
            f"{path}: {first_fault(invalid)}; store it anew with --update-baseline"
        ) from None


def save_speeds(path: Path, speeds: Speeds) -> None:
    write_json(path, speeds.model_dump(mode="json"))


def compare_speeds(stored: Speeds, found: Speeds, tolerance: float = TOLERANCE) -> list[Check]:
    """A check a stored benchmark: its ratio may fall to (1 - tolerance) times the stored one; one
    that is better lower may rise to 1 / (1 - tolerance) times. One that did not run fails.

    Raises UserError where a stored ratio has no value.
    """
    other = "" if stored.processor == found.processor else f"stored on {stored.processor}"
    checks = []
    for name, then in stored.ratios.items():
        if then.ratio is None:
            raise UserError(f"the stored ratio of {name!r} is missing: store it anew")
        now = found.ratios.get(name)
        if now is None or now.ratio is None:
            note = "did not run" if now is None else "not finite"
            checks.append(Check(name, "ratio", then.ratio, None, None, None, note))
            continue
        if then.better == "higher":
            worse_by, allowed = then.ratio - now.ratio, tolerance * then.ratio
        else:
            worse_by = now.ratio - then.ratio
            allowed = then.ratio * tolerance / (1 - tolerance)
        checks.append(Check(name, "ratio", then.ratio, now.ratio, worse_by, allowed, other))
    return checks

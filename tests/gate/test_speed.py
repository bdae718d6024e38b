"""gate/speed.py: benchmarks' ratios against stored ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from pipeline.gate import speed
from pipeline.study.errors import UserError


def benchmark_json(path: Path, processor: str = "x", **extra_info: dict[str, Any]) -> Path:
    """As pytest-benchmark writes it: each keyword is a benchmark."""
    benchmarks = [
        {"fullname": f"tests/benchmarks/test_x.py::{name}", "extra_info": extra}
        for name, extra in extra_info.items()
    ]
    machine = {"cpu": {"brand_raw": processor}}
    path.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks}))
    return path


def passed(tmp_path: Path, stored: dict[str, Any], found: dict[str, Any], **how: Any) -> bool:
    then = speed.read_benchmarks(benchmark_json(tmp_path / "then.json", one=stored))
    now = speed.read_benchmarks(benchmark_json(tmp_path / "now.json", one=found))
    (check,) = speed.compare_speeds(then, now, **how)
    return check.passed


@pytest.mark.parametrize(("ratio", "passes"), [(3.0, True), (1.61, True), (1.59, False)])
def test_a_ratio_may_fall_by_a_fifth(tmp_path, ratio, passes):
    assert passed(tmp_path, {"ratio": 2.0}, {"ratio": ratio}) == passes


@pytest.mark.parametrize(("ratio", "passes"), [(1.0, True), (2.49, True), (2.51, False)])
def test_a_ratio_that_is_better_lower_may_rise_by_a_quarter(tmp_path, ratio, passes):
    stored = {"ratio": 2.0, "better": "lower"}
    assert passed(tmp_path, stored, {"ratio": ratio, "better": "lower"}) == passes


def test_another_tolerance_may_be_asked_for(tmp_path):
    assert passed(tmp_path, {"ratio": 2.0}, {"ratio": 1.1}, tolerance=0.5)
    assert not passed(tmp_path, {"ratio": 2.0}, {"ratio": 1.7}, tolerance=0.1)


def test_a_benchmark_that_did_not_run_or_has_no_finite_ratio_fails(tmp_path):
    both = {"one": {"ratio": 2.0}, "two": {"ratio": 1.0}}
    stored = speed.read_benchmarks(benchmark_json(tmp_path / "then.json", **both))
    now = {"one": {"ratio": float("nan")}}
    found = speed.read_benchmarks(benchmark_json(tmp_path / "now.json", **now))
    one, two = speed.compare_speeds(stored, found)
    assert (one.passed, one.note) == (False, "not finite")
    assert (two.passed, two.note) == (False, "did not run")
    assert (one.subject, one.metric, one.baseline) == (
        "tests/benchmarks/test_x.py::one",
        "ratio",
        2.0,
    )
    assert (one.candidate, one.worse_by, one.allowed) == (None, None, None)


def test_a_stored_ratio_without_a_value_is_named(tmp_path):
    stored = speed.read_benchmarks(benchmark_json(tmp_path / "then.json", one={"ratio": None}))
    found = speed.read_benchmarks(benchmark_json(tmp_path / "now.json", one={"ratio": 1.0}))
    with pytest.raises(UserError, match=r"stored ratio of '.*::one' is missing: store it anew"):
        speed.compare_speeds(stored, found)


def test_what_is_stored_is_read_back_and_another_processor_is_told(tmp_path):
    found = speed.read_benchmarks(benchmark_json(tmp_path / "now.json", "old", one={"ratio": 2.0}))
    speed.save_speeds(tmp_path / "stored.json", found)
    stored = speed.load_speeds(tmp_path / "stored.json")
    assert stored == found
    here = speed.read_benchmarks(benchmark_json(tmp_path / "here.json", "new", one={"ratio": 2.0}))
    (check,) = speed.compare_speeds(stored, here)
    assert (check.passed, check.note) == (True, "stored on old")
    (check,) = speed.compare_speeds(stored, found)
    assert (check.passed, check.note) == (True, "")


def test_benchmarks_without_a_ratio_are_left_out_and_a_file_of_none_is_refused(tmp_path):
    mixed = {"one": {"seconds": 1.0}, "two": {"ratio": 1.0}}
    found = speed.read_benchmarks(benchmark_json(tmp_path / "mixed.json", **mixed))
    assert list(found.ratios) == ["tests/benchmarks/test_x.py::two"]
    with pytest.raises(UserError, match="no benchmark with a ratio"):
        speed.read_benchmarks(benchmark_json(tmp_path / "none.json", one={"seconds": 1.0}))


RATIO = '{"fullname": "a", "extra_info": {"ratio": %s}}'


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"benchmarks": [1]}',
        '{"benchmarks": [{}]}',
        "[]",
        '{"benchmarks": [%s], "machine_info": {}}' % (RATIO % "true"),
        '{"benchmarks": [%s], "machine_info": {}}' % (RATIO % '"2"'),
        '{"benchmarks": [%s], "machine_info": {"cpu": {"brand_raw": 5}}}' % (RATIO % "2"),
    ],
)
def test_a_file_that_pytest_benchmark_did_not_write_is_refused(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=r"bad\.json must"):
        speed.read_benchmarks(tmp_path / "bad.json")
    with pytest.raises(UserError, match=r"bad\.json"):
        speed.load_speeds(tmp_path / "bad.json")


def test_benchmarks_that_bound_their_ratio_from_above_say_that_lower_is_better():
    for path in REPOSITORY.glob("tests/benchmarks/test_*.py"):
        for part in path.read_text().split("\ndef test_")[1:]:
            if "assert ratio < " in part and '"ratio": ratio' in part:
                assert '"better": "lower"' in part, part.partition("(")[0]

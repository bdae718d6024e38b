"""statistics/results.py: the file's schema, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.statistics import results
from pipeline.study.errors import UserError

SCHEMA = Path(__file__).parents[2] / "docs" / "results-schema.json"


def test_the_documented_schema_is_that_of_the_code():
    assert SCHEMA.read_text(encoding="utf-8") == results.schema()


def test_every_key_of_the_schema_that_names_a_method_says_so():
    described = json.loads(results.schema())["$defs"]["Pair"]["properties"]
    assert "Holm" in described["adjusted_p_value"]["description"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "the file: invalid JSON"),
        ("{}", "schema_version: field required"),
        ('{"schema_version": 2}', "schema_version: input should be 1, got '2'"),
    ],
)
def test_an_unusable_file_is_refused_in_a_sentence(tmp_path, content, told):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UserError, match="run the stage compare again") as caught:
        results.load_results(path)
    assert told in str(caught.value)


def test_a_missing_file_names_the_stage_that_writes_it(tmp_path):
    with pytest.raises(UserError, match=r"results.json cannot be read .*run the stage compare"):
        results.load_results(tmp_path / "results.json")

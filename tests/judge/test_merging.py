"""judge/merging.py: results.json of two machines or studies as one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import make_results

from pipeline.judge.formats import Scores, parse_source, read_scores
from pipeline.statistics.results import Results, save_results
from pipeline.study.errors import UserError

PARAMS: dict[str, Any] = {
    "data": {"source": "directory", "raw": "/one", "on_problem": "stop"},
    "train": {"epochs": 10},
    "models": {"a": {"family": "x"}, "b": {"family": "y"}, "c": {"family": "z"}},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(
    name: str,
    dice: dict[str, dict[int, list[float | None]]],
    *,
    params: dict[str, Any] | None = None,
    partial: dict[str, Any] | None = None,
    ids: list[str] | None = None,
    **study: Any,
) -> Path:
    """A results.json with those scores of the cases x and y."""
    made = make_results(["a", "b"], seeds=2, ids=["x", "y"]).model_dump(mode="json")
    made["cases"]["dice"] = {
        variant: {str(seed): run for seed, run in runs.items()} for variant, runs in dice.items()
    }
    made["cases"]["ids"] = ids or made["cases"]["ids"]
    made["params"] = PARAMS | (params or {})
    made["study"] |= study
    made["partial"] = partial
    path = Path(name)
    save_results(path, Results.model_validate_json(json.dumps(made)))
    return path


def rows(scores: Scores) -> list[tuple]:
    return list(scores.table.itertuples(index=False, name=None))


def test_one_file_is_the_dice_of_its_runs():
    path = save("one.json", {"a": {0: [0.1, None], 3: [0.3, 0.4]}, "b": {0: [0.5, 0.6]}})
    scores = read_scores([path])
    assert scores.kind == "results.json of this suite"
    assert scores.metrics == ["dice"]
    assert np.isnan(scores.table["dice"][1])
    assert rows(scores)[2:] == [
        ("a", 3, "x", 0.3), ("a", 3, "y", 0.4), ("b", 0, "x", 0.5), ("b", 0, "y", 0.6),
    ]  # fmt: skip
    assert scores.notes == ["1 of 6 values of dice is missing or not finite."]


def test_the_numbers_are_those_of_the_file():
    made = make_results(seeds=10)
    save_results(Path("results.json"), made)
    table = read_scores([Path("results.json")]).table
    expected = made.scores().rename(columns={"id": "case"})
    assert table["dice"].tolist() == expected["dice"].tolist()
    assert table[["variant", "case"]].equals(expected[["variant", "case"]])
    assert table["seed"].tolist() == expected["seed"].tolist()


def test_two_machines_seeds_are_one_studys():
    one = save("one.json", {"a": {0: [0.1, 0.2]}, "b": {0: [0.3, 0.4]}})
    other = {"data": PARAMS["data"] | {"raw": "/other"}}
    two = save("two.json", {"a": {1: [0.5, 0.6]}, "b": {1: [0.7, 0.8]}}, params=other)
    scores = read_scores([one, two])
    assert [row[:2] for row in rows(scores)[::2]] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert scores.table["dice"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert scores.notes == []


@pytest.mark.parametrize("sets", [[], [{"name": "ph2", "raw": "x", "on_problem": "skip"}]])
def test_other_test_sets_decide_no_run(sets):
    """A file of before there were any has no such key."""
    evaluate = {"threshold": 0.5}
    one = save("one.json", {"a": {0: [0.1, 0.2]}}, params={"evaluate": evaluate})
    with_sets = {"evaluate": evaluate | {"external": sets}}
    two = save("two.json", {"a": {1: [0.5, 0.6]}}, params=with_sets)
    assert len(read_scores([one, two]).table) == 4


def test_a_run_that_is_in_two_files_counts_once():
    one = save("one.json", {"a": {0: [0.1, None]}, "b": {0: [0.3, 0.4]}})
    two = save("two.json", {"a": {0: [0.1, None], 1: [0.5, 0.6]}})
    scores = read_scores([one, two])
    assert [row[:2] for row in rows(scores)[::2]] == [("a", 0), ("b", 0), ("a", 1)]
    assert scores.notes[0] == (
        "a, seed 0, is in one.json and two.json with the same numbers: it counts once."
    )


def test_a_part_of_a_study_says_so():
    partial = {"runs": 1, "of": 2, "folds": 1, "waiting": 0, "missing": []}
    path = save("one.json", {"a": {0: [0.1, 0.2]}}, partial=partial)
    assert read_scores([path]).notes == [
        "one.json is of a part of its study: Partial: 1 of 2 runs."
    ]


def test_other_variants_may_be_trained_otherwise_and_it_is_told():
    one = save("one.json", {"a": {0: [0.1, 0.2]}})
    two = save("two.json", {"c": {0: [0.3, 0.4]}}, params={"train": {"epochs": 20}})
    assert read_scores([one, two]).notes == [
        "one.json and two.json differ in train of params.yaml, not in their networks alone."
    ]
    two = save("two.json", {"a": {1: [0.3, 0.4]}}, params={"train": {"epochs": 20}})
    with pytest.raises(UserError, match=r"together: a was made with another train of params\.yaml"):
        read_scores([one, two])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cases_sha256": "1" * 64}, "they have other test cases"),
        ({"ids": ["x", "z"]}, "they have other test cases"),
        ({"folds": [0, 1]}, r"they have other folds, \[0\] and \[0, 1\]"),
        ({"definitions": {"Dice": "another"}}, "other definitions of metrics, such as of Dice"),
        (
            {"params": {"models": PARAMS["models"] | {"a": {"family": "w"}}}},
            r"a is another network in each \(models\.a of params\.yaml\)",
        ),
        ({"dice": {"a": {0: [0.1, 0.3]}}}, "a, seed 0, has other numbers in each"),
        ({"dice": {"a": {0: [0.1, None]}}}, "a, seed 0, has other numbers in each"),
    ],
)
def test_what_is_of_another_protocol_is_refused(changes, told):
    one = save("one.json", {"a": {0: [0.1, 0.2]}})
    two = save("two.json", **({"dice": {"a": {0: [0.1, 0.2], 1: [0.3, 0.4]}}} | changes))
    with pytest.raises(UserError, match=told) as refused:
        read_scores([one, two])
    assert str(refused.value).startswith("one.json and two.json cannot be put together: ")
    assert str(refused.value).endswith("; give one of them")


def test_settings_of_another_variant_are_left_out():
    scores = {name: {0: [0.1, 0.2]} for name in ("a", "b")}
    path = save("one.json", scores, params={"tuning": {"a": ["b"]}})
    found = read_scores([path])
    assert set(found.table["variant"]) == {"a"}
    assert "one.json: left out, as settings of other variants: b." in found.notes


def test_a_variants_own_training_is_the_training_that_counts():
    run = {0: [0.1, 0.2]}
    own = {"a": {"family": "x", "train": {"epochs": 10}}}
    one = save("one.json", {"a": run})
    same = save("same.json", {"a": run}, params={"train": {"epochs": 3}, "models": own})
    assert any("counts once" in note for note in read_scores([one, same]).notes)
    own = {"a": {"family": "x", "train": {"epochs": 3}}}
    other = save("other.json", {"a": run}, params={"models": own})
    with pytest.raises(UserError, match=r"a was made with another train of params\.yaml in each"):
        read_scores([one, other])
    own = {"b": {"family": "y", "train": {"epochs": 3}}}
    apart = save("apart.json", {"b": run}, params={"models": own})
    assert any("differ in train of params" in note for note in read_scores([one, apart]).notes)


def test_a_network_that_only_one_study_has_may_be_any():
    one = save("one.json", {"a": {0: [0.1, 0.2]}})
    models = {"a": PARAMS["models"]["a"], "b": {"family": "w"}}
    two = save("two.json", {"b": {0: [0.3, 0.4]}}, params={"models": models})
    assert read_scores([one, two]).notes == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema_version": 1}, "schema_version: "),
        ({"verdict": 3}, "verdict: "),
    ],
)
def test_another_schema_is_refused(change, told):
    path = save("one.json", {"a": {0: [0.1, 0.2]}})
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"^one\.json: {told}.*run the stage compare again"):
        read_scores([path])


@pytest.mark.parametrize(
    ("dice", "told"),
    [
        ({"a": {"0": [0.1]}}, "one.json: cases.dice: "),
        ({"a": {"zero": [0.1, 0.2]}}, "one.json: cases.dice: "),
        ({}, "one.json has no run; train and compare first"),
        ({"a": {}}, "one.json has no run; train and compare first"),
    ],
)
def test_scores_that_cannot_be_are_refused(dice, told):
    path = save("one.json", {"a": {0: [0.1, 0.2]}})
    content = json.loads(path.read_text())
    content["cases"]["dice"] = dice
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=told):
        read_scores([path])


def test_it_takes_no_name_beside_its_path():
    save("one.json", {"a": {0: [0.1, 0.2]}})
    with pytest.raises(UserError, match=r"one\.json names its variants itself: name none"):
        read_scores([parse_source("a=one.json")])


def test_a_case_twice_is_refused():
    path = save("one.json", {"a": {0: [0.1, 0.2]}}, ids=["x", "x"])
    with pytest.raises(UserError, match=r"one\.json: case 'x' stands in it twice"):
        read_scores([path])

"""statistics/results.py: the file's schema, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import results_by_hand
from conftest import REPOSITORY
from made_results import make_results

from pipeline.statistics import results
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.reading import load_study

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
        ('{"schema_version": 3}', "schema_version: input should be 4, got '3'"),
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


def part(missing: list[tuple[str, int, int]], **changes: Any) -> list[str]:
    """What is told of a part of a study of two variants, three seeds and one fold."""
    keys = ("variant", "seed", "fold")
    runs = [dict(zip(keys, run, strict=True)) for run in missing]
    record = {"runs": 4, "of": 6, "folds": 1, "waiting": 0, "missing": runs}
    return results.Partial.model_validate(record | changes).sentences()


def test_a_part_of_a_study_says_so_and_what_is_missing():
    warning = (
        "Do not stop the study because of these figures: a test that is looked at again and again "
        "finds too much."
    )
    assert part([("a", 1, 0), ("b", 2, 0)]) == [
        "Partial: 4 of 6 runs.",
        "Missing: a seed 1; b seed 2.",
        warning,
    ]
    assert part([], waiting=2) == [
        "Partial: 4 of 6 runs. Waiting for the other folds of their seed: 2 more.",
        warning,
    ]


@pytest.mark.parametrize(
    ("seeds", "told"),
    [
        ([0], "a seed 0"),
        ([0, 1], "a seeds 0, 1"),
        ([0, 1, 2], "a seeds 0 to 2"),
        ([0, 1, 2, 4, 5, 9, 10, 11, 12], "a seeds 0 to 2, 4, 5, 9 to 12"),
        ([5, 3, 4], "a seeds 5, 3, 4"),
    ],
)
def test_missing_seeds_are_told_as_ranges(seeds, told):
    assert part([("a", seed, 0) for seed in seeds])[1] == f"Missing: {told}."


def test_missing_folds_are_told_where_others_of_their_seed_are_there():
    missing = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("a", 1, 1), ("a", 1, 2), ("b", 2, 1)]
    told = "Missing: a seed 1, seed 0 (folds 0, 1); b seed 2 (fold 1)."
    assert part(missing, folds=3)[1] == told


def partial_of(found: results.Results) -> results.Results:
    part = results.Partial(runs=4, of=6, folds=1, waiting=0, missing=[])
    return found.model_copy(update={"partial": part})


def test_results_come_back_from_their_file_as_they_were(tmp_path):
    path = tmp_path / "results.json"
    for found in (make_results(), partial_of(make_results())):
        results.save_results(path, found)
        assert results.load_results(path, partial=found.partial is not None) == found
        assert ("partial" in json.loads(path.read_text())) == (found.partial is not None)
        assert path.read_text().count("\n") <= 1  # in one line: it is read by programs


def test_results_of_other_params_or_of_a_part_are_refused(tmp_path):
    path = tmp_path / "results.json"
    found = make_results()
    results.save_results(path, found)
    assert results.load_results(path, found.params) == found
    with pytest.raises(
        UserError, match=r"json was made with another params\.yaml; run the stage co"
    ):
        results.load_results(path, {"name": "another"})
    told = r"is of the whole study; run the command python -m pipeline\.compare --partial$"
    with pytest.raises(UserError, match=told):
        results.load_results(path, partial=True)
    results.save_results(path, partial_of(found))
    with pytest.raises(UserError, match=r"is of a part of the study; run the stage compare$"):
        results.load_results(path)


def estimated(means: dict[tuple[str, str], float | None]) -> results.Results:
    """Results of variants a and b and three cases with those means."""
    rows = [
        results.Estimate(
            variant=variant, metric=metric, mean=mean, standard_deviation=0.1234567,
            typical=mean, interval=None, seeds=2, cases=3, paper=None, paper_rounding=None,
            paper_interval=None,
        )
        for (variant, metric), mean in means.items()
    ]  # fmt: skip
    bare = results_by_hand.results({"a": [0.8], "b": [0.7]})
    cases = bare.cases.model_copy(update={"ids": ["x", "y", "z"]})
    return bare.model_copy(update={"estimates": rows, "cases": cases})


MEANS = {("a", "dice"): 0.81, ("b", "dice"): 0.8234567, ("a", "iou"): 0.7, ("b", "iou"): 0.6} | {
    (variant, "focal_loss"): None for variant in "ab"
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The paper's, in a folder of its own."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    return load_study(tmp_path)


def test_the_results_of_a_study_are_opened_and_those_of_a_part_with_that_part(study):
    params = study.model_dump(mode="json")
    found = make_results().model_copy(update={"params": params})
    results.save_results(study.results_file, found)
    assert results.open_results(study, partial=False) == (study, found)
    missing = [results.MissingRun(variant=study.variants[0], seed=study.seeds[0], fold=0)]
    part = results.Partial(runs=1, of=2, folds=1, waiting=0, missing=missing)
    partly = found.model_copy(update={"partial": part})
    results.save_results(study.partial_dir / "results.json", partly)
    rest, opened = results.open_results(study, partial=True)
    assert opened == partly
    assert set(study.runs()) - set(rest.runs()) == {study.runs()[0]}
    other = partly.model_copy(update={"params": {}})
    results.save_results(study.partial_dir / "results.json", other)
    with pytest.raises(UserError, match="was made with another"):
        results.open_results(study, partial=True)
    results.save_results(study.results_file, found.model_copy(update={"params": {}}))
    with pytest.raises(UserError, match="was made with another"):
        results.open_results(study, partial=False)


def test_a_summary_has_the_best_variant_and_each_ones_mean_and_deviation():
    assert results.headlines(estimated(MEANS)) == {
        "best": "b",
        "test_cases": 3,
        "dice": {"a": {"mean": 0.81, "sd": 0.12346}, "b": {"mean": 0.82346, "sd": 0.12346}},
        "iou": {"a": {"mean": 0.7, "sd": 0.12346}, "b": {"mean": 0.6, "sd": 0.12346}},
        "focal_loss": {"a": {"mean": None, "sd": 0.12346}, "b": {"mean": None, "sd": 0.12346}},
    }
    one = results.headlines(estimated(MEANS | {("b", "dice"): None}))
    assert (one["best"], one["dice"]["b"]["mean"]) == ("a", None)
    first = results.headlines(estimated(MEANS | {("a", "dice"): 0.9}))
    assert first["best"] == "a"
    assert results.headlines(estimated(dict.fromkeys(MEANS)))["best"] is None


def test_an_estimate_is_found_by_its_variant_and_metric():
    found = estimated(MEANS)
    assert found.estimate("b", "iou").mean == 0.6
    for missing in (("b", "nothing"), ("nobody", "iou")):
        with pytest.raises(KeyError, match=missing[0]):
            found.estimate(*missing)


def test_scores_and_curves_are_tables_of_every_run():
    bare = results_by_hand.results({"a": [0.8], "b": [0.7]})
    cases = bare.cases.model_copy(
        update={"ids": ["x", "y"], "dice": {"a": {"3": [0.5, None]}, "b": {"1": [0.25, 1.0]}}}
    )
    histories = {
        "a": {"3": {"epoch": [1, 2], "loss": [0.5, 0.4]}},
        "b": {"1": {"epoch": [1], "loss": [0.3]}},
    }
    found = bare.model_copy(update={"cases": cases, "histories": histories})
    expected = pd.DataFrame(
        {"variant": list("aabb"), "seed": [3, 3, 1, 1], "id": list("xyxy")}
    ).assign(dice=[0.5, float("nan"), 0.25, 1.0])
    pd.testing.assert_frame_equal(found.scores(), expected)
    expected = pd.DataFrame({"epoch": [1, 2, 1], "loss": [0.5, 0.4, 0.3]}).assign(
        variant=list("aab"), seed=[3, 3, 1]
    )
    pd.testing.assert_frame_equal(found.curves(), expected)

"""statistics/runs.py: what runs left, read back, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import make_study

from pipeline.engine.prepared import PreparedCases
from pipeline.statistics import runs
from pipeline.study.errors import UserError
from pipeline.study.params import Run, Study
from pipeline.study.reading import load_study

IDS = ("001", "2", "03", "4")  # like numbers, all of them
EVERY = ("flips", "seeds")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two variants with seeds 3 and 1 by folds, none or 3: folders to be copied."""
    return {
        folds: make_study(
            tmp_path_factory.mktemp("made"),
            seeds=[3, 1],
            test_ids=("001", "NA", "c", "d") if folds else IDS,
            folds=folds,
            averaging=EVERY,
        ).folder
        for folds in (0, 3)
    }


@pytest.fixture
def study(made: dict[int, Path], tmp_path: Path) -> Study:
    shutil.copytree(made[0], tmp_path / "whole")
    return load_study(tmp_path / "whole")


@pytest.fixture
def folded(made: dict[int, Path], tmp_path: Path) -> Study:
    """Seven cases in folds 0, 1, 2, 0, 1, 2, 0."""
    shutil.copytree(made[3], tmp_path / "folded")
    return load_study(tmp_path / "folded")


def cases_of(study: Study) -> PreparedCases:
    return PreparedCases.open(study.prepared_dir)


def csv_of(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"id": str}, keep_default_na=False)


def test_histories_stand_one_below_the_other_with_their_run(study):
    found = runs.read_histories(study)
    assert found[["variant", "seed", "epoch"]].to_numpy().tolist() == [
        [variant, seed, epoch]
        for variant in ("gated_attention", "resunet")
        for seed in (3, 1)
        for epoch in (1, 2, 3)
    ]
    assert found.index.tolist() == list(range(12))
    own = pd.read_csv(study.run_dir("resunet", 1) / "history.csv")
    assert found["train_loss"].tolist()[-3:] == own["train_loss"].tolist()


def test_histories_of_folds_are_their_mean_epoch_by_epoch(folded):
    found = runs.read_histories(folded)
    assert found[["variant", "seed", "epoch"]].to_numpy().tolist()[3:6] == [
        ["gated_attention", 1, epoch] for epoch in (1, 2, 3)
    ]
    own = [
        pd.read_csv(folded.run_dir("gated_attention", 1, fold) / "history.csv")["train_loss"]
        for fold in range(3)
    ]
    assert found["train_loss"].tolist()[3:6] == pytest.approx(np.mean(own, axis=0).tolist())


def test_scores_made_with_other_params_say_how_to_make_them_anew(study):
    path = study.evaluation_dir("resunet", 1) / "evaluation.json"
    evaluate = study.model_dump(mode="json")["evaluate"] | {"threshold": 0.9}
    made = json.loads(path.read_text()) | {"params": {"evaluate": evaluate}}
    path.write_text(json.dumps(made))
    with pytest.raises(UserError) as told:
        runs.read_scores(study, cases_of(study))
    assert str(told.value).endswith(
        "cases.csv was made with another params.yaml: evaluate than is there now: dvc repro "
        "--force --single-item train@resunet-1-0 evaluate@resunet-1-0, then dvc repro"
    )


def test_two_folds_have_a_mean_history_too(folded):
    two = folded.model_copy(update={"folds": [0, 1]})
    found = runs.read_histories(two)
    assert len(found) == len(runs.read_histories(folded))
    own = [
        pd.read_csv(folded.run_dir("gated_attention", 1, fold) / "history.csv")["train_loss"]
        for fold in range(2)
    ]
    assert found["train_loss"].tolist()[3:6] == pytest.approx(np.mean(own, axis=0).tolist())


@pytest.mark.parametrize("value", [np.inf, np.nan, -1.0])
def test_pixels_that_cannot_be_counted_are_told(study, value):
    path = study.evaluation_dir("resunet", 1) / "calibration.npy"
    binned = np.load(path)
    binned[0, 0, 0] = value
    np.save(path, binned)
    told = r"calibration.npy must hold finite numbers of at least 0; run the stage evaluate again"
    with pytest.raises(UserError, match=told):
        runs.read_binned(study, cases_of(study))


def test_scores_stand_one_below_the_other_with_ids_as_they_are_written(study):
    found = runs.read_scores(study, cases_of(study))
    assert found[["variant", "seed", "id"]].to_numpy().tolist() == [
        [variant, seed, id]
        for variant in ("gated_attention", "resunet")
        for seed in (3, 1)
        for id in IDS
    ]
    assert found.index.tolist() == list(range(16))
    own = csv_of(study.evaluation_dir("resunet", 1) / "cases.csv")
    assert found["dice"].tolist()[-4:] == own["dice"].tolist()


def test_scores_of_folds_hold_each_case_once_a_variant_and_seed(folded):
    found = runs.read_scores(folded, cases_of(folded))
    assert not found.duplicated(["variant", "seed", "id"]).any()
    assert len(found) == 2 * 2 * 7
    of_first = ["training-1", "001", "d"]
    assert found["id"].tolist()[:3] == of_first == runs.test_ids(cases_of(folded), 0)
    assert runs.test_ids(cases_of(folded), 1) == ["training-2", "NA"]


def test_scores_of_other_cases_or_in_another_order_are_refused(study):
    path = study.evaluation_dir("resunet", 3) / "cases.csv"
    table = csv_of(path)
    told = r"cases\.csv does not hold the 4 prepared test cases in their order; run the stage eval"
    for wrong in (table[1:], table[::-1]):
        wrong.to_csv(path, index=False)
        with pytest.raises(UserError, match=f"resunet/3/.*{told}uate again$"):
            runs.read_scores(study, cases_of(study))


def test_scores_of_other_weights_are_refused(study):
    path = study.evaluation_dir("resunet", 3) / "evaluation.json"
    path.write_text(json.dumps({"weights_sha256": "another"}))
    told = r"resunet/3/.*cases\.csv is not of the weights that the run has now; run the stage eval"
    with pytest.raises(UserError, match=f"{told}uate again$"):
        runs.read_scores(study, cases_of(study))


READERS: dict[str, tuple[Callable[[Study], object], str]] = {
    "history.csv": (runs.read_histories, "train"),
    "run.json": (runs.read_run_facts, "train"),
    "evaluation/cases.csv": (lambda study: runs.read_scores(study, cases_of(study)), "evaluate"),
    "evaluation/thresholds.csv": (runs.read_thresholds, "evaluate"),
    "evaluation/calibration.npy": (
        lambda study: runs.read_binned(study, cases_of(study)),
        "evaluate",
    ),
    "evaluation/predictions.npy": (
        lambda study: runs.read_predictions(study, cases_of(study), IDS, 3),
        "evaluate",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_gone_is_named_with_the_stage_that_writes_it(study, name):
    read, stage = READERS[name]
    read(study)
    path = study.run_dir("resunet", 3) / name
    path.unlink()
    with pytest.raises(UserError) as caught:
        read(study)
    assert str(caught.value).startswith(f"{path} ")
    assert str(caught.value).endswith(f"run the stage {stage}")


@pytest.mark.parametrize("name", ["calibration.npy", "predictions.npy"])
def test_an_array_that_is_none_or_of_another_shape_is_named(study, name):
    read, _ = READERS[f"evaluation/{name}"]
    path = study.evaluation_dir("resunet", 3) / name
    array = np.load(path)
    np.save(path, array[:3])
    shape = r"float64 of the shape \(4, 15, 3\), got float64 \(3, 15, 3\)"
    if name == "predictions.npy":
        shape = r"uint8 of the shape \(4, 32, 4\), got uint8 \(3, 32, 4\)"
    told = rf"resunet/3/.*{name} must be {shape}; run the stage evaluate again$"
    with pytest.raises(UserError, match=told):
        read(study)
    np.save(path, np.array([None]), allow_pickle=True)
    with pytest.raises(UserError, match=rf"{name} is missing or unusable \(.*; run the stage eva"):
        read(study)


def test_bins_are_summed_over_a_seeds_cases_and_folds(study, folded):
    found = runs.read_binned(study, cases_of(study))
    assert list(found) == [
        (variant, seed) for variant in ("gated_attention", "resunet") for seed in (3, 1)
    ]
    own = np.load(study.evaluation_dir("resunet", 1) / "calibration.npy")
    np.testing.assert_allclose(found["resunet", 1], own.sum(axis=0))
    parts = (folded.evaluation_dir("resunet", 1, fold) / "calibration.npy" for fold in range(3))
    together = np.concatenate([np.load(part) for part in parts])
    found = runs.read_binned(folded, cases_of(folded))
    np.testing.assert_allclose(found["resunet", 1], together.sum(axis=0))


def test_thresholds_and_facts_are_those_of_each_run(study):
    sweeps = runs.read_thresholds(study)
    assert sweeps.index.tolist() == list(range(4 * 99))
    assert sweeps[["variant", "seed"]].drop_duplicates().to_numpy().tolist() == [
        ["gated_attention", 3],
        ["gated_attention", 1],
        ["resunet", 3],
        ["resunet", 1],
    ]
    own = pd.read_csv(study.evaluation_dir("resunet", 1) / "thresholds.csv")
    assert sweeps["dice"].tolist()[-99:] == own["dice"].tolist()
    facts = runs.read_run_facts(study)
    assert [(run.variant, run.seed) for run in facts] == [
        ("gated_attention", 3),
        ("gated_attention", 1),
        ("resunet", 3),
        ("resunet", 1),
    ]
    assert facts[Run("resunet", 1, 0)]["wall_seconds"] == 76.5


def test_one_stalled_epoch_leaves_a_runs_times_as_they_were(study):
    """Four epochs of 10 s, one of 48 s; the validation cases take what training leaves."""
    path = study.run_dir("resunet", 1) / "history.csv"
    table = pd.concat([pd.read_csv(path)] * 2)[:5]
    seconds = np.array([10.0, 10.4, 48.0, 9.8, 10.2])
    speeds = np.array([2.0, 1.0, 0.5, 2.5, 2.0])
    table = table.assign(epoch=range(1, 6), seconds=seconds, images_per_second=speeds)
    table.to_csv(path, index=False)
    before = (study.run_dir("resunet", 1) / "run.json").read_bytes()
    facts = runs.median_facts(study, cases_of(study))
    found = facts[Run("resunet", 1, 0)]
    assert found["seconds_per_epoch"] == np.median(seconds) == 10.2
    assert found["images_per_second"] == np.median(speeds) == 2.0
    assert found["validation_images_per_second"] == pytest.approx(
        1 / np.median(seconds - 2 / speeds)  # two training cases, one for validation
    )
    assert found["wall_seconds"] == 76.5
    assert (study.run_dir("resunet", 1) / "run.json").read_bytes() == before


def test_a_history_without_times_leaves_those_of_run_json(study):
    path = study.run_dir("resunet", 1) / "history.csv"
    pd.read_csv(path).drop(columns=["seconds", "images_per_second"]).to_csv(path, index=False)
    found = runs.median_facts(study, cases_of(study))[Run("resunet", 1, 0)]
    assert (found["seconds_per_epoch"], found["images_per_second"]) == (1.5, 64.0)


def test_predictions_are_of_one_seed_for_the_ids_asked_in_their_order(study):
    own = np.load(study.evaluation_dir("resunet", 1) / "predictions.npy")
    found = runs.read_predictions(study, cases_of(study), ["4", "001"], 1)
    assert list(found) == ["gated_attention", "resunet"]
    np.testing.assert_array_equal(found["resunet"], own[[3, 0]])
    other = np.load(study.evaluation_dir("gated_attention", 1) / "predictions.npy")
    np.testing.assert_array_equal(found["gated_attention"], other[[3, 0]])


def test_predictions_of_folds_are_of_the_fold_that_tested_the_case(folded):
    found = runs.read_predictions(folded, cases_of(folded), ["NA", "d", "training-1"], 3)
    first, second = (
        np.load(folded.evaluation_dir("resunet", 3, fold) / "predictions.npy") for fold in (0, 1)
    )
    np.testing.assert_array_equal(found["resunet"], [second[1], first[2], first[0]])


def test_averages_are_of_each_seed_with_flips_and_else_of_all_seeds(study, folded):
    found = runs.averages(study)
    assert found == [("flips", (3,), 0), ("flips", (1,), 0), ("seeds", (3, 1), 0)]
    assert [each.seed for each in found] == [3, 1, None]
    assert [each.fold for each in runs.averages(folded)[:3]] == [0, 1, 2]
    assert len(runs.averages(folded)) == 9


def test_averaged_scores_are_read_with_no_seed_for_all_seeds(study):
    found = runs.read_averaged(study, cases_of(study))
    assert found["seed"].tolist() == ([3] * 4 + [1] * 4 + [-1] * 4) * 2
    assert found["id"].tolist() == list(IDS) * 6
    assert found["averaging"].tolist()[4:12] == ["flips"] * 4 + ["seeds"] * 4


def test_averaged_scores_of_another_protocol_are_refused(study):
    file = study.averaged_file("resunet")
    table = pd.read_csv(file, dtype={"id": str, "seed": "Int64"}, keep_default_na=False)
    table["seed"] = pd.to_numeric(table["seed"], errors="coerce").astype("Int64")
    told = (
        r"averaged/resunet\.csv does not hold the 12 rows that averaging in params\.yaml asks for; "
        r"run the stage average again$"
    )
    for wrong in (table[1:], table[::-1]):
        wrong.to_csv(file, index=False)
        with pytest.raises(UserError, match=told):
            runs.read_averaged(study, cases_of(study))
    table.drop(columns="fold").to_csv(file, index=False)
    with pytest.raises(UserError, match=r"resunet\.csv has no column fold; run the stage average"):
        runs.read_averaged(study, cases_of(study))
    file.unlink()
    with pytest.raises(UserError, match=r"resunet\.csv is missing .*; run the stage average$"):
        runs.read_averaged(study, cases_of(study))


def test_runs_that_are_not_there_are_missing_in_the_studys_order(study):
    assert runs.missing_runs(study) == []
    shutil.rmtree(study.run_dir("resunet", 3))
    shutil.rmtree(study.evaluation_dir("gated_attention", 1))
    assert runs.missing_runs(study) == [Run("gated_attention", 1, 0), Run("resunet", 3, 0)]

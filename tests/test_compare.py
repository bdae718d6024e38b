"""pipeline/compare.py on made-up runs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from conftest import change_params
from fake_study import NASTY_IDS, make_study
from scipy.stats import trim_mean, ttest_rel

from pipeline import compare
from pipeline.reporting.tables import all_tables
from pipeline.statistics.crossed import by_group, case_interval
from pipeline.statistics.definitions import SHARE, metrics_of
from pipeline.statistics.failures import mean_with_failures
from pipeline.statistics.results import Interval, load_results
from pipeline.statistics.typical import typical_interval
from pipeline.study.errors import UserError

pytestmark = pytest.mark.slow

VARIANTS = ["limit_encoder_attention", "own-variant", "resunet"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=VARIANTS, seeds=[0, 1, 5])
    monkeypatch.chdir(study.folder)
    return study


def results(study):
    compare.main()
    return load_results(study.results_file)


def test_estimates_are_the_runs_means_and_deviations(study):
    found = results(study)
    assert [(row.variant, row.metric) for row in found.estimates] == [
        (variant, metric) for variant in VARIANTS for metric in metrics_of(study)
    ]
    runs = [
        pd.read_csv(study.evaluation_dir("resunet", seed) / "cases.csv")["iou"].mean()
        for seed in (0, 1, 5)
    ]
    row = found.estimate("resunet", "iou")
    assert row.mean == pytest.approx(np.mean(runs))
    assert row.standard_deviation == pytest.approx(np.std(runs, ddof=1))
    assert (row.seeds, row.cases, row.paper) == (3, 5, None)
    assert found.estimate("limit_encoder_attention", "iou").paper == 0.795


def test_pooled_dice_has_no_interval_for_it_has_no_case_of_its_own(study):
    row = results(study).estimate("resunet", "pooled_dice")
    assert row.mean is not None
    assert (row.interval, row.cases) == (None, 5)


def test_every_pair_of_variants_is_compared_and_the_baseline_named(study):
    found = results(study).comparison
    assert len(found.pairs) == 3
    assert (found.baseline, found.seeds) == ("resunet", [0, 1, 5])


def test_cases_runs_and_histories_are_enough_to_redraw(study):
    found = results(study)
    assert found.cases.ids == list(NASTY_IDS)
    scores = pd.read_csv(study.evaluation_dir("own-variant", 5) / "cases.csv")
    assert found.cases.dice["own-variant"]["5"] == pytest.approx(list(scores["dice"]), abs=1e-6)
    means = [np.mean([found.cases.dice[v][s][0] for s in ("0", "1", "5")]) for v in VARIANTS]
    assert found.cases.disagreement[0] == pytest.approx(np.std(means), abs=1e-5)
    run = next(run for run in found.runs if (run.variant, run.seed) == ("own-variant", 5))
    assert run.metrics["dice"] == pytest.approx(scores["dice"].mean())
    assert run.cost["wall_seconds"] == 80.5
    history = pd.read_csv(study.run_dir("own-variant", 5) / "history.csv")
    told = found.histories["own-variant"]["5"]
    assert told["validation_dice"] == pytest.approx(list(history["validation_dice"]))
    assert "seconds" not in told


@pytest.mark.filterwarnings("ignore:Precision loss")  # the runs are made alike
def test_tails_are_the_worst_cases_and_those_below_the_threshold(study):
    for seed in study.seeds:
        path = study.evaluation_dir("resunet", seed) / "cases.csv"
        table = pd.read_csv(path, dtype={"id": str})
        table["dice"], table["iou"] = [0.9, 0.2, 0.8, 0.7, 0.6], [0.9, 0.1, 0.65, 0.6, 0.5]
        table.to_csv(path, index=False)
    tail = results(study).tails[-1]
    assert (tail.variant, tail.worst_mean) == ("resunet", pytest.approx(0.2))
    assert tail.below_threshold == pytest.approx(0.6)


def test_costs_are_medians_over_runs_and_the_highest_memory(study):
    """Of three seeds one took four times as long."""
    path = study.run_dir("resunet", 5) / "run.json"
    slow = {"wall_seconds": 300.0, "peak_memory_bytes": 9e9}
    path.write_text(json.dumps(json.loads(path.read_text()) | slow))
    (cost,) = (each for each in results(study).costs if each.variant == "resunet")
    assert cost.wall_seconds == np.median([75.5, 76.5, 300.0])
    assert cost.peak_memory_bytes == 9e9


def test_the_cases_checksum_changes_with_a_mask_and_not_with_an_image(study):
    before = results(study).study.cases_sha256
    for name, same in (("images", True), ("masks", False)):
        path = study.prepared_dir / f"{name}.npy"
        array = np.load(path)
        array[-1, 0, 0] ^= 1
        np.save(path, array)
        assert (results(study).study.cases_sha256 == before) is same


def test_folds_together_score_each_case_once(tmp_path, monkeypatch):
    study = make_study(tmp_path, seeds=[0, 1], folds=3)
    monkeypatch.chdir(study.folder)
    found = results(study)
    assert found.comparison.cases == len(found.cases.ids) == 8
    assert {row.cases for row in found.estimates} == {8}


def test_the_same_runs_give_the_same_bytes(study):
    compare.main()
    first = study.results_file.read_bytes()
    compare.main()
    assert study.results_file.read_bytes() == first


def test_a_missing_run_is_named_and_nothing_is_written(study):
    (study.evaluation_dir("resunet", 5) / "cases.csv").unlink()
    with pytest.raises(UserError, match=r"resunet/5/.*cases.csv is missing.*stage evaluate"):
        compare.main()
    assert not study.results_file.exists()


def test_no_number_in_the_file_is_not_a_number(study):
    path = study.evaluation_dir("resunet", 1) / "cases.csv"
    table = pd.read_csv(path, dtype={"id": str})
    table.loc[0, "dice"] = np.nan
    table.to_csv(path, index=False)
    found = results(study)
    assert found.estimate("resunet", "dice").mean is None
    assert found.comparison.notes[0].startswith("resunet is left out of comparisons")
    json.loads(study.results_file.read_text(), parse_constant=pytest.fail)


def test_subgroups_hold_the_means_of_their_cases_and_no_interval_below_ten(study):
    found = results(study)
    assert set(found.groupings) == {row.grouping for row in found.subgroups}
    for grouping in found.groupings:
        own = [
            row for row in found.subgroups if (row.grouping, row.variant) == (grouping, "resunet")
        ]
        assert sum(row.cases for row in own) == 5
        assert all(row.interval is None for row in own)
        whole = sum(row.typical * row.cases for row in own) / 5
        assert whole == pytest.approx(found.estimate("resunet", "dice").typical)
    assert "estimate" in " ".join(found.groupings)


def test_a_group_of_ten_cases_has_the_two_way_interval_of_its_scores(tmp_path, monkeypatch):
    ids = [f"case-{number}" for number in range(12)]
    study = make_study(tmp_path, variants=["resunet", "own"], seeds=range(7), test_ids=ids)
    monkeypatch.chdir(study.folder)
    found = results(study)
    (row,) = [
        row for row in found.subgroups if (row.grouping, row.variant) == ("image size", "own")
    ]
    assert (row.group, row.cases) == ("128 x 96", 12)
    assert row.interval == found.estimate("own", "dice").interval
    assert row.interval is not None


def test_with_one_seed_a_group_has_its_cases_interval_alone(tmp_path, monkeypatch):
    ids = [f"case-{number}" for number in range(12)]
    study = make_study(tmp_path, seeds=[3], test_ids=ids)
    monkeypatch.chdir(study.folder)
    found = results(study)
    own = [row for row in found.subgroups if row.grouping == "image size"]
    assert [row.cases for row in own] == [12] * len(study.variants)
    for row in own:
        scores = pd.read_csv(study.evaluation_dir(row.variant, 3) / "cases.csv")["dice"]
        assert row.interval == case_interval(scores.to_numpy(), SHARE)
    (table,) = (t for t in all_tables(found) if t.caption.startswith("Dice by image size"))
    assert "interval over cases alone" in table.caption


@pytest.mark.parametrize("folds", [0, 3])
def test_cases_of_a_group_count_as_one_wherever_an_error_is_over_cases(
    tmp_path, monkeypatch, folds
):
    """24 photographs of 12 patients, whose cases do not follow each other."""
    ids = [f"case-{number:02d}" for number in range(24)]
    groups = {id: f"patient-{number % 12}" for number, id in enumerate(ids)}
    study = make_study(
        tmp_path, variants=["resunet", "own"], seeds=range(7), test_ids=ids, folds=folds,
        averaging=["flips", "seeds"], groups=groups,
    )  # fmt: skip
    monkeypatch.chdir(study.folder)
    found = results(study)
    own = pd.concat(
        pd.read_csv(study.evaluation_dir(*run) / "cases.csv", dtype={"id": str}).assign(
            seed=run.seed
        )
        for run in study.runs()
        if run.variant == "own"
    )
    table = own.pivot_table(index="seed", columns="id", values="dice", sort=False)
    known = np.unique([groups.get(id, id) for id in table.columns], return_inverse=True)[1]
    values, sound = table.to_numpy(), np.zeros(7, dtype=bool)
    units = by_group(values, known)
    assert found.comparison.groups == units.shape[1] == (15 if folds else 12)
    estimated = found.estimate("own", "dice")
    assert estimated.interval == typical_interval(units, sound, SHARE)
    assert estimated.interval != typical_interval(values, sound, SHARE)
    assert estimated.mean == pytest.approx(values.mean())
    assert estimated.cases == found.comparison.cases == len(found.cases.ids) == values.shape[1]
    assert found.estimate("own", "pooled_dice").interval is None
    (rate,) = (each for each in found.failures if each.variant == "own")
    assert rate.failed == []
    assert rate.mean_interval == mean_with_failures(units, sound, rate.interval, SHARE)
    averaged = pd.read_csv(study.averaged_file("own"), dtype={"id": str})
    ensemble = averaged[averaged["averaging"] == "seeds"]
    gains = ensemble.set_index("id")["dice"].loc[table.columns].to_numpy() - values.mean(axis=0)
    (row,) = (
        each
        for each in found.averaged
        if (each.variant, each.averaging, each.metric) == ("own", "seeds", "dice")
    )
    assert row.difference_interval == case_interval(by_group(gains, known))
    (pair,) = found.comparison.pairs
    assert pair.interval is not None


def test_subgroups_count_the_groups_of_their_own_cases(tmp_path, monkeypatch):
    ids = [f"case-{number:02d}" for number in range(24)]
    intervals = {}
    for each in (2, 3):
        groups = {id: f"patient-{number // each}" for number, id in enumerate(ids)}
        study = make_study(
            tmp_path / str(each), variants=["own"], seeds=range(7), test_ids=ids, groups=groups
        )
        monkeypatch.chdir(study.folder)
        found = results(study)
        (row,) = (each for each in found.subgroups if each.grouping == "image size")
        assert (row.cases, row.groups) == (24, 24 // each)
        intervals[each] = row.interval
        assert found.estimate("own", "dice").interval is not None
        sizes = [row for row in found.subgroups if row.grouping == "lesion size"]
        assert all(row.groups is None or row.groups < row.cases for row in sizes)
    assert intervals[2] == found_interval(tmp_path / "2")
    assert intervals[3] is None  # eight patients, fewer than ten


def found_interval(root):
    """Of the variant `own` over all cases, by patients of two."""
    own = [
        pd.read_csv(root / f"studies/fake/runs/own/{seed}/0/evaluation/cases.csv")["dice"]
        for seed in range(7)
    ]
    units = by_group(np.array(own), np.arange(24) // 2)
    return typical_interval(units, np.zeros(7, dtype=bool), SHARE)


def test_calibration_is_of_all_pixels_of_all_seeds_and_its_error_a_runs(study):
    found = {row.variant: row for row in results(study).calibration}
    binned = [
        np.load(study.evaluation_dir("resunet", seed) / "calibration.npy").sum(axis=0)
        for seed in (0, 1, 5)
    ]
    told = found["resunet"].bins
    assert [one.pixels for one in told] == sum(binned)[:, 0].tolist()
    filled = sum(binned)[:, 0] > 0
    assert [one.observed is not None for one in told] == filled.tolist()
    errors = [np.abs(own[:, 1] - own[:, 2]).sum() / own[:, 0].sum() for own in binned]
    assert found["resunet"].expected_calibration_error == pytest.approx(np.mean(errors))


def test_the_best_threshold_is_that_of_the_mean_over_seeds(study):
    (row,) = [row for row in results(study).thresholds if row.variant == "resunet"]
    sweeps = [
        pd.read_csv(study.evaluation_dir("resunet", seed) / "thresholds.csv") for seed in (0, 1, 5)
    ]
    means = np.mean([sweep["dice"] for sweep in sweeps], axis=0)
    assert row.dice == pytest.approx(means.tolist(), abs=1e-6)
    assert row.best == sweeps[0]["threshold"][means.argmax()]
    assert (row.best_dice, row.study_dice) == pytest.approx((means.max(), means[49]))


@pytest.mark.parametrize("name", ["calibration.npy", "thresholds.csv"])
def test_an_evaluation_of_earlier_code_names_the_stage_to_run(study, name):
    (study.evaluation_dir("resunet", 1) / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing .*run the stage evaluate"):
        compare.main()


def test_bins_of_another_number_are_told(study):
    path = study.evaluation_dir("resunet", 1) / "calibration.npy"
    np.save(path, np.load(path)[:, :4])
    with pytest.raises(UserError, match=r"of the shape \(5, 15, 3\), got float64 \(5, 4, 3\)"):
        compare.main()


SEVEN = (0, 1, 5, 6, 7, 8, 9)
EVERY = ["flips", "seeds", "seeds_and_flips"]


def test_averaged_probabilities_are_held_against_the_variants_own_runs(tmp_path, monkeypatch):
    study = make_study(tmp_path, seeds=SEVEN, averaging=EVERY)
    monkeypatch.chdir(study.folder)
    found = results(study).averaged
    assert [(row.variant, row.averaging, row.metric) for row in found] == [
        (variant, averaging, metric)
        for variant in study.variants
        for averaging in EVERY
        for metric in ("dice", "iou", "focal_loss", "thresholded_jaccard", "brier")
    ]
    table = pd.read_csv(study.averaged_file("resunet"), dtype={"id": str})
    runs = [
        pd.read_csv(study.evaluation_dir("resunet", seed) / "cases.csv", dtype={"id": str})
        for seed in SEVEN
    ]
    for row in found:
        if row.variant != "resunet":
            continue
        rows = table[table["averaging"] == row.averaging]
        single = np.array([run[row.metric] for run in runs])
        values = rows[row.metric].to_numpy().reshape(-1, 5)
        assert (row.runs, row.cases) == ((7, 5) if row.averaging == "flips" else (1, 5))
        assert row.mean == pytest.approx(values.mean())
        difference = values.mean() - single.mean()
        if row.averaging == "flips":
            assert row.standard_deviation == pytest.approx(values.mean(axis=1).std(ddof=1))
            difference = trim_mean((values - single).mean(axis=1), 1 / 7)
            expected = typical_interval(values - single, np.zeros(7, dtype=bool))
        else:
            told = ttest_rel(values[0], single.mean(axis=0)).confidence_interval()
            expected = Interval(low=told.low, high=told.high)
        assert row.difference == pytest.approx(difference)
        assert row.difference_interval.low == pytest.approx(expected.low)
        assert row.difference_interval.high == pytest.approx(expected.high)


def test_averages_of_folds_are_over_all_their_cases(tmp_path, monkeypatch):
    study = make_study(tmp_path, seeds=range(7), folds=3, averaging=["flips", "seeds"])
    monkeypatch.chdir(study.folder)
    found = results(study).averaged
    assert {row.cases for row in found} == {8}
    table = pd.read_csv(study.averaged_file("resunet"), dtype={"id": str})
    own = pd.concat(
        pd.read_csv(study.evaluation_dir(*run) / "cases.csv", dtype={"id": str}).assign(
            seed=run.seed
        )
        for run in study.runs()
        if run.variant == "resunet"
    )
    flips = table[table["averaging"] == "flips"]
    both = flips.merge(own, on=["seed", "id"], suffixes=("", "_own"))
    gains = (both["dice"] - both["dice_own"]).to_numpy().reshape(7, 8)
    expected = typical_interval(gains, np.zeros(7, dtype=bool))
    (row,) = [
        row
        for row in found
        if (row.variant, row.averaging, row.metric) == ("resunet", "flips", "dice")
    ]
    assert row.difference == pytest.approx(trim_mean(gains.mean(axis=1), 1 / 7))
    assert row.difference_interval.low == pytest.approx(expected.low)

    seeds = table[table["averaging"] == "seeds"]
    mean = own.groupby("id", as_index=False)["dice"].mean()
    both = seeds.merge(mean, on="id", suffixes=("", "_own"))
    paired = ttest_rel(both["dice"], both["dice_own"]).confidence_interval()
    (row,) = [
        row
        for row in found
        if (row.variant, row.averaging, row.metric) == ("resunet", "seeds", "dice")
    ]
    assert row.difference_interval.low == pytest.approx(paired.low)
    assert row.difference_interval.high == pytest.approx(paired.high)


@pytest.mark.parametrize("name", ["None", "001"])
def test_a_variant_may_be_called_like_a_number_or_nothing(tmp_path, monkeypatch, name):
    study = make_study(tmp_path, variants=[name, "resunet"], averaging=["flips"])
    monkeypatch.chdir(study.folder)
    assert {row.variant for row in results(study).averaged} == {name, "resunet"}


def test_averages_of_another_protocol_name_the_stage_to_run(tmp_path, monkeypatch):
    study = make_study(tmp_path, averaging=["flips", "seeds"])
    monkeypatch.chdir(study.folder)
    table = pd.read_csv(study.averaged_file("resunet"), dtype={"id": str, "seed": "Int64"})
    for wrong in (table[1:], table[::-1], table.drop(columns="fold"), table[:0]):
        wrong.to_csv(study.averaged_file("resunet"), index=False)
        with pytest.raises(
            UserError, match=r"averaged/resunet.csv (does not hold the 15|has no) .* average"
        ):
            compare.main()
    study.averaged_file("resunet").unlink()
    with pytest.raises(UserError, match=r"averaged/resunet.csv is missing .*run the stage average"):
        compare.main()


def test_without_averaging_nothing_is_read_and_the_list_is_empty(study):
    assert not study.averaged_dir.exists()
    assert results(study).averaged == []


@pytest.mark.parametrize(
    ("file", "column", "value", "told"),
    [
        ("evaluation/cases.csv", "dice", "good", "a number from 0 to 1, got 'good'"),
        ("evaluation/cases.csv", "dice", 7.5, "a number from 0 to 1, got 7.5"),
        ("evaluation/cases.csv", "iou", True, "a number from 0 to 1, got"),
        ("evaluation/cases.csv", "native_dice", -0.1, "a number from 0 to 1, got -0.1"),
        ("evaluation/cases.csv", "focal_loss", -1, "a number from 0 to 3.4e+38, got -1"),
        ("evaluation/cases.csv", "focal_loss", "inf", "a number from 0 to 3.4e+38, got inf"),
        ("evaluation/cases.csv", "bce", 1e308, "a number from 0 to 3.4e+38, got 1e+308"),
        ("evaluation/cases.csv", "true_positives", 10**20, "a whole number from 0 to 1e+15, got"),
        ("evaluation/cases.csv", "true_positives", 0.5, "a whole number from 0 to 1e+15, got 0.5"),
        (
            "evaluation/cases.csv",
            "true_positives",
            None,
            "a whole number from 0 to 1e+15, got noth",
        ),
        ("evaluation/thresholds.csv", "dice", "nan", "a number from 0 to 1, got 'nan'"),
        ("history.csv", "validation_dice", 85, "a number from 0 to 1, got 85"),
        ("history.csv", "epoch", "first", "a whole number from 0 to 1e+15, got 'first'"),
        ("history.csv", "epoch", 1e30, "a whole number from 0 to 1e+15, got 1e+30"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_file_row_and_column(
    study, file, column, value, told
):
    path = study.run_dir("resunet", 1) / file
    table = pd.read_csv(path, dtype={"id": str})
    table[column] = table[column].astype(object)
    table.loc[1, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(UserError) as caught:
        compare.main()
    of = f" of {NASTY_IDS[1]}" if file.endswith("cases.csv") else ""
    assert f"{path.name}, line 3: {column}{of} must be {told}" in str(caught.value)
    assert not study.results_file.exists()


@pytest.mark.parametrize("column", ["id", "dice", "false_negatives"])
def test_a_table_without_a_column_is_told(study, column):
    path = study.evaluation_dir("resunet", 1) / "cases.csv"
    pd.read_csv(path, dtype={"id": str}).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(UserError, match=rf"cases.csv has no column {column}; run the stage evalua"):
        compare.main()


def test_averaged_scores_are_held_to_the_same_ranges(tmp_path, monkeypatch):
    study = make_study(tmp_path, averaging=["flips"])
    monkeypatch.chdir(study.folder)
    table = pd.read_csv(study.averaged_file("resunet"), dtype={"id": str})
    table.loc[0, "dice"] = 7.5
    table.to_csv(study.averaged_file("resunet"), index=False)
    with pytest.raises(UserError, match=r"resunet.csv, line 2: dice of .* from 0 to 1, got 7.5"):
        compare.main()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_bytes(b""), "is missing or unusable"),
        (lambda path: np.savez(path.open("wb"), np.zeros(3)), "got several arrays"),
        (lambda path: np.save(path, np.load(path).astype(str)), "must be float64"),
        (lambda path: np.save(path, -np.load(path) - 1), "finite numbers of at least 0"),
    ],
)
def test_an_unusable_array_is_told(study, make, told):
    path = study.evaluation_dir("resunet", 1) / "calibration.npy"
    make(path)
    with pytest.raises(UserError, match=rf"calibration.npy.*{told}.*run the stage evaluate"):
        compare.main()


@pytest.mark.parametrize(
    ("record", "change", "told"),
    [
        ("evaluation/evaluation.json", {"evaluate": {"threshold": 0.9}}, "params.yaml: evaluate"),
        ("run.json", {"train": {"epochs": 99}}, "params.yaml: train"),
    ],
)
def test_scores_of_other_params_are_not_compared(tmp_path, monkeypatch, record, change, told):
    """DVC takes its hashes after a stage, and may have them of what was edited since."""
    study = make_study(tmp_path)
    monkeypatch.chdir(study.folder)
    file = study.run_dir("resunet", 1) / record
    ((block, values),) = change.items()
    params = {block: study.model_dump(mode="json")[block] | values}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"params": params}))
    with pytest.raises(UserError) as error:
        compare.main()
    assert f"1/0/evaluation/cases.csv was made with another {told} than is there" in str(
        error.value
    )
    assert "dvc repro --force --single-item train@resunet-1-0" in str(error.value)


def test_scores_of_other_data_are_not_compared(tmp_path, monkeypatch):
    study = make_study(tmp_path)
    monkeypatch.chdir(study.folder)
    file = study.run_dir("resunet", 1) / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data_fingerprint": "0"}))
    with pytest.raises(UserError, match="made with another data/prepared than is there now"):
        compare.main()


def test_a_baseline_that_is_no_variant_is_warned_of(tmp_path, monkeypatch, capsys):
    study = make_study(tmp_path)
    monkeypatch.chdir(study.folder)
    change_params(compare={"baseline": "big"})
    compare.main()
    told = "compare.baseline is big, which is not among those compared (gated_attention, resunet)"
    assert told in capsys.readouterr().err
    assert load_results(study.results_file).comparison.baseline is None


RATES = [{"optimizer": {"learning_rate": rate}} for rate in (0.0003, 0.003)]


@pytest.fixture
def tuned_study(tmp_path, monkeypatch):
    """Of resunet the second of two further settings is best in validation, and in test."""
    study = make_study(
        tmp_path, variants=["own", "resunet"], seeds=list(range(8)), external={"others": 12},
        settings={"resunet": RATES},
    )  # fmt: skip
    monkeypatch.chdir(study.folder)
    levels = {"own": 0.80, "resunet": 0.78, "resunet1": 0.70, "resunet2": 0.82}
    for variant, seed, _ in study.runs():
        level = levels[variant] + 0.001 * (-1) ** seed
        path = study.evaluation_dir(variant, seed) / "cases.csv"
        table = pd.read_csv(path, dtype={"id": str})
        table.assign(dice=level + 0.001 * np.arange(5)).to_csv(path, index=False)
        path = study.run_dir(variant, seed) / "history.csv"
        pd.read_csv(path).assign(validation_dice=[0.99, 0.99, level]).to_csv(path, index=False)
    return study


def test_variants_with_settings_are_compared_at_their_own_and_at_the_best(tuned_study):
    found = results(tuned_study)
    assert found.comparison.variants == ["own", "resunet"]
    assert found.external[0].comparison.variants == ["own", "resunet"]
    assert {each.variant for each in found.estimates} == set(tuned_study.variants)
    own, resunet = found.tuning.variants
    assert (own.settings, own.gain) == (["own"], None)
    assert resunet.settings == ["resunet", "resunet1", "resunet2"]
    assert resunet.chosen == {"resunet": 0, "resunet1": 0, "resunet2": 8}
    # After the epoch whose weights are evaluated, here the last, not after the first two.
    assert resunet.validation_dice == pytest.approx(
        {"resunet": 0.78, "resunet1": 0.70, "resunet2": 0.82}
    )
    assert resunet.gain == pytest.approx(0.04)
    (before,), (after,) = found.comparison.pairs, found.tuning.comparison.pairs
    assert (before.difference, after.difference) == pytest.approx((0.02, -0.02))
    assert before.shown
    assert after.shown
    told = [
        "The best setting by validation: resunet resunet2.",
        "Each at the best of its settings, the order is resunet > own; at its own settings own > "
        "resunet.",
        "Shown at both, and turned round at the best settings: own > resunet.",
        "From its own settings to the best Dice changes by: resunet +0.0400 (0.0400 to 0.0400).",
    ]
    place = found.verdict.index(told[0])
    assert found.verdict[place : place + 4] == told


def test_the_tables_of_settings_have_every_one_and_what_it_was_chosen_by(tuned_study):
    tables = {table.key: table for table in all_tables(results(tuned_study))}
    rows = {row.name: [cell.text for cell in row.cells] for row in tables["settings"].rows}
    assert list(rows) == ["own", "resunet", "resunet1", "resunet2"]
    assert [cells[0] for cells in rows.values()] == ["own", *["resunet"] * 3]
    assert [cells[-1] for cells in rows.values()] == ["8 of 8", "0 of 8", "0 of 8", "8 of 8"]
    (pair,) = tables["tuned-pairs"].rows
    assert (pair.name, pair.cells[-1].text) == ("own - resunet", "both, turned round")
    assert [row.name for row in tables["tuned-variants"].rows] == ["own", "resunet"]


def test_a_setting_is_told_by_its_keys_and_never_bold(tuned_study):
    found = results(tuned_study)
    tables = {table.key: table for table in all_tables(found)}
    place = tables["settings"].header.index("Differs in")
    told = {row.name: row.cells[place].text for row in tables["settings"].rows}
    assert told["resunet2"] == "optimizer.learning_rate 0.003"
    assert told["own"] == told["resunet"]
    for key in ("comparison", "secondary", "external-others"):
        best = {row.name for row in tables[key].rows for cell in row.cells if cell.best}
        assert best <= {"own", "resunet"}, key
    assert found.estimate("resunet2", "dice").mean > found.estimate("own", "dice").mean
    meaning = dict(tables["comparison"].notes)["Variant"]
    assert meaning == (
        "Settings, which are not compared with others: resunet1 and resunet2 of resunet."
    )
    assert json.loads(tuned_study.summary_file.read_text())["best"] == "own"


def change_scores(study, variant, seed, **columns):
    path = study.evaluation_dir(variant, seed) / "cases.csv"
    pd.read_csv(path, dtype={"id": str}).assign(**columns).to_csv(path, index=False)


def test_settings_change_nothing_of_how_the_others_compare(tuned_study):
    """One run of own lies between the study's drop and what wide settings would make of it; two
    settings' runs spread that widely."""
    change_scores(tuned_study, "own", 3, dice=0.765)
    for seed in tuned_study.seeds:
        change_scores(tuned_study, "resunet1", seed, dice=0.5 + 0.04 * seed)
        change_scores(tuned_study, "resunet2", seed, dice=0.9 - 0.04 * seed)
    with_settings = results(tuned_study)
    change_params(variants=["own", "resunet"])
    alone = results(tuned_study)
    assert [each.failed for each in alone.failures] == [[3], []]
    assert with_settings.failures[:2] == alone.failures
    assert with_settings.comparison == alone.comparison
    assert with_settings.answer == alone.answer
    assert "1 of 16 runs failed" in alone.answer


def test_too_few_seeds_are_described_by_those_compared(tmp_path, monkeypatch):
    study = make_study(
        tmp_path, variants=["own", "resunet"], seeds=[0, 1], settings={"resunet": RATES}
    )
    monkeypatch.chdir(study.folder)
    for seed in study.seeds:
        change_scores(study, "resunet2", seed, dice=0.99)
        change_scores(study, "resunet1", seed, dice=0.01)
    found = results(study)
    assert not any("resunet1" in told for told in found.verdict if told.startswith("So far"))
    assert not any("resunet2" in told for told in found.verdict if told.startswith("So far"))
    (pair,) = found.tuning.comparison.pairs
    assert pair.shown is None


def test_one_variant_with_settings_is_told_how_good_it_is(tmp_path, monkeypatch):
    study = make_study(
        tmp_path, variants=["resunet"], seeds=list(range(7)), settings={"resunet": RATES}
    )
    monkeypatch.chdir(study.folder)
    found = results(study)
    assert found.answer.startswith("A typical run of resunet has Dice ")
    (resunet,) = found.tuning.variants
    assert resunet.gain is not None
    assert found.tuning.comparison.pairs == []


def test_failed_runs_among_the_chosen_are_told(tuned_study):
    change_scores(tuned_study, "resunet2", 5, dice=0.3)
    found = results(tuned_study)
    assert found.tuning.variants[1].failed == [5]
    tables = {table.key: table for table in all_tables(found)}
    place = tables["tuned-variants"].header.index("Failed runs")
    assert [row.cells[place].text for row in tables["tuned-variants"].rows] == ["0 of 8", "1 of 8"]


@pytest.mark.parametrize("variant", ["resunet", "resunet2"])
def test_a_setting_without_a_score_has_no_figure(tuned_study, variant):
    path = tuned_study.evaluation_dir(variant, 2) / "cases.csv"
    table = pd.read_csv(path, dtype={"id": str})
    table.loc[1, "dice"] = np.nan
    table.to_csv(path, index=False)
    found = results(tuned_study)
    resunet = found.tuning.variants[1]
    assert resunet.typical is resunet.interval is resunet.gain is None
    # Without the error of the choices no pair is shown.
    assert all(pair.shown is pair.interval is None for pair in found.tuning.comparison.pairs)
    assert any("resunet is left out" in note for note in found.tuning.comparison.notes) == (
        variant == "resunet2"
    )


def test_a_validation_that_is_no_number_chooses_nothing(tuned_study):
    path = tuned_study.run_dir("resunet1", 2) / "history.csv"
    history = pd.read_csv(path)
    history.loc[2, "validation_dice"] = np.nan
    history.to_csv(path, index=False)
    with pytest.raises(
        UserError, match=r"history\.csv: validation_dice of epoch 3 must be a number"
    ):
        compare.main()


def test_of_a_part_of_a_study_no_setting_is_chosen(tuned_study):
    (tuned_study.run_dir("resunet2", 3) / "run.json").unlink()
    compare.main(partial=True)
    found = load_results(tuned_study.partial_dir / "results.json", partial=True)
    assert found.tuning is None
    assert found.comparison.variants == ["own", "resunet"]
    for seed in tuned_study.seeds:
        (tuned_study.run_dir("resunet", seed) / "run.json").unlink()
    compare.main(partial=True)  # a setting does not stand for its variant
    found = load_results(tuned_study.partial_dir / "results.json", partial=True)
    assert found.comparison.variants == ["own"]


def test_a_baseline_that_is_a_setting_of_another_is_warned_of(tuned_study, capsys):
    change_params(compare={"baseline": "resunet1"})
    compare.main()
    told = "compare.baseline is resunet1, which is not among those compared (own, resunet)"
    assert told in capsys.readouterr().err


def test_a_run_whose_selected_epoch_its_history_lacks_is_told(tuned_study):
    path = tuned_study.run_dir("resunet1", 2) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"selected_epoch": 9}))
    with pytest.raises(UserError, match=r"selected_epoch must be one of history\.csv, got 9"):
        compare.main()


def test_a_failed_run_is_told_apart_and_leaves_typical_runs_as_they_were(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["resunet", "own"], seeds=list(range(7)))
    monkeypatch.chdir(study.folder)
    for variant in study.variants:
        for seed in study.seeds:
            path = study.evaluation_dir(variant, seed) / "cases.csv"
            table = pd.read_csv(path, dtype={"id": str})
            table["dice"] = 0.8 + 0.01 * np.arange(5) + 0.001 * (seed + (variant == "own"))
            if (variant, seed) == ("own", 4):
                table["dice"] -= 0.2
            table.to_csv(path, index=False)
    found = results(study)
    first, second = found.failures
    assert (first.variant, first.failed, first.rate) == ("resunet", [], 0)
    assert (second.variant, second.failed, second.runs) == ("own", [4], 7)
    assert second.rate == pytest.approx(1 / 7)
    assert second.mean_interval.low < found.estimate("own", "dice").mean
    # Of own 0, 1, 2, 3, 5 and 6 are left, none of which is trimmed.
    own = found.estimate("own", "dice")
    assert own.typical == pytest.approx(0.82 + 0.001 * (1 + np.mean([0, 1, 2, 3, 5, 6])))
    assert own.mean == pytest.approx(0.82 + 0.004 - 0.2 / 7)
    (pair,) = found.comparison.pairs
    assert pair.difference == pytest.approx(0.82 + 0.003 - own.typical)
    assert found.verdict[0].startswith(
        "Failed runs: own 1 of 7 (seed 4; 95 % interval of the rate 0 to"
    )
    lenient = change_params(compare={"failure_drop": 0.3})
    assert [each.failed for each in results(lenient).failures] == [[], []]

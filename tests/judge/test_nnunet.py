"""judge/nnunet.py on files that nnU-Net wrote: files/README.md says how."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.judge.arguments import Told, parse_source
from pipeline.judge.formats import Scores, read_scores
from pipeline.study.errors import UserError

FILES = Path(__file__).parent / "files" / "nnunet"
TINY, LONGER = "nnUNetTrainerTiny__nnUNetPlans__2d", "nnUNetTrainerTinyLonger__nnUNetPlans__2d"
FIRST, SECOND = FILES / "first", FILES / "second"
ONE, TWO = FILES / "one_class", FILES / "two_classes"
DISCS = [f"disc_{number:03}" for number in range(10)]


def runs(scores: Scores) -> dict[tuple[str, int], list[str]]:
    """Of each run its cases, sorted."""
    found = scores.table.groupby(["variant", "seed"], sort=False)["case"]
    return {(str(key[0]), int(key[1])): sorted(cases) for key, cases in found}


def per_case(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["metric_per_case"]


def dice(scores: Scores, variant: str, seed: int) -> dict[str, float]:
    own = scores.table[(scores.table["variant"] == variant) & (scores.table["seed"] == seed)]
    return dict(zip(own["case"], own["Dice"], strict=True))


def test_one_foreground_class_needs_no_label():
    scores = read_scores([ONE / "unet" / "summary.json", ONE / "attention" / "summary.json"])
    assert scores.kind == "nnU-Net's summary.json"
    assert scores.metrics == ["Dice", "IoU"]
    cases = [f"case_{number:03}" for number in range(6)]
    assert runs(scores) == {("unet", 0): cases, ("attention", 0): cases}
    for variant in ("unet", "attention"):
        assert dice(scores, variant, 0) == {
            Path(case["reference_file"]).stem: case["metrics"]["1"]["Dice"]
            for case in per_case(ONE / variant / "summary.json")
        }
    assert scores.notes == ["Variants are named after the folders that the files lie in."]


def test_a_models_folder_is_its_folds_put_together():
    scores = read_scores([FIRST / TINY, FIRST / LONGER])
    assert runs(scores) == {(TINY, 0): DISCS, (LONGER, 0): DISCS}
    whole = FIRST / TINY / "crossval_results_folds_0_1_2_3_4" / "summary.json"
    assert dice(scores, TINY, 0) == dice(read_scores([whole]), TINY, 0)
    assert scores.notes[1] == (
        f"{TINY}: files of one seed that have no case in common are its folds, put together."
    )
    assert scores.table["Dice"].between(0.5, 1).all()


def test_the_same_cases_again_are_another_seed():
    folds = [
        folder / TINY / f"fold_{fold}" / "validation" / "summary.json"
        for fold in range(5)
        for folder in (FIRST, SECOND)
    ]
    mixed = [folds[0], folds[1], folds[3], folds[2], *folds[4:]]
    for paths in (folds, mixed, [FIRST / TINY, SECOND / TINY]):
        scores = read_scores(paths)
        assert runs(scores) == {(TINY, 0): DISCS, (TINY, 1): DISCS}
        assert dice(scores, TINY, 0) == dice(read_scores([FIRST / TINY]), TINY, 0)
        assert dice(scores, TINY, 1) == dice(read_scores([SECOND / TINY]), TINY, 0)
        assert scores.notes[1].startswith(
            f"{TINY}: the same cases are scored 2 times; these were taken for seeds, in the order "
            f"given (seed 0 from {FIRST / TINY}/fold_0/"
        )


def test_names_and_seeds_beside_the_path_come_first():
    scores = read_scores(
        [
            parse_source(f"tiny/7={FIRST / TINY}"),
            parse_source(f"tiny/3={SECOND / TINY}"),
            parse_source(f"longer={FIRST / LONGER}"),
        ]
    )
    assert runs(scores) == {("tiny", 3): DISCS, ("tiny", 7): DISCS, ("longer", 0): DISCS}
    assert dice(scores, "tiny", 7) == dice(read_scores([FIRST / TINY]), TINY, 0)
    assert not any("named after" in note for note in scores.notes)
    mixed = [parse_source(f"tiny/0={FIRST / TINY}"), parse_source(f"tiny={SECOND / TINY}")]
    assert list(runs(read_scores(mixed))) == [("tiny", 0), ("tiny", 1)]


def test_a_case_in_two_files_of_one_seed_is_refused():
    sources = [parse_source(f"tiny/0={folder / TINY}") for folder in (FIRST, SECOND)]
    with pytest.raises(UserError, match=r"case 'disc_000' of tiny, seed 0, is in .*first.*, too; "):
        read_scores(sources)


def test_a_summary_of_all_folds_is_no_seed_beside_them():
    whole = FIRST / TINY / "crossval_results_folds_0_1_2_3_4"
    for paths in (
        [FIRST / TINY, whole / "summary.json"],
        [whole / "postprocessed" / "summary.json", FIRST / TINY],
        [whole / "summary.json", whole / "postprocessed" / "summary.json"],
    ):
        with pytest.raises(UserError, match=f"are both of {TINY}, and no folder fold_<n> or seed_"):
            read_scores(paths)
    named = [
        parse_source(f"raw={whole / 'summary.json'}"),
        parse_source(f"post={whole / 'postprocessed' / 'summary.json'}"),
    ]
    assert list(runs(read_scores(named))) == [("raw", 0), ("post", 0)]


def test_one_run_named_twice_as_a_seed_is_told(tmp_path):
    shutil.copytree(FIRST / TINY, tmp_path / TINY)
    scores = read_scores([FIRST / TINY, tmp_path / TINY])
    assert scores.notes[-1] == (
        f"{TINY}: seeds 0 and 1 have the same numbers; one run that is named twice tells nothing "
        "of seeds."
    )


def test_each_of_several_classes_is_a_metric():
    scores = read_scores([TWO / "unet", TWO / "attention"])
    assert scores.metrics == [
        "Dice (label 1)", "IoU (label 1)", "Dice (label 2)", "IoU (label 2)",
    ]  # fmt: skip
    found = per_case(TWO / "attention" / "summary.json")
    own = scores.table[scores.table["variant"] == "attention"]
    expected = [case["metrics"]["2"]["IoU"] for case in found]
    np.testing.assert_array_equal(own["IoU (label 2)"], expected)
    assert np.isnan(expected[4])
    assert scores.notes[1:] == [
        "2 of 12 values of Dice (label 2) are missing or not finite.",
        "2 of 12 values of IoU (label 2) are missing or not finite.",
    ]


def test_the_background_is_left_out():
    scores = read_scores([TWO / "unet" / "with_background.json"])
    assert scores.metrics == read_scores([TWO / "unet"]).metrics
    assert "Label 0, the background, was left out." in scores.notes


def test_a_region_is_named_by_its_labels():
    assert read_scores([TWO / "unet" / "regions.json"]).metrics == [
        "Dice (labels 1, 2)", "IoU (labels 1, 2)", "Dice (label 2)", "IoU (label 2)",
    ]  # fmt: skip


def changed(folder: Path, change: Any) -> Path:
    """The file of one class and ten cases, changed."""
    content = json.loads((ONE / "unet" / "summary.json").read_text())
    change(content["metric_per_case"])
    path = folder / "summary.json"
    path.write_text(json.dumps(content))
    return path


def test_another_single_label_is_told(tmp_path):
    def relabel(cases: list[dict[str, Any]]) -> None:
        for case in cases:
            case["metrics"] = {"2": case["metrics"]["1"]}

    scores = read_scores([changed(tmp_path, relabel)])
    assert scores.metrics == ["Dice", "IoU"]
    assert "Label 2 was read, the only one." in scores.notes


def test_what_was_trained_on_its_cases_is_told(tmp_path):
    path = tmp_path / "unet" / "fold_all" / "validation" / "summary.json"
    path.parent.mkdir(parents=True)
    shutil.copy(ONE / "unet" / "summary.json", path)
    scores = read_scores([path])
    assert list(runs(scores)) == [("unet", 0)]
    assert f"{path} scores the cases that its network was trained on (fold_all)." in scores.notes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda cases: cases.clear(), "metric_per_case: .*at least 1 item"),
        (lambda cases: cases[2].pop("reference_file"), "metric_per_case.2.reference_file: field"),
        (lambda cases: cases[1]["metrics"].clear(), "metric_per_case.1.metrics: .*at least 1"),
        (
            lambda cases: cases[1]["metrics"]["1"].update(Dice="good"),
            "metric_per_case.1.metrics.1.Dice: input should be a valid number, got 'good'",
        ),
        (lambda cases: cases[1]["metrics"].update({"2": {}}), "has the labels 1, 2, and the first"),
        (lambda cases: cases[1]["metrics"]["1"].pop("IoU"), "or other metrics of them; evaluate"),
        (lambda cases: cases.append(cases[3]), "case 'case_003' stands in it twice"),
        (
            lambda cases: [case["metrics"].update({"1": {"TP": 1}}) for case in cases],
            "has counts of pixels and no metric such as Dice",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, change, told):
    with pytest.raises(UserError, match=told) as refused:
        read_scores([changed(tmp_path, change)])
    assert str(refused.value).startswith(str(tmp_path / "summary.json"))
    assert "\n" not in str(refused.value)


def test_files_with_other_labels_do_not_go_together():
    with pytest.raises(UserError, match=r"has the labels 1, and the first case of .* 1, 2, or"):
        read_scores([TWO / "unet", ONE / "attention"])


@pytest.mark.parametrize("value", [None, float("inf"), float("nan")])
def test_null_and_infinity_are_missing_values_too(tmp_path, value):
    path = changed(tmp_path, lambda cases: cases[0]["metrics"]["1"].update(Dice=value))
    scores = read_scores([parse_source(f"unet={path}")])
    assert np.isnan(scores.table["Dice"][0])
    assert scores.notes == ["1 of 6 values of Dice is missing or not finite."]


def test_a_file_whose_folders_name_nothing_needs_a_name(monkeypatch):
    nothing = Told("", 3, None, Path("/"))
    monkeypatch.setattr("pipeline.judge.assembly.told_by_folders", lambda file: nothing)
    path = ONE / "unet" / "summary.json"
    with pytest.raises(UserError, match="no folder above it names its method; name it: NAME="):
        read_scores([path])
    assert list(runs(read_scores([parse_source(f"unet={path}")]))) == [("unet", 3)]

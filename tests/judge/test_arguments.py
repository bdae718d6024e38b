"""judge/arguments.py: names beside paths, files in folders, what folders' names tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.judge.arguments import Source, find_files, parse_source, told_by_folders
from pipeline.study.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*paths: str) -> list[Path]:
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return [Path(path) for path in paths]


@pytest.mark.parametrize(
    ("argument", "variant", "seed", "path"),
    [
        ("a.csv", None, None, "a.csv"),
        ("unet=a.csv", "unet", None, "a.csv"),
        ("unet/3=a.csv", "unet", 3, "a.csv"),
        ("my net/0=b/a.csv", "my net", 0, "b/a.csv"),
        ("a/b/1=a.csv", "a/b", 1, "a.csv"),
        ("un\net=a.csv", "un\\net", None, "a.csv"),
    ],
)
def test_an_argument_is_a_path_or_a_name_and_a_path(argument, variant, seed, path):
    assert parse_source(argument) == Source(variant, seed, Path(path))


def test_an_equals_sign_in_a_path_is_the_paths():
    make("lr=0.1/a.csv")
    assert parse_source("lr=0.1/a.csv") == Source(None, None, Path("lr=0.1/a.csv"))
    assert parse_source("unet=lr=0.1/a.csv") == Source("unet", None, Path("lr=0.1/a.csv"))
    assert parse_source("x=1=lr=0.1/a.csv") == Source("x=1", None, Path("lr=0.1/a.csv"))


@pytest.mark.parametrize("argument", ["=a.csv", "unet=", " /0=a.csv"])
def test_half_an_argument_is_refused(argument):
    with pytest.raises(UserError, match="must be path, NAME=path or NAME/SEED=path"):
        parse_source(argument)


@pytest.mark.parametrize("seed", ["one", "-1", "1.5", "4294967296", ""])
def test_a_seed_beside_a_path_must_be_a_whole_number(seed):
    with pytest.raises(UserError, match="must be a whole number from 0 to 4294967295"):
        parse_source(f"unet/{seed}=a.csv")


def test_a_folders_files_are_found():
    make("a/summary.json")
    folds = make(*(f"b/fold_{fold}/validation/summary.json" for fold in (0, 1, 2, 10)))
    make("b/fold_all/validation/summary.json", "b/crossval_results_folds_0_1/summary.json")
    raw = make("c/mean_dice_raw.csv", "c/hausdorff_raw.csv")
    make("c/metrics.csv", "c/mean_dice_summary.csv")
    make("study/reports/results.json", "study/reports/summary.json")

    def found(name: str) -> list[Path]:
        return [source.path for source in find_files([Source("x", 1, Path(name))])]

    assert found("a") == [Path("a/summary.json")]
    assert found("b") == folds
    assert found("c") == sorted(raw)
    assert found("study") == found("study/reports") == [Path("study/reports/results.json")]
    assert {source[:2] for source in find_files([Source("x", 1, Path("b"))])} == {("x", 1)}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["a/notes.txt"], "a is a folder without results.json, summary.json, "),
        (["a/summary.json", "a/dice_raw.csv"], "a holds summary.json and .*_raw.csv: name"),
        (
            ["a/fold_0/validation/summary.json", "a/fold_1/debug.json"],
            "a/fold_1/validation/summary.json is missing, of other folds it is there",
        ),
    ],
)
def test_a_folder_that_may_be_read_in_two_ways_is_refused(files, told):
    make(*files)
    with pytest.raises(UserError, match=told):
        find_files([Path("a")])


def test_a_file_named_twice_is_refused(folder):
    make("a.csv")
    with pytest.raises(UserError, match=r"a\.csv is named twice"):
        find_files([Path("a.csv"), Source("b", None, folder / "a.csv")])
    with pytest.raises(UserError, match="no table is named"):
        find_files([])


@pytest.mark.parametrize(
    ("path", "variant", "seed", "fold", "below"),
    [
        ("a/unet/summary.json", "unet", None, None, "a/unet"),
        ("a/nnT__P__2d/fold_3/validation/summary.json", "nnT__P__2d", None, "3", "a/nnT__P__2d"),
        ("T/crossval_results_folds_0_1/postprocessed/summary.json", "T", None, None, "T"),
        ("unet/seed_2/fold_0/x_raw.csv", "unet", 2, "0", "unet"),
        ("unet/seed_2/run5/fold_1/fold_0/x_raw.csv", "unet", 5, "0", "unet"),
        ("unet/run3/x_raw.csv", "unet", 3, None, "unet"),
        ("unet-seed7/metrics/x_raw.csv", "unet", 7, None, "unet-seed7"),
        ("unet_seed7/seed1/x_raw.csv", "unet_seed7", 1, None, "unet_seed7"),
        ("attention/fold_all/Predictions/summary.json", "attention", None, "all", "attention"),
    ],
)
def test_folders_tell_variant_seed_and_fold(folder, path, variant, seed, fold, below):
    assert told_by_folders(Path(path)) == (variant, seed, fold, folder / below)


def test_where_no_folder_is_left_none_names_the_variant():
    assert told_by_folders(Path("/summary.json")).variant == ""
    assert told_by_folders(Path("/test/fold_0/summary.json"))[:3] == ("", None, "0")

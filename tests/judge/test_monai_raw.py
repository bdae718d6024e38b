"""judge/monai_raw.py: files that MONAI itself writes here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.handlers.utils import write_metrics_reports
from monai.metrics.meandice import DiceMetric

from pipeline.judge.formats import Scores, parse_source, read_scores
from pipeline.study.errors import UserError

# MONAI takes the mean of a case that has no class.
pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice")
IMAGES = [f"data/imagesTr/case_{number:03}.nii.gz" for number in range(3)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dice(classes: int, seed: int = 0, *, cases: int = 3) -> torch.Tensor:
    """(case, class) of random masks; the second case has no last class."""
    generator = torch.Generator().manual_seed(seed)
    truth, prediction = torch.rand(2, cases, classes, 8, 8, generator=generator) > 0.5
    truth[1:2, -1] = False
    found = DiceMetric(include_background=True)(prediction.float(), truth.float())
    assert isinstance(found, torch.Tensor)
    return found


def write(folder: str, images: Sequence[str] | None = IMAGES, **details: torch.Tensor) -> Path:
    """What MetricsSaver leaves at the end of an epoch."""
    write_metrics_reports(
        save_dir=folder,
        images=None if images is None else list(images),
        metrics={name: found.nanmean().item() for name, found in details.items()},
        metric_details=details,
        summary_ops="*",
    )
    return Path(folder)


def rows(scores: Scores) -> list[tuple]:
    return list(scores.table.itertuples(index=False, name=None))


def test_a_metric_of_one_class_has_its_files_name():
    found = dice(1)
    scores = read_scores([write("unet", val_mean_dice=found)])
    assert scores.kind == "MONAI's raw metrics"
    assert scores.metrics == ["val_mean_dice"]
    assert [row[:3] for row in rows(scores)] == [
        ("unet", 0, "case_000"), ("unet", 0, "case_001"), ("unet", 0, "case_002"),
    ]  # fmt: skip
    np.testing.assert_allclose(scores.table["val_mean_dice"], found[:, 0], rtol=1e-6)
    assert scores.notes == [
        "Variants are named after the folders that the files lie in.",
        "1 of 3 values of val_mean_dice is missing or not finite.",
    ]


def test_each_class_is_a_metric_and_so_is_their_mean():
    found = dice(3)
    scores = read_scores([parse_source(f"new/4={write('unet', mean_dice=found)}")])
    names = ["class0", "class1", "class2", "mean"]
    assert scores.metrics == [f"mean_dice ({name})" for name in names]
    expected = np.column_stack([found, found.nanmean(dim=1)])
    np.testing.assert_allclose(scores.table[scores.metrics], expected, rtol=1e-6)
    assert scores.table[["variant", "seed"]].drop_duplicates().to_numpy().tolist() == [["new", 4]]
    assert scores.notes == [
        "mean_dice is of 3 classes; the file does not tell whether class0 is the background.",
        "1 of 3 values of mean_dice (class2) is missing or not finite.",
    ]


def test_the_files_of_a_folder_are_metrics_of_one_run():
    one, other = dice(1, 1), dice(1, 2)
    write("unet", mean_dice=one, hausdorff=other)
    write("new", list(reversed(IMAGES)), hausdorff=other, mean_dice=one)
    scores = read_scores([Path("unet"), Path("new")])
    assert scores.metrics == ["hausdorff", "mean_dice"]
    np.testing.assert_allclose(scores.table["mean_dice"][:3], one[:, 0], rtol=1e-6)
    assert scores.table["case"].tolist()[3:] == ["case_002", "case_001", "case_000"]
    np.testing.assert_allclose(scores.table["hausdorff"][3:], other[:, 0], rtol=1e-6)
    write("new", IMAGES[:2], hausdorff=other[:2])
    with pytest.raises(UserError, match="metrics of one run, and case 'case_002' is in one"):
        read_scores([Path("new")])
    write("short", hausdorff=other)
    with pytest.raises(UserError, match=r"hausdorff_raw\.csv has the metrics hausdorff, and "):
        read_scores([Path("unet"), Path("short")])


def test_folders_tell_folds_and_seeds():
    for seed in (0, 1):
        for fold, images in enumerate((IMAGES[:2], IMAGES[2:])):
            write(f"unet/seed_{seed}/fold_{fold}", images, d=dice(1, seed, cases=len(images)))
    scores = read_scores(sorted(Path("unet").glob("*/*")))
    assert [row[:3] for row in rows(scores)] == [
        ("unet", seed, f"case_{case:03}") for seed in (0, 1) for case in range(3)
    ]


def test_without_file_names_a_case_is_told_by_its_place():
    scores = read_scores([write("unet", None, d=dice(1))])
    assert scores.table["case"].tolist() == ["0", "1", "2"]
    assert "unet/d_raw.csv numbers its cases: each is told by its place alone." in scores.notes


def test_folders_name_cases_whose_files_have_one_name():
    images = [f"/data/patient{number}/image.nii.gz" for number in range(3)]
    found = read_scores([write("unet", images, d=dice(1))]).table["case"].tolist()
    assert found == ["patient0/image", "patient1/image", "patient2/image"]


def test_what_follows_a_point_may_be_part_of_a_name():
    images = ["C:\\data\\1.2.840.1.nii.gz", "C:\\data\\1.2.840.2", "C:\\data\\1.2.840.3.PNG"]
    found = read_scores([write("unet", images, d=dice(1))]).table["case"].tolist()
    assert found == ["1.2.840.1", "1.2.840.2", "1.2.840.3"]


def test_a_case_twice_is_refused():
    with pytest.raises(UserError, match=r"d_raw\.csv: case 'case_000' stands in it twice"):
        read_scores([write("unet", [IMAGES[0], IMAGES[1], IMAGES[0]], d=dice(1))])


def test_a_name_that_is_no_metrics_is_refused():
    write("unet", d=dice(1)).joinpath("d_raw.csv").rename("unet/seed_raw.csv")
    with pytest.raises(UserError, match="a metric has its file's name, got 'seed'; rename"):
        read_scores([Path("unet/seed_raw.csv")])


def test_its_summaries_are_of_no_known_format():
    write("unet", d=dice(1))
    for name in ("d_summary.csv", "metrics.csv"):
        with pytest.raises(UserError, match=rf"unet/{name} is of no known format: its first line"):
            read_scores([Path("unet", name)])

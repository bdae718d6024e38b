"""tracking/thumbnails.py: pictures of a run's best, median and worst case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import make_study
from numpy.typing import NDArray
from PIL import Image

from pipeline.study.errors import UserError
from pipeline.study.params import Run, Study
from pipeline.tracking.thumbnails import CAPTION, LONGEST, draw_thumbnails, thumbnail_files

RUN = Run("unet", 0, 0)
GREYS = {"a": 60, "b": 90, "c": 120, "d": 150, "e": 180}  # of each test case's picture
NAMES = ["best.jpg", "median.jpg", "worst.jpg"]


def draw(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A grey of its own, and the mask's left half, but for a rim, as the lesion."""
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:16] = 1
    grey = list(GREYS.values())[max(0, index - 3)]  # three cases are not of the test
    return np.full((32, 32, 3), grey, np.uint8), mask


@pytest.fixture
def study(tmp_path) -> Study:
    made = make_study(tmp_path, variants=["unet"], seeds=[0], test_ids=list(GREYS), draw=draw)
    found = np.zeros((5, 32, 32), np.uint8)
    found[:, 8:24, 16:24] = 1  # the right half
    folder = made.evaluation_dir(*RUN)
    np.save(folder / "predictions.npy", np.packbits(found, axis=-1))
    cases = pd.read_csv(folder / "cases.csv")
    cases.assign(dice=[0.3, 0.9, 0.5, 0.1, 0.5]).to_csv(folder / "cases.csv", index=False)
    return made


def drawn(study: Study, folder: Path) -> dict[str, NDArray[np.int64]]:
    folder.mkdir()
    draw_thumbnails(study, RUN, folder)
    files = sorted(folder.iterdir())
    assert all(path.stat().st_size < 100_000 for path in files)
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in files}


def test_the_best_the_median_and_the_worst_case_are_shown(study, tmp_path):
    pictures = drawn(study, tmp_path / "drawn")
    assert list(pictures) == NAMES == thumbnail_files(study, RUN)
    shown = [round(picture[5, 5].mean()) for picture in pictures.values()]
    assert shown == pytest.approx([GREYS["b"], GREYS["c"], GREYS["d"]], abs=3)


def test_a_picture_has_the_originals_proportion_and_both_borders(study, tmp_path):
    picture = drawn(study, tmp_path / "drawn")["median.jpg"]
    height, width = LONGEST * 3 // 4, LONGEST  # 96 x 128 pixels were stretched to 32 x 32
    assert picture.shape == (height + CAPTION, width, 3)
    # Along the row in the middle: the true border at a quarter, the predicted at three quarters.
    row = picture[height // 2]
    white, cyan = row.min(axis=1) > 200, (row[:, 2] > 180) & (row[:, 0] < 80)
    assert np.flatnonzero(white).min() == pytest.approx(width / 4, abs=4)
    assert np.flatnonzero(cyan).max() == pytest.approx(width * 3 / 4, abs=4)
    assert not white[width * 5 // 8 :].any()
    assert not cyan[: width * 3 // 8].any()
    assert (picture[height:] > 200).all(axis=-1).any()  # the caption


def test_a_run_that_is_not_evaluated_has_none(study, tmp_path):
    (study.evaluation_dir(*RUN) / "predictions.npy").unlink()
    assert thumbnail_files(study, RUN) == []
    assert drawn(study, tmp_path / "drawn") == {}


@pytest.mark.parametrize("file", ["predictions.npy", "cases.csv"])
def test_an_evaluation_of_other_cases_is_told(study, tmp_path, file):
    path = study.evaluation_dir(*RUN) / file
    if file == "cases.csv":
        pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    else:
        np.save(path, np.load(path)[1:])
    with pytest.raises(UserError, match=f"{file}.* run the stage evaluate"):
        draw_thumbnails(study, RUN, tmp_path)

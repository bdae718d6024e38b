"""evaluation/native.py: probabilities at the original's size, against scipy, round trips and the
challenge's own scorer."""

from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest
import torch
from conftest import change_params
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates
from test_metrics import challenge_score

from models import build_model
from pipeline.data.geometry import lay_mask, place
from pipeline.engine.overlap import COUNTS, confusion, dice
from pipeline.engine.prepared import PreparedCases
from pipeline.evaluate import evaluate
from pipeline.evaluation import native
from pipeline.evaluation.native import (
    NativeScorer,
    TooLongError,
    count,
    lay_back,
    lay_back_volume,
)
from pipeline.evaluation.surface import DISTANCES
from pipeline.study.errors import UserError

RESIZES = ("stretch", "center_crop", "pad")
ORIGINALS = ((767, 1022), (450, 600), (301, 200), (96, 128), (50, 400), (64, 64))
PREPARED = (96, 128)


def drawn(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(PREPARED, np.float32)


def written_out(probabilities, original, resize):
    """Bilinear by scipy, from where the edges of what is shown lie."""
    placement = place(original, probabilities.shape, resize)
    left, top, right, bottom = placement.box
    y, x = np.arange(original[0]) + 0.5, np.arange(original[1]) + 0.5
    rows = (y - top) / (bottom - top) * placement.height - 0.5
    columns = (x - left) / (right - left) * placement.width - 0.5
    # What lies beyond the last centre takes its value, from inside of the padding.
    rows = placement.top + np.clip(rows, 0, placement.height - 1)
    columns = placement.left + np.clip(columns, 0, placement.width - 1)
    places = np.meshgrid(rows, columns, indexing="ij")
    laid = map_coordinates(probabilities.astype(np.float64), places, order=1)
    seen = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    return np.where(seen, laid, 0)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("original", ORIGINALS)
def test_laying_back_is_bilinear_interpolation_within_what_was_shown(original, resize):
    laid = lay_back(drawn(), original, resize)
    assert laid.dtype == np.float32
    assert laid.shape == original
    np.testing.assert_allclose(laid, written_out(drawn(), original, resize), atol=1e-4)


@pytest.mark.parametrize("resize", RESIZES)
def test_probabilities_at_the_original_size_come_back_unchanged(resize):
    np.testing.assert_allclose(lay_back(drawn(), PREPARED, resize), drawn(), atol=1e-6)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("original", [(767, 1022), (1022, 767), (500, 500)])
def test_a_mask_prepared_and_laid_back_is_the_mask_that_was_shown(original, resize):
    y, x = np.mgrid[: original[0], : original[1]]
    mask = np.hypot(y - original[0] / 2, 1.3 * (x - original[1] / 2.2)) < 0.3 * min(original)
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    prepared = lay_mask(picture, place(original, PREPARED, resize))
    laid = lay_back(prepared.astype(np.float32), original, resize) > 0.5
    assert dice(counted(laid, mask)) > 0.985


def test_what_a_crop_left_out_is_background_and_padding_is_dropped():
    everywhere = np.ones(PREPARED, np.float32)
    assert lay_back(everywhere, (96, 256), "center_crop").sum() == 96 * 128
    assert lay_back(everywhere, (96, 256), "center_crop")[:, 64:192].all()
    padded = np.zeros(PREPARED, np.float32)
    padded[24:72] = 1
    assert lay_back(padded, (96, 256), "pad").all()


@pytest.fixture
def raw_study(tiny_study, tmp_path):
    """tiny_study with raw and prepared cases of its own."""
    data = tiny_study.folder / "data"
    shared = data.resolve()
    data.unlink()
    shutil.copytree(shared, data)
    shutil.copytree(tiny_study.raw_dir, tmp_path / "raw")
    return change_params(data={"raw": str(tmp_path / "raw")})


@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_every_batch_is_counted_in_order_by_the_studys_threshold_and_resize(raw_study, resize):
    study = change_params(prepare={"resize": resize}, evaluate={"threshold": 0.3})
    rows = PreparedCases.open(study.prepared_dir).table
    said = np.random.default_rng(0).random((len(rows), 32, 64), np.float32)
    scorer = NativeScorer(study)
    for start in range(0, len(rows), 5):  # 30 cases: more batches than may wait
        scorer.submit(said[start : start + 5], rows[start : start + 5])
    table = scorer.collect()

    raw = study.raw_dir.glob("*_GroundTruth/*_segmentation.png")
    masks = {path.stem.removesuffix("_segmentation"): np.asarray(Image.open(path)) for path in raw}
    expected = [
        counted(lay_back(own, (48, 64), resize) > 0.3, masks[id] > 0)[0]
        for own, id in zip(said, rows["id"], strict=True)
    ]
    np.testing.assert_array_equal(table[list(COUNTS)], expected)
    assert not set(DISTANCES) & set(table)  # in which unit?


def test_a_probability_of_the_threshold_itself_is_no_lesion(raw_study):
    study = change_params(evaluate={"threshold": 0.5})  # a ReLU head's least probability is 0.5
    rows = PreparedCases.open(study.prepared_dir).table[:1]
    scorer = NativeScorer(study)
    scorer.submit(np.full((1, 32, 64), 0.5, np.float32), rows)
    (counts,) = scorer.collect()[list(COUNTS)].to_numpy()
    true_positives, false_positives, false_negatives, true_negatives = counts
    assert (true_positives, false_positives) == (0, 0)
    assert false_negatives + true_negatives == 48 * 64


def test_a_case_too_long_to_be_laid_back_is_named_and_what_to_set(raw_study, monkeypatch):
    monkeypatch.setattr(native, "LONGEST", 63)
    rows = PreparedCases.open(raw_study.prepared_dir).table[:1]
    scorer = NativeScorer(raw_study)
    scorer.submit(np.zeros((1, 32, 64), np.float32), rows)
    told = rf"^{rows['id'][0]} is longer than .*, or set evaluate\.resolution to network$"
    with pytest.raises(UserError, match=told):
        scorer.collect()


@pytest.mark.slow
def test_native_scores_are_the_challenges_own_of_masks_at_the_originals_size(raw_study, tmp_path):
    rows = PreparedCases.open(raw_study.prepared_dir).table.query("split == 'test'")
    said = np.random.default_rng(0).random((len(rows), 32, 64), np.float32)
    scorer = NativeScorer(raw_study)
    scorer.submit(said[:4], rows[:4])
    scorer.submit(said[4:], rows[4:])
    scores = scorer.collect()

    folder = raw_study.raw_dir / "ISIC2018_Task1_Test_GroundTruth"
    masks = [np.asarray(Image.open(folder / f"{id}_segmentation.png")) > 0 for id in rows["id"]]
    assert {mask.shape for mask in masks} == {(48, 64)}
    laid = [lay_back(probabilities, (48, 64), "stretch") > 0.5 for probabilities in said]
    told = challenge_score(tmp_path, np.stack(laid), np.stack(masks))
    for name, expected in told.items():
        assert scores[name].mean() == pytest.approx(expected, abs=1e-12)


def test_a_mask_that_is_gone_changed_or_broken_is_named(raw_study):
    rows = PreparedCases.open(raw_study.prepared_dir).table.query("split == 'test'")
    said = np.zeros((len(rows), 32, 64), np.float32)
    id = rows["id"].iloc[1]
    path = raw_study.prepared_dir / "native_masks.zip"
    with zipfile.ZipFile(path) as archive:
        masks = {name: archive.read(name) for name in archive.namelist()}

    def refused(told: str, change: dict[str, bytes]) -> None:
        path.unlink()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in change.items():
                archive.writestr(name, content)
        scorer = NativeScorer(raw_study)
        scorer.submit(said, rows)
        with pytest.raises(UserError, match=told):
            scorer.collect()

    other = masks[rows["id"].iloc[0]]
    refused(f"no usable mask of {id} .its sha256 is not that of cases.csv", masks | {id: other})
    del masks[id]
    refused(f"no usable mask of {id} .* run the stage preprocess again, or set", masks)
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"native_masks\.zip is missing or unusable"):
        NativeScorer(raw_study)


def test_the_masks_are_the_raw_files_so_that_the_raw_cases_are_not_wanted(raw_study):
    with zipfile.ZipFile(raw_study.prepared_dir / "native_masks.zip") as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
    files = raw_study.raw_dir.glob("*_GroundTruth/*.png")
    assert kept == {path.stem.removesuffix("_segmentation"): path.read_bytes() for path in files}


def test_an_original_longer_than_can_be_laid_back_to_is_named():
    with pytest.raises(TooLongError, match="is longer than 32766 pixels"):
        lay_back(np.zeros((2, 2), np.float32), (1, 32_767), "stretch")
    assert lay_back(np.ones((2, 2), np.float32), (1, 32_766), "stretch").all()


@pytest.mark.slow
@pytest.mark.parametrize("resolution", ["network", "native"])
def test_nothing_is_read_from_the_raw_folder(raw_study, resolution):
    shutil.rmtree(raw_study.raw_dir)
    study = change_params(evaluate={"resolution": resolution})
    cases = PreparedCases.open(study.prepared_dir)
    table = evaluate(build_model(study.models["gated_attention"]).eval(), cases, study).table
    native = [name for name in table if name.startswith("native_")]
    assert bool(native) == (resolution == "native")


def test_counts_at_any_size_are_those_of_the_network_size():
    rng = np.random.default_rng(0)
    predicted, mask = rng.random((2, 7, 9)) < 0.4
    assert count(predicted, mask).tolist() == counted(predicted, mask)[0].tolist()


def counted(predicted: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return confusion(torch.from_numpy(predicted)[None], torch.from_numpy(mask)[None])


@pytest.mark.parametrize("original", [(12, 40, 48), (3, 5, 7), (8, 32, 32)])
def test_volumes_are_laid_back_linearly_between_the_centres_of_voxels(original):
    prepared = np.random.default_rng(0).random((8, 32, 32), np.float32)
    places = [
        (np.arange(new) + 0.5) * old / new - 0.5
        for old, new in zip(prepared.shape, original, strict=True)
    ]
    grid = np.meshgrid(*places, indexing="ij")
    expected = map_coordinates(prepared, grid, order=1, mode="nearest")
    np.testing.assert_allclose(lay_back_volume(prepared, original), expected, atol=1e-5)

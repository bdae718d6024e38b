"""pipeline/preprocess.py: raw cases as arrays, against Pillow; what stops it or is left out."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import zoom

from pipeline import preprocess
from pipeline.data import duplicates, sources
from pipeline.data.raw import RawCase, find_cases
from pipeline.data.synthetic import draw_case
from pipeline.engine.prepared import PreparedCases
from pipeline.preprocess import prepare_cases
from pipeline.study.cores import usable_cores
from pipeline.study.errors import UserError
from pipeline.study.files import write_json
from pipeline.study.params import Study
from pipeline.study.reading import load_study

Pixels = NDArray[np.uint8]
OFFICIAL = {"method": "official"}
RANDOM = {"method": "random", "seed": 0, "training": 0.5, "validation": 0.25, "test": 0.25}


def study_in(
    folder: Path,
    *,
    height: int = 32,
    width: int = 64,
    split: Any = OFFICIAL,
    on_problem: str = "stop",
    resize: str = "stretch",
) -> Study:
    """The folder as a study of the cases in its raw/."""
    folder.mkdir(exist_ok=True)
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params["data"] = {"source": "directory", "raw": "raw", "on_problem": on_problem}
    params["prepare"] |= {"height": height, "width": width, "split": split, "resize": resize}
    (folder / "data").mkdir(exist_ok=True)
    source = {"source": "directory", "licence": "own", "archives": []}
    (folder / "data" / "source.json").write_text(json.dumps(source))
    params["train"]["optimizer"]["learning_rate"] = 0.001
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return load_study(folder)


def draw(number: int, height: int = 50, width: int = 70) -> tuple[Pixels, Pixels]:
    """Smooth colours (height, width, 3), and a block of a mask (height, width) in {0, 255}."""
    rng = np.random.default_rng(number)
    colours = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2 + number, width // 4 : width // 2 + number] = 255
    return np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC)), mask


def add_case(raw: Path, split: str, id: str, image: Any, mask: Any) -> RawCase:
    """Write the arrays, or whatever Pillow images are given, as one case of the official layout."""
    paths = (
        raw / f"ISIC2018_Task1-2_{split}_Input" / f"{id}.png",
        raw / f"ISIC2018_Task1_{split}_GroundTruth" / f"{id}_segmentation.png",
    )
    for path, pixels in zip(paths, (image, mask), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        picture.save(path)
    return RawCase(id, None, *paths)


def add_three_cases(raw: Path) -> None:
    """One for each split, ids against the order of the splits."""
    for number, split in enumerate(["Test", "Validation", "Training"]):
        add_case(raw, split, f"case{number}", *draw(number))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


VOLUME = {"near_duplicates": None, "depth": 8, "foreground": "nonzero"}
SPACING = (2.5, 0.5, 1.0)  # millimetres of depth, height and width


def study_of_volumes(folder: Path, on_problem: str = "stop", **prepare: Any) -> Study:
    """The folder as a study of the volumes in its raw/images and raw/masks."""
    study_in(folder, split=RANDOM, on_problem=on_problem, width=32)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["prepare"] |= VOLUME | prepare
    for model in params["models"].values():
        model["dimensions"] = 3
        model["depth_halvings"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return load_study(folder)


def draw_volumes(number: int, shape: tuple[int, int, int] = (12, 40, 48)) -> tuple[Any, Any]:
    """Intensities (D, H, W) of a slope with noise, and a block of labels 1 and 2."""
    rng = np.random.default_rng(number)
    image = 1000 + np.add.outer(np.add.outer(*map(np.arange, shape[:2])), np.arange(shape[2]))
    mask = np.zeros(shape, np.uint8)
    mask[2:9, 10:30, 8:24], mask[2:9, 10:30, 24:40] = 1, 2
    return image + rng.normal(0, 5, shape), mask


def add_volumes(raw: Path, id: str, image: Any, mask: Any, shift: float = 0.0) -> None:
    """One case, saved with its axes in the order and direction of a common scanner (LPS).

    shift: millimetres that the mask's affine is off.
    """
    turned = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    for name, voxels, off in (("images", image, 0.0), ("masks", mask, shift)):
        affine = turned.copy()
        affine[:3, 3] = [off, 7.0, 3.0]
        (raw / name).mkdir(parents=True, exist_ok=True)
        stored = np.ascontiguousarray(voxels.transpose()[::-1, ::-1])
        nibabel.save(nibabel.Nifti1Image(stored, affine), raw / name / f"{id}.nii.gz")


def test_volumes_are_prepared_upright_in_grey_and_their_spacing_is_kept(tmp_path):
    drawn = {f"case{number}": draw_volumes(number) for number in range(4)}
    for id, volumes in drawn.items():
        add_volumes(tmp_path / "raw", id, *volumes)
    study = study_of_volumes(tmp_path)
    prepare_cases(study, tmp_path / "prepared")
    cases = PreparedCases.open(tmp_path / "prepared")
    assert (cases.images.shape, cases.images.dtype) == ((4, 8, 32, 32, 1), np.uint8)
    assert (cases.masks.shape, cases.masks.dtype) == ((4, 8, 32, 32), np.uint8)
    assert cases.table["id"].tolist() == sorted(drawn)
    sizes = cases.table[["depth", "height", "width", "depth_mm", "height_mm", "width_mm"]]
    assert sizes.to_numpy().tolist() == [[12, 40, 48, *SPACING]] * 4
    lesions = [np.count_nonzero(mask) * np.prod(SPACING) / 1000 for _, mask in drawn.values()]
    assert cases.table["lesion_ml"].tolist() == pytest.approx(lesions)
    for place, (image, mask) in enumerate(drawn.values()):
        low, high = np.percentile(image, (0.5, 99.5))
        grey = np.clip((image - low) / (high - low), 0, 1) * 255
        resized = zoom(
            grey, np.divide((8, 32, 32), image.shape), order=1, grid_mode=True, mode="nearest"
        )
        assert np.abs(cases.images[place, ..., 0] - resized).mean() < 3
        assert cases.masks[place].mean() == pytest.approx((mask > 0).mean(), abs=0.03)
    with ZipFile(tmp_path / "prepared" / "native_masks.zip") as masks:
        whole = (tmp_path / "raw" / "masks" / "case2.nii.gz").read_bytes()
        assert masks.read("case2") == whole


def test_only_labels_of_the_foreground_are_lesion(tmp_path):
    for number in range(4):
        add_volumes(tmp_path / "raw", f"case{number}", *draw_volumes(number))
    whole, part = (
        prepare_cases(study_of_volumes(tmp_path, foreground=wanted), tmp_path / f"prepared{place}")
        for place, wanted in enumerate(("nonzero", [2]))
    )
    assert (part.masks <= whole.masks).all()
    assert part.masks.sum() == pytest.approx(whole.masks.sum() / 2, rel=0.1)


def test_every_volume_that_cannot_be_used_is_told_at_once(tmp_path):
    raw = tmp_path / "raw"
    image, mask = draw_volumes(0)
    for number in range(4):
        add_volumes(raw, f"good{number}", *draw_volumes(number))
    add_volumes(raw, "apart", image, mask, shift=4.0)
    add_volumes(raw, "empty", image, np.zeros_like(mask))
    add_volumes(raw, "full", image, np.ones_like(mask))
    add_volumes(raw, "half", image, mask * 0.5)
    add_volumes(raw, "larger", image, draw_volumes(0, (13, 40, 48))[1])
    add_volumes(raw, "nan", np.where(mask > 0, np.nan, image), mask)
    add_volumes(raw, "series", np.stack([image, image], axis=-1).transpose(3, 0, 1, 2), mask)
    speck = np.zeros((24, 80, 96), np.uint8)
    speck[5, 30, 20] = 1
    add_volumes(raw, "speck", draw_volumes(0, speck.shape)[0], speck)
    for number, id in enumerate(("good1", "twin")):  # compressed at two times
        file = raw / "images" / f"{id}.nii.gz"
        add_volumes(raw, id, *draw_volumes(1))
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), mtime=number))
    cut = raw / "images" / "cut.nii.gz"
    add_volumes(raw, "cut", image, mask)
    cut.write_bytes(cut.read_bytes()[:-2000])
    (raw / "images" / "picture.png").touch()
    add_volumes(raw, "overlaid", *draw_volumes(9))
    packed = raw / "images" / "overlaid.nii.gz"
    whole = bytearray(gzip.decompress(packed.read_bytes()))
    whole[108:112] = np.float32(348).tobytes()  # where the header says that voxels begin
    packed.with_suffix("").write_bytes(whole)
    packed.unlink()
    told = {
        "masks/apart.nii.gz": "must lie where its image lies, its corners are up to 4 mm apart",
        "masks/empty.nii.gz": "has no label other than 0",
        "masks/full.nii.gz": "has nothing but labels other than 0",
        "masks/half.nii.gz": "must hold whole numbers as labels, got 0.5",
        "masks/larger.nii.gz": "must have its image's size, 48x40x12, got 48x40x13",
        "images/overlaid.nii": "cannot be decoded, it may be cut short: its voxels begin at",
        "images/nan.nii.gz": "must hold numbers, got NaN or infinity in 4,480 voxels",
        "images/series.nii.gz": "must be one volume of three axes, got",
        "masks/speck.nii.gz": "holds no lesion at 32x32x8 voxels after resize: stretch; lesion "
        "in the original: 1 of 184320",
        "images/twin.nii.gz": f"has the voxels of {raw}/images/good1.nii.gz: one volume",
        "images/cut.nii.gz": "cannot be decoded, it may be cut short",
        "images/picture.png": "must be a volume that ends in .nii, .nii.gz, got a file that ends",
    }
    with pytest.raises(UserError) as error:
        prepare_cases(study_of_volumes(tmp_path), tmp_path / "prepared")
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{len(told)} files cannot be used")
    for file, words in told.items():
        assert any(f"{raw}/{file}: {words}" in line for line in lines), (file, lines)
    kept = prepare_cases(study_of_volumes(tmp_path, on_problem="skip"), tmp_path / "skipped")
    assert kept.table["id"].tolist() == ["good0", "good1", "good2", "good3"]


def test_volumes_in_a_study_of_pictures_are_told_with_the_key_that_takes_them(tmp_path):
    add_volumes(tmp_path / "raw", "case", *draw_volumes(0))
    told = "case.nii.gz: must be a picture that ends in .*, or set prepare.depth: then cases are"
    with pytest.raises(UserError, match=told):
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"resize": "pad"}, "prepare.resize must be stretch with a prepare.depth, got 'pad'"),
        ({"foreground": None}, "prepare.foreground must be nonzero or a list of labels with"),
        ({"foreground": []}, "prepare.foreground must be nonzero or a list of labels such as"),
        ({"foreground": [0]}, "prepare.foreground must be nonzero or a list of labels such as"),
        ({"depth": 0}, "prepare.depth must be a whole number from 1 to 16384 of volumes, null of"),
        ({"depth": None}, "prepare.foreground must be null with prepare.depth null, got 'nonzero'"),
        (
            {"near_duplicates": {"hash_distance": 1, "min_inliers": 9, "min_correlation": 0.1}},
            "prepare.near_duplicates must be null with a prepare.depth, got",
        ),
    ],
)
def test_what_does_not_suit_volumes_is_told_with_its_key(tmp_path, changes, told):
    with pytest.raises(UserError, match=re.escape(told)):
        study_of_volumes(tmp_path, **changes)


@pytest.mark.slow
def test_prepared_arrays_and_table_hold_every_case_by_id(tmp_path):
    add_three_cases(tmp_path / "raw")
    prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    cases = PreparedCases.open(tmp_path / "prepared")
    assert (cases.images.shape, cases.images.dtype) == ((3, 32, 64, 3), np.uint8)
    assert (cases.masks.shape, cases.masks.dtype) == ((3, 32, 64), np.uint8)
    assert set(np.unique(cases.masks)) == {0, 1}
    assert cases.table.columns.tolist() == [
        "id",
        "split",
        "height",
        "width",
        "image_sha256",
        "mask_sha256",
        "group",
    ]
    assert (
        cases.table["id"].tolist() == cases.table["group"].tolist() == ["case0", "case1", "case2"]
    )
    assert cases.table["height"].tolist() == [50] * 3
    assert cases.table["width"].tolist() == [70] * 3


@pytest.mark.slow
def test_each_row_of_the_arrays_is_its_case_resized(tmp_path):
    add_three_cases(tmp_path / "raw")
    prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    cases = PreparedCases.open(tmp_path / "prepared")
    for number in range(3):
        image, mask = draw(number)
        expected = Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(cases.images[number], np.asarray(expected))
        shrunk = Image.fromarray(mask).resize((64, 32), Image.Resampling.BOX)
        np.testing.assert_array_equal(cases.masks[number], np.asarray(shrunk) >= 128)


def test_checksums_in_the_table_are_those_of_the_raw_files(tmp_path):
    add_three_cases(tmp_path / "raw")
    cases = prepare_cases(study_in(tmp_path), tmp_path / "prepared").table
    for kind, pattern in (("image", "*_Input/{}.png"), ("mask", "*_GroundTruth/{}_*.png")):
        for id, found in zip(cases["id"], cases[f"{kind}_sha256"], strict=True):
            (path,) = (tmp_path / "raw").glob(pattern.format(id))
            assert found == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_manifest_lists_every_raw_file_by_case(tmp_path):
    add_three_cases(tmp_path / "raw")
    prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    files = [path for path in (tmp_path / "raw").rglob("*") if path.is_file()]
    files.sort(key=lambda path: path.stem)  # case0, case0_segmentation, case1, ...
    assert table(tmp_path / "prepared" / "manifest.csv") == [
        {
            "path": path.relative_to(tmp_path / "raw").as_posix(),
            "bytes": str(path.stat().st_size),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]


def test_the_official_split_is_the_folders(tmp_path):
    add_three_cases(tmp_path / "raw")
    cases = prepare_cases(study_in(tmp_path), tmp_path / "prepared").table
    assert cases["split"].tolist() == ["test", "validation", "training"]


@pytest.mark.slow
def test_preparing_again_gives_the_same_fingerprint_and_another_pixel_another(tmp_path):
    add_three_cases(tmp_path / "raw")
    study = study_in(tmp_path)
    for name in ("one", "two"):
        prepare_cases(study, tmp_path / name)
    image, mask = draw(0)
    image = image.copy()
    image[0, 0] ^= 255
    add_case(tmp_path / "raw", "Test", "case0", image, mask)
    prepare_cases(study, tmp_path / "three")
    one, two, three = (
        PreparedCases.open(tmp_path / name).fingerprint for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three


@pytest.mark.slow
def test_the_number_of_processes_changes_no_byte(tmp_path, monkeypatch):
    for number in range(20):
        add_case(tmp_path / "raw", "Training", f"case{number:02d}", *draw(number))
    study = study_in(tmp_path, split=RANDOM)
    for processes in (1, 3):
        monkeypatch.setattr(preprocess, "usable_cores", lambda n=processes: n)
        prepare_cases(study, tmp_path / str(processes))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_the_official_split_without_test_cases_is_refused_before_anything_is_decoded(tmp_path):
    add_case(tmp_path / "raw", "Training", "a", *draw(0))
    add_case(tmp_path / "raw", "Validation", "b", *draw(1))
    with pytest.raises(UserError, match=r"got cases: 1 training, 1 validation, 0 test$"):
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_folder_without_cases_is_told_with_what_it_should_hold(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError) as error:
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    assert str(error.value) == (
        f"{tmp_path}/raw holds no cases: expected the folders of the official archives, or "
        "images/ and masks/"
    )


def spoil(raw: Path) -> list[str]:
    """Four cases more, three of which cannot be used; the three sentences that tell so."""
    image, mask = draw(3)
    cut = add_case(raw, "Training", "cut", image, mask).image
    cut.write_bytes(cut.read_bytes()[:1000])
    maskless = add_case(raw, "Training", "maskless", image, mask)
    maskless.mask.unlink()
    blank = add_case(raw, "Training", "blank", *draw(4)).mask
    Image.fromarray(0 * mask).save(blank)
    add_case(raw, "Training", "grey", draw(5)[0][..., 0], mask)
    return [
        f"{blank}: holds no lesion: all of its pixels are 0",
        f"{cut}: cannot be decoded, it may be cut short: image file is truncated",
        f"{maskless.image}: has no mask in {maskless.mask.parent}",
    ]


def test_stop_tells_every_file_that_cannot_be_used_at_once(tmp_path):
    add_three_cases(tmp_path / "raw")
    problems = spoil(tmp_path / "raw")
    with pytest.raises(UserError) as error:
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    first, *lines = [line.strip() for line in str(error.value).splitlines()]
    assert first == (
        "3 files cannot be used; mend or remove them, then run dvc repro --force preprocess; "
        "or leave their cases out with "
        "data.on_problem: skip"
    )
    assert sorted(lines) == sorted(problems)


def test_skip_leaves_them_out_and_lists_them(tmp_path):
    add_three_cases(tmp_path / "raw")
    spoil(tmp_path / "raw")
    cases = prepare_cases(study_in(tmp_path, on_problem="skip"), tmp_path / "prepared")
    assert cases.table["id"].tolist() == ["case0", "case1", "case2", "grey"]
    assert len(cases.images) == len(cases.masks) == 4
    image = Image.fromarray(draw(5)[0][..., 0]).resize((64, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(cases.images[3], np.stack([image] * 3, axis=-1))
    problems = table(tmp_path / "prepared" / "card" / "problems.csv")
    assert {(row["id"], row["defect"], row["outcome"]) for row in problems} == {
        ("blank", "empty mask", "left out"),
        ("cut", "cannot be decoded", "left out"),
        ("maskless", "missing mask", "left out"),
        ("grey", "grayscale", "converted"),
    }
    card = json.loads((tmp_path / "prepared" / "card" / "card.json").read_text())
    assert card["cases"] == 4
    assert card["cases_left_out"] == 3
    assert card["problems"]["converted"] == {"grayscale": 1}
    manifest = {row["path"] for row in table(tmp_path / "prepared" / "manifest.csv")}
    assert "ISIC2018_Task1-2_Training_Input/cut.png" in manifest


def test_a_formula_in_a_files_name_is_no_formula_in_the_list_of_problems(tmp_path):
    add_three_cases(tmp_path / "raw")
    folder = tmp_path / "raw" / "ISIC2018_Task1-2_Training_Input"
    for name in ('=HYPERLINK("x").png', "+1+1.png"):
        shutil.copy(next(folder.glob("case*.*")), folder / name)
    prepare_cases(study_in(tmp_path, on_problem="skip"), tmp_path / "prepared")
    problems = table(tmp_path / "prepared" / "card" / "problems.csv")
    assert {row["id"] for row in problems} == {'\'=HYPERLINK("x")', "'+1+1"}


def test_skip_with_no_case_left_stops(tmp_path):
    for number, split in enumerate(["Test", "Validation", "Training"]):
        add_case(tmp_path / "raw", split, f"case{number}", draw(number)[0], 0 * draw(0)[1])
    with pytest.raises(UserError, match=r"3 files cannot be used"):
        prepare_cases(study_in(tmp_path, on_problem="skip"), tmp_path / "prepared")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resize", "place", "defect"),
    [
        ("center_crop", (slice(0, 40), slice(0, 20)), "empty mask"),
        ("center_crop", (slice(0, 40), slice(30, 100)), "full mask"),
        ("stretch", (slice(5, 6), slice(7, 8)), "empty mask"),
    ],
)
def test_a_lesion_lost_in_the_preparation_is_told(tmp_path, resize, place, defect):
    add_three_cases(tmp_path / "raw")
    mask = np.zeros((40, 120), np.uint8)
    mask[place] = 255
    add_case(tmp_path / "raw", "Training", "lost", draw(3, 40, 120)[0], mask)
    study = study_in(tmp_path, height=32, width=32, resize=resize)
    made = rf"at 32x32 pixels after resize: {resize}; lesion in .*: {(mask > 0).sum()} of 4800"
    with pytest.raises(UserError, match=rf"lost_segmentation\.png: holds .* {made}"):
        prepare_cases(study, tmp_path / "prepared")
    study = study_in(tmp_path, height=32, width=32, resize=resize, on_problem="skip")
    assert len(prepare_cases(study, tmp_path / "skipped").table) == 3
    (problem,) = table(tmp_path / "skipped" / "card" / "problems.csv")
    assert (problem["id"], problem["defect"]) == ("lost", defect)


def test_used_and_left_out_cases_are_all_ids_there_are(tmp_path):
    raw = tmp_path / "raw"
    add_three_cases(raw)
    spoil(raw)
    stray = raw / "ISIC2018_Task1-2_Test_Input"
    (stray / "Thumbs.db").write_bytes(b"0")
    (stray / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"0")
    (stray / "twice.jpg").write_bytes(b"0")
    (stray / "twice.png").write_bytes(b"0")
    cases = prepare_cases(study_in(tmp_path, on_problem="skip"), tmp_path / "prepared")
    card = json.loads((tmp_path / "prepared" / "card" / "card.json").read_text())
    assert len(cases.table) == card["cases"] == 4
    assert card["cases_left_out"] == 5  # three spoilt, twice, caf\xe9


def test_a_split_emptied_by_skip_names_the_files_that_emptied_it(tmp_path):
    add_three_cases(tmp_path / "raw")
    broken = next((tmp_path / "raw").glob("*Validation_Input/*"))
    broken.write_bytes(b"")
    with pytest.raises(UserError) as error:
        prepare_cases(study_in(tmp_path, on_problem="skip"), tmp_path / "prepared")
    assert "got cases: 1 training, 0 validation, 1 test; 1 file could not be used" in str(
        error.value
    )
    assert f"{broken}: is empty (0 bytes)" in str(error.value)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_its_processes_end_when_it_is_killed(tmp_path, monkeypatch, number):
    add_three_cases(tmp_path / "raw")
    study = study_in(tmp_path)
    cases, _ = find_cases(study.raw_dir)
    told = tmp_path / "told"
    told.mkdir()

    def wait(case: RawCase, _: object) -> None:
        (told / str(os.getpid())).touch()
        signal.pause()

    def decode() -> None:
        monkeypatch.setattr(preprocess, "CHUNK", 1)
        monkeypatch.setattr(preprocess, "decode_case", wait)
        list(preprocess.decode_all(cases, study.prepare))

    process = multiprocessing.get_context("fork").Process(target=decode)
    process.start()
    wanted = min(len(cases), usable_cores())
    until(lambda: len(list(told.iterdir())) == wanted)
    os.kill(process.pid, number)
    process.join()
    until(lambda: not any(runs(child.name) for child in told.iterdir()))


def runs(pid: str) -> bool:
    """Whether the process runs; one that nobody asked for its status does not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_that_is_killed_ends_the_stage_with_one_error(tmp_path, monkeypatch):
    add_three_cases(tmp_path / "raw")
    monkeypatch.setattr(preprocess, "decode_case", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="a process was ended from outside"):
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")


def test_where_one_process_cannot_be_started_none_is_left(tiny_study, monkeypatch):
    """The command would wait for it for ever."""
    fork, started = os.fork, []

    def forked() -> int:
        if started:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(fork())
        return started[0]

    monkeypatch.setattr("os.fork", forked)
    monkeypatch.setattr(preprocess, "usable_cores", lambda: 2)
    cases, _ = find_cases(tiny_study.raw_dir)
    with pytest.raises(BlockingIOError):
        list(preprocess.decode_all(cases, tiny_study.prepare))
    for process in multiprocessing.active_children():
        process.join(10)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("raw", ["data/prepared", "data/prepared/raw", "data", "."])
def test_raw_cases_that_the_outputs_would_replace_are_refused(tmp_path, monkeypatch, raw):
    study_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / raw / "images").mkdir(parents=True)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["data"]["raw"] = raw
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"data\.raw must lie beside data/prepared"):
        preprocess.main()
    assert (tmp_path / raw / "images").is_dir()


@pytest.mark.slow
def test_thirty_folds_are_prepared(tmp_path):
    for number in range(30):
        add_case(tmp_path / "raw", "Training", f"case{number:02d}", *draw(number, 120, 160))
    study = study_in(tmp_path, split={"method": "folds", "k": 30, "seed": 0})
    assert set(prepare_cases(study, tmp_path / "prepared").counts().values()) == {1}


def test_one_photograph_under_two_ids_is_found_whatever_its_mask(tmp_path):
    add_three_cases(tmp_path / "raw")
    again = add_case(tmp_path / "raw", "Training", "later", draw(0)[0], draw(9)[1])
    with pytest.raises(UserError, match=r"later\.png: has the bytes of .*case0\.png: one photo"):
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    cases = prepare_cases(study_in(tmp_path, on_problem="skip"), tmp_path / "skipped")
    assert cases.table["id"].tolist() == ["case0", "case1", "case2"]
    assert again.image.is_file()


@pytest.mark.slow
def test_folds_are_written_with_the_cases_and_told_by_fold(tmp_path):
    for number in range(6):
        add_case(tmp_path / "raw", "Training", f"case{number}", *draw(number))
    study = study_in(tmp_path, split={"method": "folds", "k": 3, "seed": 0})
    cases = prepare_cases(study, tmp_path / "prepared")
    assert "split" not in cases.table
    assert cases.counts() == {"fold 0": 2, "fold 1": 2, "fold 2": 2}
    tested = []
    for fold in range(3):
        of_fold = PreparedCases.open(tmp_path / "prepared", fold)
        sets = [set(of_fold.indices(split)) for split in ("training", "validation", "test")]
        assert [len(places) for places in sets] == [2, 2, 2]
        assert set.union(*sets) == set(range(6))
        tested += of_fold.indices("test").tolist()
    assert sorted(tested) == list(range(6))


@pytest.mark.slow
def test_near_duplicates_share_a_group_and_are_shown_or_are_not_looked_for(tmp_path):
    """Cases 0 and 1 are one drawn lesion in two colour balances, in training and test."""
    lesions = [draw_case(1, index, height=192, width=256) for index in (0, 0, 1, 2)]
    paler = np.rint(lesions[1][0] * [0.9, 1.0, 0.8]).astype(np.uint8)
    lesions[1] = (paler, lesions[1][1])
    for number, (image, mask) in enumerate(lesions):
        split = ["Training", "Test", "Validation", "Training"][number]
        add_case(tmp_path / "raw", split, f"case{number}", image, mask * 255)
    cases = prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    assert cases.table["group"].tolist() == ["case0", "case0", "case2", "case3"]
    card = tmp_path / "prepared" / "card"
    (pair,) = table(card / "near_duplicates.csv")
    assert (pair["id"], pair["other_id"], pair["across"]) == ("case0", "case1", "True")
    assert json.loads((card / "card.json").read_text())["near_duplicates"] == {
        "pairs": 1,
        "groups": 1,
        "cases": 2,
        "pairs_across_splits": 1,
        "test_cases_with_one_elsewhere": 1,
    }
    assert (card / "near_duplicates.png").is_file()
    split = {"method": "random", "seed": 0, "training": 0.34, "validation": 0.33, "test": 0.33}
    assert (
        prepare_cases(study_in(tmp_path, split=split), tmp_path / "two").table["split"][0]
        == (PreparedCases.open(tmp_path / "two").table["split"][1])
    )
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["prepare"]["near_duplicates"] = None
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    cases = prepare_cases(load_study(tmp_path), tmp_path / "three")
    assert cases.table["group"].tolist() == cases.table["id"].tolist()
    card = tmp_path / "three" / "card"
    assert json.loads((card / "card.json").read_text())["near_duplicates"] is None


def change_groups(study: Study, groups: Any, **prepare: Any) -> Study:
    """The study with those `rows` of image_id and lesion_id as its known groups."""
    text = "".join(f"{id},{lesion}\n" for id, lesion in [("image_id", "lesion_id"), *groups])
    (study.folder / "lesions.csv").write_text(text)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    block = {"file": "lesions.csv", "sha256": checksum, "id": "image_id", "column": "lesion_id"}
    params = yaml.safe_load((study.folder / "params.yaml").read_text())
    params["prepare"] |= {"groups": block, **prepare}
    (study.folder / "params.yaml").write_text(yaml.safe_dump(params))
    return load_study(study.folder)


def test_a_known_group_is_never_divided_by_a_random_split_and_is_told_where_it_is(tmp_path):
    for number in range(12):
        split = "Test" if number % 4 == 0 else "Validation" if number == 6 else "Training"
        add_case(tmp_path / "raw", split, f"case{number:02d}", *draw(number))
    # Four photographs of each of three lesions, but for one that the file does not name and one
    # whose cell is empty. A group's name is no case's, even where one is called so.
    lesions = [(f"case{n:02d}", f"case{n % 3 + 7:02d}") for n in range(11)]
    lesions[10] = ("case10", "")
    study = change_groups(study_in(tmp_path), [*lesions, ("other", "L9")], near_duplicates=None)
    cases = prepare_cases(study, tmp_path / "official")
    expected = [f"case{n % 3:02d}" for n in range(10)] + ["case10", "case11"]
    assert cases.table["group"].tolist() == expected
    card = tmp_path / "official" / "card"
    facts = json.loads((card / "card.json").read_text())
    assert facts["near_duplicates"] is None
    assert facts["known_groups"] == {
        "groups": 3,
        "cases": 10,
        "cases_without_group": 2,
        "groups_divided": 3,
        "test_cases_with_one_elsewhere": 3,
    }
    divided = table(card / "divided_groups.csv")
    assert [(row["group"], row["id"]) for row in divided] == [
        (f"case{n % 3 + 7:02d}", f"case{n:02d}") for n in (0, 3, 6, 9, 1, 4, 7, 2, 5, 8)
    ]
    assert [row["split"] for row in divided if row["group"] == "case07"] == [
        "test", "training", "validation", "training"
    ]  # fmt: skip
    study = change_groups(study, lesions, split=RANDOM)
    for name in ("split", "fold"):
        cases = prepare_cases(study, tmp_path / name)
        assert cases.table["group"].tolist() == expected
        assert (cases.table.groupby("group")[name].nunique() == 1).all()
        facts = json.loads((tmp_path / name / "card" / "card.json").read_text())
        assert facts["known_groups"]["groups_divided"] == 0
        assert table(tmp_path / name / "card" / "divided_groups.csv") == []
        study = change_groups(study, lesions, split={"method": "folds", "k": 3, "seed": 0})


def test_known_groups_and_near_duplicates_join_and_are_counted_apart(tmp_path, monkeypatch):
    add_three_cases(tmp_path / "raw")
    add_case(tmp_path / "raw", "Training", "case3", *draw(3))
    pair = duplicates.Pair(1, 2, 0, 9, 1.0)
    monkeypatch.setattr(duplicates, "find", lambda *_, **__: [pair])
    study = change_groups(study_in(tmp_path), [("case0", "L1"), ("case2", "L1")])
    cases = prepare_cases(study, tmp_path / "prepared")
    assert cases.table["group"].tolist() == ["case0", "case0", "case0", "case3"]
    facts = json.loads((tmp_path / "prepared" / "card" / "card.json").read_text())
    near, known = facts["near_duplicates"], facts["known_groups"]
    assert (near["pairs"], near["groups"], near["cases"]) == (1, 1, 2)
    assert (known["groups"], known["cases"], known["cases_without_group"]) == (1, 2, 2)


def test_groups_of_cases_left_out_are_counted_without_them(tmp_path):
    add_three_cases(tmp_path / "raw")
    spoil(tmp_path / "raw")
    rows = [("case0", "L1"), ("cut", "L1"), ("maskless", "L1"), ("case1", "=L2"), ("grey", "=L2")]
    study = change_groups(study_in(tmp_path, on_problem="skip"), rows)
    cases = prepare_cases(study, tmp_path / "prepared")
    assert cases.table["group"].tolist() == ["case0", "case1", "case2", "case1"]
    facts = json.loads((tmp_path / "prepared" / "card" / "card.json").read_text())
    assert facts["known_groups"] == {
        "groups": 1,
        "cases": 2,
        "cases_without_group": 1,
        "groups_divided": 1,
        "test_cases_with_one_elsewhere": 0,
    }
    divided = table(tmp_path / "prepared" / "card" / "divided_groups.csv")
    assert {row["group"] for row in divided} == {"'=L2"}  # no formula


def test_a_file_of_groups_may_name_cases_alone_that_cannot_be_used(tmp_path):
    add_three_cases(tmp_path / "raw")
    spoil(tmp_path / "raw")
    study = change_groups(study_in(tmp_path, on_problem="skip"), [("maskless", "L1")])
    cases = prepare_cases(study, tmp_path / "prepared")
    assert cases.table["group"].tolist() == cases.table["id"].tolist()


def test_a_file_of_groups_with_a_mistake_is_told_before_anything_is_decoded(tmp_path):
    add_three_cases(tmp_path / "raw")
    study = change_groups(study_in(tmp_path), [("case9", "L1")])
    with pytest.raises(UserError, match=r"lesions\.csv: must name raw cases such as case0 in the"):
        prepare_cases(study, tmp_path / "prepared")
    rows = [(f"case{number}", "L1") for number in range(3)]
    study = change_groups(study, rows, split={"method": "folds", "k": 3, "seed": 0})
    with pytest.raises(UserError, match="got 3 folds for 1 group of cases"):
        prepare_cases(study, tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_copy_that_dvc_made_for_an_experiment_finds_the_files_where_it_was_copied_from(tmp_path):
    add_three_cases(tmp_path / "raw")
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "one"
    copy.mkdir(parents=True)
    study = change_groups(study_in(copy), [("case0", "L1"), ("case1", "L1")])
    shutil.move(copy / "lesions.csv", tmp_path)
    split: dict[str, Any] = {"method": "lists"}
    for number, name in enumerate(["training", "validation", "test"]):
        (tmp_path / f"{name}.txt").write_text(f"case{number}\n")
        checksum = hashlib.sha256(f"case{number}\n".encode()).hexdigest()
        split[name] = {"file": f"{name}.txt", "sha256": checksum}
    params = yaml.safe_load((copy / "params.yaml").read_text())
    params["prepare"]["split"] = split
    (copy / "params.yaml").write_text(yaml.safe_dump(params))
    cases = prepare_cases(load_study(copy), tmp_path / "prepared")
    assert cases.table["group"].tolist() == ["case0", "case0", "case2"]
    assert study.raw_dir == tmp_path / "raw"


def test_without_known_groups_nothing_is_said_of_them(tmp_path):
    add_three_cases(tmp_path / "raw")
    prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    card = tmp_path / "prepared" / "card"
    assert json.loads((card / "card.json").read_text())["known_groups"] is None
    assert not (card / "divided_groups.csv").exists()


@pytest.mark.slow
def test_lists_prepare_the_listed_cases_alone(tmp_path):
    split: dict[str, Any] = {"method": "lists"}
    for number, name in enumerate(["training", "validation", "test"]):
        add_case(tmp_path / "raw", "Training", f"case{number}", *draw(number))
        (tmp_path / f"{name}.txt").write_text(f"case{number}\n")
        checksum = hashlib.sha256(f"case{number}\n".encode()).hexdigest()
        split[name] = {"file": f"{name}.txt", "sha256": checksum}
    add_case(tmp_path / "raw", "Training", "unlisted", *draw(7))
    cases = prepare_cases(study_in(tmp_path, split=split), tmp_path / "prepared")
    assert cases.table["id"].tolist() == ["case0", "case1", "case2"]
    assert cases.table["split"].tolist() == ["training", "validation", "test"]


@pytest.mark.parametrize("resize", ["center_crop", "pad"])
def test_the_resize_asked_for_is_made(tmp_path, resize):
    add_three_cases(tmp_path / "raw")
    study = study_in(tmp_path, height=32, width=32, resize=resize)
    cases = prepare_cases(study, tmp_path / "prepared")
    image = Image.fromarray(draw(0)[0])  # 70 x 50
    if resize == "center_crop":
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, (10, 0, 60, 50)))
    else:
        expected = np.zeros((32, 32, 3), np.uint8)
        expected[4:27] = np.asarray(image.resize((32, 23), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(cases.images[0], expected)


@pytest.mark.slow
def test_a_failed_stage_leaves_the_old_prepared_cases_as_they_were(tmp_path, monkeypatch, capsys):
    add_three_cases(tmp_path / "raw")
    study = study_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_json(study.source_file, sources.describe(study))
    preprocess.main()
    assert capsys.readouterr().out == (
        "preprocess: 3 cases (1 training, 1 validation, 1 test) in data/prepared\n"
    )
    before = contents(Path("data/prepared"))
    broken = Path("raw/ISIC2018_Task1-2_Test_Input/case0.png")
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match="not those that the stage download found"):
        preprocess.main()
    write_json(study.source_file, sources.describe(study))
    with pytest.raises(UserError, match=r"case0\.png"):
        preprocess.main()
    assert contents(Path("data/prepared")) == before
    assert {path.name for path in Path("data").iterdir()} == {
        "manifest.csv",
        "prepared",
        "source.json",
    }


@pytest.mark.slow
def test_real_cases_are_prepared(tmp_path, real_cases):
    raw = tmp_path / "raw"
    folders = ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth")
    ids = sorted(path.stem for path in (real_cases / folders[0]).glob("*.jpg"))[:20]
    for folder, ending in zip(folders, (".jpg", "_segmentation.png"), strict=True):
        (raw / folder).mkdir(parents=True)
        for id in ids:
            (raw / folder / f"{id}{ending}").symlink_to(real_cases / folder / f"{id}{ending}")
    study = study_in(tmp_path, height=96, width=128, split=RANDOM)
    cases = prepare_cases(study, tmp_path / "prepared")
    assert cases.table["id"].tolist() == ids
    assert cases.table["split"].value_counts().to_dict() == {
        "training": 10,
        "validation": 5,
        "test": 5,
    }
    for index, id in enumerate(ids):
        original = Image.open(real_cases / folders[0] / f"{id}.jpg")
        row = cases.table.loc[index]
        assert (row["width"], row["height"]) == original.size
        expected = np.asarray(original.resize((128, 96), Image.Resampling.BILINEAR), dtype=float)
        assert np.abs(cases.images[index] - expected).mean() < 1
        mask = np.asarray(Image.open(real_cases / folders[1] / f"{id}_segmentation.png"))
        assert cases.masks[index].mean() == pytest.approx((mask == 255).mean(), abs=0.005)

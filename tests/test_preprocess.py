"""pipeline/preprocess.py: raw cases as arrays, against Pillow and arithmetic; bad ones told."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY
from numpy.typing import NDArray
from PIL import Image

from pipeline import preprocess
from pipeline.errors import UserError
from pipeline.params import OfficialSplit, RandomSplit, Study, load_study
from pipeline.prepared import PreparedCases
from pipeline.preprocess import assign_splits, decode_case, prepare_cases, shrink_mask
from pipeline.raw import RawCase

Pixels = NDArray[np.uint8]
OFFICIAL = {"method": "official"}
RANDOM = {"method": "random", "seed": 0, "training": 0.5, "validation": 0.25, "test": 0.25}


def study_in(folder: Path, *, height: int = 32, width: int = 64, split: Any = OFFICIAL) -> Study:
    """The folder as a study of the cases in its raw/."""
    folder.mkdir(exist_ok=True)
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params["data"] = {"source": "directory", "raw": "raw"}
    params["prepare"] = {"height": height, "width": width, "split": split}
    params["train"]["learning_rate"] = 0.001
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
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def test_each_row_of_the_arrays_is_its_case_resized(tmp_path):
    add_three_cases(tmp_path / "raw")
    prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    cases = PreparedCases.open(tmp_path / "prepared")
    for number in range(3):
        image, mask = draw(number)
        expected = Image.fromarray(image).resize((64, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(cases.images[number], np.asarray(expected))
        np.testing.assert_array_equal(
            cases.masks[number], shrink_mask(mask > 0, height=32, width=64)
        )


def test_checksums_in_the_table_are_those_of_the_raw_files(tmp_path):
    add_three_cases(tmp_path / "raw")
    table = prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    for kind, pattern in (("image", "*_Input/{}.png"), ("mask", "*_GroundTruth/{}_*.png")):
        for id, found in zip(table["id"], table[f"{kind}_sha256"], strict=True):
            (path,) = (tmp_path / "raw").glob(pattern.format(id))
            assert found == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_official_split_is_the_folders(tmp_path):
    add_three_cases(tmp_path / "raw")
    table = prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    assert table["split"].tolist() == ["test", "validation", "training"]


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


def test_the_number_of_processes_changes_no_byte(tmp_path, monkeypatch):
    for number in range(20):
        add_case(tmp_path / "raw", "Training", f"case{number:02d}", *draw(number))
    study = study_in(tmp_path, split=RANDOM)
    for processes in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=processes: set(range(n)))
        prepare_cases(study, tmp_path / str(processes))
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


@pytest.fixture(scope="module")
def large_jpeg(tmp_path_factory: pytest.TempPathFactory) -> RawCase:
    """A JPEG of 3 megapixels with structure from broad to fine, as a camera's."""
    rng = np.random.default_rng(0)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(
                (2048, 1536), Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        for cells in (4, 30, 250)
    ]
    image = (0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8)
    folder = tmp_path_factory.mktemp("large")
    case = RawCase("large", None, folder / "large.jpg", folder / "large.png")
    Image.fromarray(image).save(case.image, quality=92)
    Image.fromarray(np.zeros((1536, 2048), np.uint8)).save(case.mask)
    return case


@pytest.mark.parametrize(("height", "width"), [(256, 256), (192, 256), (96, 128)])
def test_a_large_jpeg_is_within_a_grey_level_of_the_full_decode(large_jpeg, height, width):
    decoded = decode_case(large_jpeg, height=height, width=width)
    assert decoded.problems == []
    assert decoded.original_size == (1536, 2048)
    full = Image.open(large_jpeg.image).resize((width, height), Image.Resampling.BILINEAR)
    difference = np.abs(decoded.image.astype(float) - np.asarray(full, dtype=float))
    assert difference.mean() < 1


def test_a_mask_reduced_by_two_is_lesion_where_two_of_four_pixels_are():
    blocks = list(itertools.product([False, True], repeat=4))
    mask = np.concatenate([np.reshape(block, (2, 2)) for block in blocks], axis=1)
    small = shrink_mask(mask, height=1, width=16)
    assert small.tolist() == [[int(sum(block) >= 2) for block in blocks]]


def area_average(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.float64]:
    """The share of each pixel (height, width) that is lesion, from the overlaps of the edges."""

    def overlaps(large: int, small: int) -> NDArray[np.float64]:
        """(small, large): the share of each small pixel that each large one covers."""
        starts, large_starts = np.arange(small)[:, None] * large / small, np.arange(large)
        ends = np.minimum(large_starts + 1, starts + large / small)
        return np.clip(ends - np.maximum(large_starts, starts), 0, None) * small / large

    return overlaps(mask.shape[0], height) @ mask @ overlaps(mask.shape[1], width).T


@pytest.mark.parametrize(("height", "width"), [(32, 48), (32, 16), (16, 16), (96, 144)])
def test_a_mask_reduced_by_whole_factors_is_the_area_average_with_a_threshold(height, width):
    mask = np.random.default_rng(0).random((96, 144)) < 0.5
    area = area_average(mask, height, width)
    clear = np.abs(area - 0.5) > 1.5 / 255  # the average is rounded to grey levels, twice
    assert clear.mean() > 0.6
    small = shrink_mask(mask, height=height, width=width)
    np.testing.assert_array_equal(small[clear], (area > 0.5)[clear])


def test_a_mask_reduced_from_isics_commonest_size_keeps_its_shape_and_area():
    y, x = np.mgrid[:767, :1022]
    mask = np.hypot(y - 383, 0.7 * (x - 500)) < 250
    small = shrink_mask(mask, height=256, width=256)
    assert (small != (area_average(mask, 256, 256) >= 0.5)).mean() < 0.0015
    assert small.mean() == pytest.approx(mask.mean(), rel=0.003)


def test_a_mask_at_its_own_size_is_unchanged():
    mask = np.random.default_rng(0).random((32, 64)) < 0.5
    np.testing.assert_array_equal(shrink_mask(mask, height=32, width=64), mask)


@pytest.mark.parametrize("lesion", [1, 255])
def test_masks_of_0_and_1_and_of_0_and_255_are_the_same(tmp_path, lesion):
    image, mask = draw(0, 32, 64)
    case = add_case(tmp_path, "Training", "a", image, mask // 255 * lesion)
    decoded = decode_case(case, height=32, width=64)
    assert decoded.problems == []
    np.testing.assert_array_equal(decoded.mask, mask // 255)


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_without_lesion_and_one_of_lesion_alone_are_masks(tmp_path, value):
    image, _ = draw(0, 32, 64)
    case = add_case(tmp_path, "Training", "a", image, np.full((32, 64), value, np.uint8))
    decoded = decode_case(case, height=32, width=64)
    assert decoded.problems == []
    assert (decoded.mask == value // 255).all()


def test_a_grey_image_becomes_three_equal_channels(tmp_path):
    image, mask = draw(0, 32, 64)
    case = add_case(tmp_path, "Training", "a", image[..., 0], mask)
    decoded = decode_case(case, height=32, width=64).image
    np.testing.assert_array_equal(decoded, np.stack([image[..., 0]] * 3, axis=-1))


def test_an_image_with_transparency_keeps_its_colours(tmp_path):
    image, mask = draw(0, 32, 64)
    alpha = np.random.default_rng(0).integers(0, 256, (32, 64, 1), dtype=np.uint8)
    case = add_case(tmp_path, "Training", "a", np.concatenate([image, alpha], axis=2), mask)
    np.testing.assert_array_equal(decode_case(case, height=32, width=64).image, image)


def test_an_image_with_a_palette_gets_the_palettes_colours(tmp_path):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    indices = rng.integers(0, 256, (32, 64), dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(palette.tobytes())
    case = add_case(tmp_path, "Training", "a", picture, np.zeros((32, 64), np.uint8))
    assert Image.open(case.image).mode == "P"
    np.testing.assert_array_equal(decode_case(case, height=32, width=64).image, palette[indices])


def named(count: int) -> list[RawCase]:
    return [RawCase(f"case{n:04d}", None, Path(), Path()) for n in range(count)]


def split_alone(count: int, **changes: Any) -> list[str]:
    """The random split of so many cases, each its own group."""
    cases = named(count)
    split = RandomSplit.model_validate(RANDOM | changes)
    return list(assign_splits(cases, [case.id for case in cases], split))


@pytest.mark.parametrize("count", [25, 33, 100, 2594])
@pytest.mark.parametrize("fractions", [(0.5, 0.25, 0.25), (0.76, 0.04, 0.2), (0.1, 0.1, 0.8)])
def test_a_random_split_has_the_fractions_to_within_one_case(count, fractions):
    expected = dict(zip(("training", "validation", "test"), fractions, strict=True))
    counts = Counter(split_alone(count, **expected))
    for split, fraction in expected.items():
        assert abs(counts[split] - fraction * count) <= 1


def test_a_random_split_depends_on_its_seed_alone():
    assert split_alone(100) == split_alone(100)
    agreement = np.mean(np.array(split_alone(100)) == np.array(split_alone(100, seed=1)))
    assert agreement < 0.6  # by chance 0.5^2 + 0.25^2 + 0.25^2 = 0.375


def test_a_random_split_shuffles():
    assert sorted(split_alone(100)[:50]).count("training") < 35


def test_groups_are_never_divided_and_the_fractions_hold_to_half_of_the_largest_group():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 60)
    groups = [f"patient{number}" for number, size in enumerate(sizes) for _ in range(size)]
    shuffled = list(rng.permutation(groups))
    for seed in range(5):
        split = RandomSplit.model_validate(RANDOM | {"seed": seed})
        assigned = assign_splits(named(len(groups)), shuffled, split)
        assert len(set(zip(shuffled, assigned, strict=True))) == 60
        assert abs(assigned.count("training") - 0.5 * len(groups)) <= 4
        assert abs(assigned.count("test") - 0.25 * len(groups)) <= 4


def test_a_random_split_with_a_split_that_gets_no_case_is_refused():
    with pytest.raises(UserError) as error:
        split_alone(10, training=0.9, validation=0.01, test=0.09)
    assert str(error.value) == (
        "params.yaml: prepare.split.method random needs fractions that give each split a case, "
        "got cases: 9 training, 0 validation, 1 test"
    )


def test_the_official_split_without_test_cases_is_refused_before_anything_is_decoded(tmp_path):
    add_case(tmp_path / "raw", "Training", "a", *draw(0))
    add_case(tmp_path / "raw", "Validation", "b", *draw(1))
    with pytest.raises(UserError, match=r"got cases: 1 training, 1 validation, 0 test$"):
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_the_official_split_of_a_flat_layout_is_refused():
    with pytest.raises(UserError, match=r"0 training, 0 validation, 0 test, 3 elsewhere$"):
        assign_splits(named(3), ["a", "b", "c"], OfficialSplit(method="official"))


def test_a_folder_without_cases_is_told_with_what_it_should_hold(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError) as error:
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    assert str(error.value) == (
        f"{tmp_path}/raw holds no cases: expected the folders of the official archives, or "
        "images/ and masks/"
    )


def test_every_file_that_cannot_be_used_is_told_at_once(tmp_path):
    raw = tmp_path / "raw"
    add_three_cases(raw)
    images = raw / "ISIC2018_Task1-2_Training_Input"
    masks = raw / "ISIC2018_Task1_Training_GroundTruth"
    image, mask = draw(0)
    for id in ("cut", "empty", "text", "gone", "shape", "grey", "maskless", "both"):
        add_case(raw, "Training", id, image, mask)
        (images / f"{id}.png").unlink()
        Image.fromarray(image).save(images / f"{id}.jpg")
    whole = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.jpg").write_text("<html>not found</html>")
    (images / "gone.jpg").unlink()
    (images / "gone.jpg").symlink_to("nowhere.jpg")
    Image.fromarray(mask[:-1]).save(masks / "shape_segmentation.png")
    grey = mask.copy()
    grey[0, :4] = (0, 7, 9, 254)
    Image.fromarray(grey).save(masks / "grey_segmentation.png")
    (masks / "maskless_segmentation.png").unlink()
    (images / "both.jpg").write_bytes(b"")
    (masks / "both_segmentation.png").write_bytes(b"")

    with pytest.raises(UserError) as error:
        prepare_cases(study_in(tmp_path), tmp_path / "prepared")
    first, *lines = [line.strip() for line in str(error.value).splitlines()]
    assert first == "9 files cannot be used:"
    assert sorted(lines) == sorted(
        [
            f"{images}/cut.jpg: cannot be decoded: {truncation(images / 'cut.jpg')}",
            f"{images}/empty.jpg: is no image that can be read",
            f"{images}/text.jpg: is no image that can be read",
            f"{images}/gone.jpg: cannot be decoded: [Errno 2] No such file or directory: "
            f"'{images}/gone.jpg'",
            f"{masks}/shape_segmentation.png: must have its image's size, 70x50, got 70x49",
            f"{masks}/grey_segmentation.png: must hold 0 and 255 alone, got 5 values such as "
            "7, 9, 254",
            f"{images}/maskless.jpg: has no mask in {masks}",
            f"{images}/both.jpg: is no image that can be read",
            f"{masks}/both_segmentation.png: is no image that can be read",
        ]
    )


def truncation(path: Path) -> str:
    """What Pillow says of a file that is cut short."""
    with pytest.raises(OSError, match="truncated") as error:
        Image.open(path).load()
    return str(error.value)


def test_a_failed_stage_leaves_the_old_prepared_cases_as_they_were(tmp_path, monkeypatch, capsys):
    add_three_cases(tmp_path / "raw")
    study_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    preprocess.main()
    assert capsys.readouterr().out == (
        "preprocess: 3 cases (1 training, 1 validation, 1 test) in data/prepared\n"
    )
    before = contents(Path("data/prepared"))
    broken = Path("raw/ISIC2018_Task1-2_Test_Input/case0.png")
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(UserError, match=r"case0\.png"):
        preprocess.main()
    assert contents(Path("data/prepared")) == before
    assert [path.name for path in Path("data").iterdir()] == ["prepared"]


def test_real_cases_are_prepared(tmp_path, real_cases):
    raw = tmp_path / "raw"
    folders = ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth")
    ids = sorted(path.stem for path in (real_cases / folders[0]).glob("*.jpg"))[:20]
    for folder, ending in zip(folders, (".jpg", "_segmentation.png"), strict=True):
        (raw / folder).mkdir(parents=True)
        for id in ids:
            (raw / folder / f"{id}{ending}").symlink_to(real_cases / folder / f"{id}{ending}")
    prepare_cases(study_in(tmp_path, height=96, width=128, split=RANDOM), tmp_path / "prepared")
    cases = PreparedCases.open(tmp_path / "prepared")
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

"""engine/prepared.py: what preprocess wrote is opened as it is, or refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.engine.prepared import ArrayWriter, PreparedCases, seal
from pipeline.study.errors import UserError

IDS = ["007", "NA", "a,b", "nan", "1e3"]  # all of which a careless reader of CSV changes
SPLITS = ["test", "training", "validation", "training", "test"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five prepared cases of 2x3 pixels."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (5, 2, 3, 3), dtype=np.uint8))
    np.save(tmp_path / "masks.npy", rng.integers(0, 2, (5, 2, 3), dtype=np.uint8))
    table = pd.DataFrame({"id": IDS, "split": SPLITS, "height": 20, "width": 30, "group": IDS})
    table.to_csv(tmp_path / "cases.csv", index=False)
    seal(tmp_path)
    return tmp_path


def test_arrays_are_opened_as_they_were_written_and_memory_mapped(folder):
    cases = PreparedCases.open(folder)
    for name in ("images", "masks"):
        array = getattr(cases, name)
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, np.load(folder / f"{name}.npy"))


def test_ids_and_groups_are_text_whatever_they_look_like(folder):
    table = PreparedCases.open(folder).table
    assert table["id"].tolist() == IDS
    assert table["group"].tolist() == IDS


def test_indices_are_where_the_splits_cases_stand(folder):
    cases = PreparedCases.open(folder)
    assert cases.indices("training").tolist() == [1, 3]
    assert cases.indices("validation").tolist() == [2]
    assert cases.indices("test").tolist() == [0, 4]


def test_fingerprint_is_the_sha256_of_the_three_files_sha256s(folder):
    names = ("images.npy", "masks.npy", "cases.csv")
    sums = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    expected = hashlib.sha256("".join(sums).encode()).hexdigest()
    assert PreparedCases.open(folder).fingerprint == expected
    assert json.loads((folder / "prepared.json").read_text()) == {"fingerprint": expected}


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "cases.csv"])
def test_fingerprint_changes_with_one_byte_of_any_file(folder, name):
    before = PreparedCases.open(folder).fingerprint
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    assert seal(folder) != before


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "cases.csv", "prepared.json"])
def test_a_missing_file_is_named_with_the_stage_to_run(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name}.*; run the stage preprocess$"):
        PreparedCases.open(folder)


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "cases.csv", "prepared.json"])
def test_an_empty_file_is_refused(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"usable.* \(.+\); run the stage preprocess"):
        PreparedCases.open(folder)


@pytest.mark.parametrize(
    "content", ["[1]", "3", "{}", "[" * 100_000, '{"fingerprint": NaN', '{"fingerprint": 5}']
)
def test_a_prepared_json_of_anything_else_is_refused(folder, content):
    (folder / "prepared.json").write_text(content)
    with pytest.raises(UserError, match=r"prepared.json .*; run the stage preprocess"):
        PreparedCases.open(folder)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("height", "hight", "cases.csv has no column height; run the stage preprocess again"),
        (",20,", ",tall,", "cases.csv, line 2: height of 007 must be a whole number .* got 'tall'"),
        (",30,", ",-3,", "cases.csv, line 2: width of 007 must be a whole number .* got -3"),
        (
            ",30,",
            ",0,",
            "cases.csv, line 2: width of 007 must be a whole number from 1 to .* got 0",
        ),
        (",30,", f",{10**19},", "width of 007 must be a whole number from 1 to 1e.15, got 1"),
        (
            "split",
            "averaging",
            "cases.csv must name the split of each case, training",
        ),
        (",test,", ",tset,", "cases.csv must name the split of each case, training, validation"),
    ],
)
def test_a_table_of_other_columns_or_values_is_refused(folder, before, after, told):
    path = folder / "cases.csv"
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match=told):
        PreparedCases.open(folder)


@pytest.mark.parametrize("name", ["images.npy", "masks.npy"])
def test_an_array_cut_short_is_refused(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{name} is missing or unusable .*; run the stage"):
        PreparedCases.open(folder)


@pytest.mark.parametrize("name", ["images.npy", "masks.npy"])
@pytest.mark.parametrize(
    "damage",
    [
        b"PK\x03\x04 no archive",
        b"\x93NUMPY\x01\x00\x76\x00" + b"[" * 118,
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}".ljust(118) % 10**30,
    ],
)
def test_a_damaged_array_is_refused(folder, name, damage):
    (folder / name).write_bytes(damage)
    with pytest.raises(UserError, match=rf"{name} is missing or unusable .*; run the stage"):
        PreparedCases.open(folder)


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("images.npy", np.zeros((5, 2, 3, 3)), r"images.npy must be uint8 .* got float64"),
        (
            "images.npy",
            np.zeros((5, 2, 3, 4), np.uint8),
            r"shape \(any, any, any, 3\) or \(any, any, any, any, 1\), got",
        ),
        ("masks.npy", np.zeros((5, 2), np.uint8), r"masks.npy must be uint8 of the shape"),
        ("masks.npy", np.uint8(3), r"masks.npy must be uint8 of the shape \(any, any, any\)"),
    ],
)
def test_an_array_of_another_kind_is_refused(folder, name, array, told):
    np.save(folder / name, array)
    with pytest.raises(UserError, match=told):
        PreparedCases.open(folder)
    with (folder / name).open("wb") as file:
        np.savez(file, array)
    with pytest.raises(UserError, match="got several arrays"):
        PreparedCases.open(folder)


@pytest.mark.parametrize("entry", [np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.float32)])
def test_an_entry_of_another_shape_or_type_is_not_written(tmp_path, entry):
    with (
        ArrayWriter(tmp_path / "a.npy", (3, 2)) as writer,
        pytest.raises(ValueError, match=r"an entry must be uint8 \(3, 2\), got (uint8|float32)"),
    ):
        writer.append(entry)
    assert np.load(tmp_path / "a.npy").shape == (0, 3, 2)


def test_an_array_that_grows_is_the_one_that_numpy_writes(tmp_path):
    entries = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    with ArrayWriter(tmp_path / "a.npy", (4, 5)) as writer:
        for entry in entries:
            writer.append(entry)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), entries)


def test_an_array_of_pickled_objects_is_not_unpickled(folder):
    np.save(folder / "images.npy", np.array([{}] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"images.npy is missing or unusable"):
        PreparedCases.open(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("images.npy", (4, 2, 3, 3)),
        ("masks.npy", (6, 2, 3)),
        ("masks.npy", (5, 3, 2)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused_with_their_shapes(folder, name, shape):
    np.save(folder / name, np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match="do not fit together; run the stage preprocess") as told:
        PreparedCases.open(folder)
    assert f"{name} {shape}" in str(told.value)


def test_a_table_with_a_row_too_few_is_refused(folder):
    lines = (folder / "cases.csv").read_text().splitlines(keepends=True)
    (folder / "cases.csv").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"cases.csv \(4 rows\) do not fit together"):
        PreparedCases.open(folder)

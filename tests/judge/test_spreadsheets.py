"""judge/spreadsheets.py and judge/delimited.py: tables that people write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.judge.formats import Scores, parse_source, read_scores
from pipeline.statistics.analysis import Design
from pipeline.study.errors import UserError

LONG = """variant,seed,case,dice,iou
unet,0,001,0.8,0.7
unet,0,002,0.6,0.5
unet,1,001,0.7,0.6
unet,1,002,0.5,0.4
attention,0,001,0.9,0.8
attention,0,002,0.7,0.6
attention,1,001,0.8,0.7
attention,1,002,0.6,0.5
"""
WIDE = """case_id,alg_01,alg_02,alg_03
1,0.9254,0.8712,0.9701
2,0.6753,0.7330,0.8902
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str | bytes, argument: str = "a.csv") -> Scores:
    """Of a table that is a.csv."""
    Path("a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_scores([parse_source(argument)])


def rows(scores: Scores) -> list[tuple]:
    return list(scores.table.itertuples(index=False, name=None))


def test_a_long_table_has_a_row_a_case_and_run():
    scores = read(LONG)
    assert scores.metrics == ["dice", "iou"]
    assert scores.kind == "a table with a row a case and run"
    assert scores.notes == []
    assert list(scores.table.columns) == ["variant", "seed", "case", "dice", "iou"]
    assert rows(scores)[:2] == [("unet", 0, "001", 0.8, 0.7), ("unet", 0, "002", 0.6, 0.5)]
    assert rows(scores)[-1] == ("attention", 1, "002", 0.6, 0.5)
    assert len(scores.table) == 8


def test_the_protocol_takes_it_as_it_is():
    table = read(LONG).table.rename(columns={"dice": "value"})
    design = Design(table[["variant", "seed", "case", "value"]])
    assert design.notes == []
    assert design.scores.tolist() == [[[0.8, 0.6], [0.7, 0.5]], [[0.9, 0.7], [0.8, 0.6]]]
    assert design.cases == ["001", "002"]


def test_columns_have_any_order_and_several_names():
    expected = rows(read("variant,seed,case,value\nunet,3,x,0.5\n"))
    assert expected == [("unet", 3, "x", 0.5)]
    for variant in ("variant", "algorithm", "Method", " model ", "NETWORK"):
        assert rows(read(f"value,{variant},run,image\n0.5,unet,3,x\n")) == expected
    for case in ("case", "case_id", "Case ID", "id", "image", "image-id", "subject"):
        assert rows(read(f"{case},seed,variant,value\nx,3,unet,0.5\n")) == expected


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_and_tabs_separate_too(separator):
    pd.testing.assert_frame_equal(read(LONG.replace(",", separator)).table, read(LONG).table)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n"])
def test_lines_end_as_any_system_ends_them(end):
    pd.testing.assert_frame_equal(read(LONG.replace("\n", end)).table, read(LONG).table)


def test_a_byte_order_mark_and_quotes_are_no_part_of_a_name():
    text = '\ufeff"variant",seed,case,dice\n"u,net", 0 ,"a ""b""",0.5\n'
    assert rows(read(text)) == [("u,net", 0, 'a "b"', 0.5)]


def test_names_are_printable_and_texts_stay_as_they_are():
    scores = read('variant,seed,case,di\x07ce\n"un\net",0,NA,0.5\nnan,1.0,1e3,1e-1\n')
    assert scores.metrics == ["di\\x07ce"]
    assert rows(scores) == [("un\\net", 0, "NA", 0.5), ("nan", 1, "1e3", 0.1)]


def test_without_a_column_of_seeds_a_variant_has_one_run():
    scores = read("method,case,dice\na,1,0.5\nb,1,0.6\n")
    assert rows(scores) == [("a", 0, "1", 0.5), ("b", 0, "1", 0.6)]
    assert scores.notes == ["No column tells the seed: each variant has one run, seed 0."]


def test_folds_are_no_seeds():
    scores = read("method,fold,case,dice\na,0,1,0.5\na,1,2,0.6\n")
    assert rows(scores) == [("a", 0, "1", 0.5), ("a", 0, "2", 0.6)]
    assert scores.notes[0] == (
        "The column fold is no seed: all folds of a variant are one run's, put together."
    )
    scores = read("method,fold,seed,case,dice\na,0,4,1,0.5\na,1,4,2,0.6\n")
    assert rows(scores) == [("a", 4, "1", 0.5), ("a", 4, "2", 0.6)]
    assert scores.notes == [
        "The column fold tells no seeds apart: the folds of a seed are put together."
    ]
    with pytest.raises(UserError, match=r"case '1' stood already in a\.csv, line 2.*column seed"):
        read("method,fold,case,dice\na,0,1,0.5\na,1,1,0.6\n")


@pytest.mark.parametrize("text", ["", "nan", "NaN", "NA", "null", "inf", "-Infinity", "1e999"])
def test_what_is_no_finite_number_is_missing_and_counted(text):
    scores = read(f"variant,seed,case,dice,iou\na,0,1,{text},0.1\na,0,2,0.5,.2\n")
    assert np.isnan(scores.table["dice"][0])
    assert scores.table["iou"].tolist() == [0.1, 0.2]
    assert scores.notes == ["1 of 2 values of dice is missing or not finite."]


def test_a_column_without_a_number_is_counted_whole():
    scores = read("variant,seed,case,dice\na,0,1,\na,0,2,\n")
    assert scores.notes == ["2 of 2 values of dice are missing or not finite."]


def test_a_wide_table_has_a_column_a_method():
    scores = read(WIDE)
    assert scores.metrics == ["value"]
    assert scores.kind == "a table with a column a method"
    assert rows(scores)[:3] == [
        ("alg_01", 0, "1", 0.9254), ("alg_01", 0, "2", 0.6753), ("alg_02", 0, "1", 0.8712),
    ]  # fmt: skip
    assert len(scores.table) == 6
    assert scores.notes == [
        "The table does not name its metric: it is called value.",
        "No column tells the seed: each variant has one run, seed 0.",
    ]


def test_a_wide_table_may_have_seeds():
    scores = read("case_id,seed,a,b\n1,0,0.1,0.2\n1,5,0.3,0.4\n")
    assert rows(scores) == [
        ("a", 0, "1", 0.1), ("a", 5, "1", 0.3), ("b", 0, "1", 0.2), ("b", 5, "1", 0.4),
    ]  # fmt: skip
    assert scores.notes == ["The table does not name its metric: it is called value."]


def test_a_table_of_one_method_needs_its_name_beside_the_path():
    text = "case,dice,hd95\n1,0.5,3\n"
    with pytest.raises(UserError, match=r"'dice, hd95' seem to be metrics, .*NAME=path"):
        read(text)
    scores = read(text, "unet/2=a.csv")
    assert scores.metrics == ["dice", "hd95"]
    assert rows(scores) == [("unet", 2, "1", 0.5, 3.0)]
    assert scores.notes == ["The columns of a.csv are metrics of unet."]
    assert rows(read("case,run,dice\n1,7,0.5\n", "unet=a.csv")) == [("unet", 7, "1", 0.5)]
    with pytest.raises(UserError, match="has the column 'run': name no seed beside its path"):
        read("case,run,dice\n1,7,0.5\n", "unet/2=a.csv")


def test_methods_may_be_called_like_a_metric_among_others():
    assert set(read("case,dice,mine\n1,0.5,0.6\n").table["variant"]) == {"dice", "mine"}


def test_several_long_tables_are_one():
    Path("b.csv").write_text("iou,case,seed,variant,dice\n0.6,1,0,b,0.7\n")
    Path("c.csv").write_text("case,dice,iou\n1,0.4,0.3\n")
    Path("a.csv").write_text("variant,seed,case,dice,iou\na,0,1,0.8,0.7\n")
    scores = read_scores([Path("a.csv"), Path("b.csv"), parse_source("c=c.csv")])
    assert scores.metrics == ["dice", "iou"]
    assert rows(scores) == [
        ("a", 0, "1", 0.8, 0.7), ("b", 0, "1", 0.7, 0.6), ("c", 0, "1", 0.4, 0.3),
    ]  # fmt: skip
    Path("b.csv").write_text("case,seed,variant,dice\n1,0,b,0.7\n")
    with pytest.raises(UserError, match=r"b\.csv has the metrics dice, and a\.csv has dice, iou"):
        read_scores([Path("a.csv"), Path("b.csv")])


def test_an_index_that_pandas_wrote_is_no_metric(folder):
    table = read(LONG).table
    table.to_csv("b.csv")
    scores = read_scores([Path("b.csv")])
    pd.testing.assert_frame_equal(scores.table, table)
    assert scores.notes == ["The first column, without a name, was left out."]
    wide = pd.DataFrame({"a": [0.1, 0.2], "b": [0.3, 0.4]}, index=["x", "y"])
    wide.to_csv("c.csv")
    scores = read_scores([Path("c.csv")])
    assert rows(scores)[:2] == [("a", 0, "x", 0.1), ("a", 0, "y", 0.2)]
    assert "The first column, without a name, was taken for the cases." in scores.notes


def test_a_separator_at_the_end_of_lines_makes_no_column():
    assert rows(read("variant,seed,case,dice,\na,0,1,0.5,\n")) == [("a", 0, "1", 0.5)]
    with pytest.raises(UserError, match="column 5 has no name"):
        read("variant,seed,case,dice,\na,0,1,0.5,0.6\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LONG + "unet,0,001,0.8,0.7\n", r"a\.csv, line 10: variant 'unet', seed 0, case '001' "
         r"stood already in a\.csv, line 2; "),
        (LONG.replace("0.6,0.5", "0.6,good"), r"a\.csv, line 3: 'iou' must be a number, got "
         "'good'; leave the cell empty"),
        (LONG.replace(",", ";").replace("0.6;", "0,6;"), "a.csv, line 3: 'dice' must be a number, "
         "got '0,6'; a decimal comma: write a point"),
        (WIDE.replace("0.7330", '"0,7330"'), "line 3: 'alg_02' .*got '0,7330'; a decimal comma"),
        (WIDE.replace("0.7330", "0,7330"), "line 3: 5 cells where the header has 4; a number must "
         "have a point, not a comma"),
        (WIDE.replace("0.7330", "73%"), "'alg_02' must be a number, got '73%'"),
        (WIDE.replace("0.7330", "1_0"), "'alg_02' must be a number, got '1_0'"),
        (WIDE.replace("0.7330", "True"), "'alg_02' must be a number, got 'True'"),
        (WIDE.replace("0.7330", "0x1"), "'alg_02' must be a number, got '0x1'"),
        (WIDE + "2,0.1,0.1,0.1\n", r"a\.csv, line 4: variant 'alg_01', seed 0, case '2' stood "
         r"already in a\.csv, line 3"),
        ("case_id,alg_01\n", "a.csv has a header and no row"),
        ("variant,seed,case\nunet,0,1\n", "no metric among 'variant, seed, case'; a table must"),
        ("case_id\n1\n", "no metric among 'case_id'"),
        ("variant,seed,dice\nunet,0,1\n", "no column of cases among 'variant, seed, dice'"),
        (LONG.replace("iou", "dice"), "a.csv has two columns 'dice'"),
        (LONG.replace("iou", "model"), "'variant' and 'model': both may be the variant"),
        (LONG.replace("unet,1,", "unet,one,"), "line 4: 'seed' must be a whole number from 0 to "
         "4294967295, got 'one'; number the runs"),
        (LONG.replace("unet,1,", "unet,-1,"), "'seed' must be a whole number .* got '-1'"),
        (LONG.replace("unet,1,", "unet,0.5,"), "'seed' must be a whole number .* got '0.5'"),
        (LONG.replace("unet,1,", "unet,,"), "'seed' must be a whole number .* got ''"),
        (LONG.replace("unet,1,", "unet,4294967296,"), "must be .* got '4294967296'"),
        (LONG.replace("unet,1,", ",1,"), "a.csv, line 4: 'variant' is empty"),
        (LONG.replace("1,002", "1, "), "a.csv, line 5: 'case' is empty"),
        (",alg_01\n,0.5\n", "a.csv, line 2: the first column is empty"),
        (LONG + '"unet,0,003,0.8,0.7\n', "a.csv, line 10: unexpected end of data; .*quote"),
        (LONG + "unet,0,003,0.8\n", "a.csv, line 10: 4 cells where the header has 5"),
        ("case_id,ground_truth,alg_01\n1,1,0\n", "ground_truth: it is a table of classes"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line_with_its_place(text, told):
    with pytest.raises(UserError, match=told) as refused:
        read(text)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("a.csv")


def test_a_case_in_two_files_is_told_with_both_places():
    Path("b.csv").write_text("variant,seed,case,dice,iou\nnew,0,1,0.1,0.1\nunet,1,002,0.1,0.1\n")
    Path("a.csv").write_text(LONG)
    with pytest.raises(UserError, match=r"^b\.csv, line 3: .* already in a\.csv, line 5"):
        read_scores([Path("a.csv"), Path("b.csv")])
    Path("a.csv").write_text(WIDE)
    Path("b.csv").write_text("case_id,alg_03\n2,0.1\n")
    with pytest.raises(UserError, match=r"^b\.csv, line 2: .* already in a\.csv, line 3"):
        read_scores([Path("a.csv"), Path("b.csv")])


def test_a_table_that_names_its_variants_takes_no_name():
    with pytest.raises(UserError, match="in the column 'variant': name none beside its path"):
        read(LONG, "unet=a.csv")


def test_seeds_with_the_same_numbers_are_told():
    text = "variant,seed,case,dice\na,0,x,0.1\na,0,y,0.2\na,3,y,0.2\na,3,x,0.1\na,4,x,0.1\n"
    assert read(text).notes == [
        "a: seeds 0 and 3 have the same numbers; one run that is named twice tells nothing of "
        "seeds."
    ]

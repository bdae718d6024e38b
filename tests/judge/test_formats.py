"""judge/formats.py: which format a file is of, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from made_results import make_results
from PIL import Image

from pipeline.judge import challenge
from pipeline.judge.formats import Scores, parse_source, read_scores
from pipeline.statistics.results import save_results
from pipeline.study.errors import UserError

SUMMARY = Path(__file__).parent / "files" / "nnunet" / "one_class" / "unet" / "summary.json"
LONG = "variant,seed,case,dice\na,0,1,0.5\n"
PAGE = REPOSITORY / "docs" / "judge.md"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def every(folder: Path) -> dict[str, str]:
    """A file of each format, under a name that tells nothing -> its kind."""
    Path("1").write_text(LONG)
    Path("2").write_text("case_id,alg_01\n1,0.5\n")
    Path("3").write_bytes(SUMMARY.read_bytes())
    Path("4").write_text("filename,class0,mean\nx.nii.gz,0.5,0.5\n")
    save_results(Path("5"), make_results(["a", "b"]))
    return {
        "1": "a table with a row a case and run",
        "2": "a table with a column a method",
        "3": "nnU-Net's summary.json",
        "4": "MONAI's raw metrics",
        "5": "results.json of this suite",
    }


def test_what_stands_in_a_file_tells_its_format(every):
    for name, kind in every.items():
        scores = read_scores([Path(name)])
        assert isinstance(scores, Scores)
        assert scores.kind == kind
        assert list(scores.table.columns) == ["variant", "seed", "case", *scores.metrics]
        assert scores.table["seed"].dtype == np.int64
        assert all(scores.table[metric].dtype == np.float64 for metric in scores.metrics)
        assert not scores.table.duplicated(["variant", "seed", "case"]).any()


def test_two_formats_at_once_are_refused(every):
    for name in "2345":
        with pytest.raises(UserError) as refused:
            read_scores([Path("1"), Path(name)])
        assert str(refused.value) == (
            f"1 is {every['1']}, and {name} is {every[name]}; give files of one format"
        )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "a is empty; "),
        (b"\xef\xbb\xbf \n\n", "a is empty; "),
        (b"caf\xe9,b\n", r"a is not UTF-8 \(byte 3 is 0xe9\); save it as UTF-8"),
        (LONG.encode("utf-16"), r"a is not UTF-8 \(byte 0 is 0xff\)"),
        (b"case,x\n1,\0\n", "a is no text: it has a zero byte"),
        (b"PK\x03\x04...", "a is a workbook or an archive; save the table in it as CSV"),
        (b"%PDF-1.7\n", "a is of no known format: its first line is '%PDF-1.7'; expected one of: a "
         "table with columns variant, seed, case and metrics; .*nnU-Net's summary.json; MONAI's"),
        (b"x" * 200_000, "a is of no known format: its first line is 'xxx"),
        (b"case,b\n" + b"x" * 200_000 + b",1\n", "a, line 2: field larger than field limit"),
        (b"name,dice\nx,0.5\n", "a is of no known format: its first line is 'name,dice'"),
        (b'{"dice": 0.5, "hd": 3}', "a is of no known format: its keys are 'dice, hd'; expected"),
        (b"[]", "a is of no known format: it is a list or has no key"),
        (b'{"metric_per_case": [', "a is no whole JSON: .*; write it anew"),
        (b"[" * 100_000, "a is no whole JSON: "),
        (b'{"metric_per_case": 3}', "a: metric_per_case: input should be a valid list, got '3'"),
        (b'{"schema_version": 4, "study": 3, "cases": 4}', "a: study: .*run the stage compare"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_one_clear_line(content, told):
    Path("a").write_bytes(content)
    with pytest.raises(UserError, match=f"^{told}") as refused:
        read_scores([Path("a")])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"^no\.csv cannot be read: No such file or directory; "):
        read_scores([Path("no.csv")])
    with pytest.raises(UserError, match=r"no\.csv cannot be read"):
        read_scores([parse_source("a=no.csv")])


def test_a_files_name_is_printable_in_an_error():
    Path("a\nb").write_text("")
    with pytest.raises(UserError, match=r"^a\\nb is empty"):
        read_scores([Path("a\nb")])


@pytest.mark.parametrize("output", ["json", "table"])
def test_the_isic_scorers_means_are_no_table(output):
    for number, name in enumerate(("truth", "prediction")):
        Path(name).mkdir()
        for case in range(2):
            mask = np.zeros((8, 8), dtype=np.uint8)
            mask[1:5, 1 : 4 + number + case] = 255
            Image.fromarray(mask).save(f"{name}/ISIC_000000{case}_segmentation.png")
    command = ["-m", "isic_challenge_scoring", "-o", output, "segmentation", "truth", "prediction"]
    done = subprocess.run([sys.executable, *command], capture_output=True, check=True)
    Path("a").write_bytes(done.stdout)
    assert b"dice" in done.stdout
    with pytest.raises(UserError, match="a is the ISIC challenge's scorer's: it holds means over"):
        read_scores([Path("a")])
    assert challenge.is_scorers(parse_source("a")) == (output == "json")
    if output == "json":  # what it really writes is read as printed means
        paper = challenge.as_paper([parse_source("x=a"), parse_source("y=a")], 2).paper
        dice = json.loads(done.stdout)["macro_average"]["dice"]
        assert paper.values("dice") == {"x": round(dice, 4), "y": round(dice, 4)}


def examples() -> list[tuple[str, str]]:
    """(path, content) of each example of the page: a fence after a line that ends in `path`:"""
    section = PAGE.read_text().partition("## What it reads")[2].partition("\n## ")[0]
    parts = section.split("```text\n")
    found = []
    for before, after in pairwise(parts):
        name = before.rstrip().splitlines()[-1].split("`")[-2]
        found.append((name, after.partition("```")[0]))
    return found


def test_the_pages_examples_are_read():
    kinds = []
    for name, content in examples():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        assert 3 <= len(content.splitlines()) <= 6, name
        if challenge.is_scorers(parse_source(name)):
            assert challenge.as_paper([parse_source(name), parse_source(f"b={name}")], 9).paper.rows
            kinds.append(challenge.KIND)
        else:
            kinds.append(read_scores([path]).kind)
    assert kinds == [
        "a table with a row a case and run",
        "a table with a column a method",
        "nnU-Net's summary.json",
        "MONAI's raw metrics",
        "the ISIC challenge's scorer's JSON",
    ]


def test_the_page_tells_every_name_of_a_column():
    from pipeline.judge.spreadsheets import ROLES

    text = PAGE.read_text()
    for names in ROLES.values():
        assert all(f"`{name}`" in text for name in names)

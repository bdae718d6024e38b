"""study/files.py: a file or folder is whole or absent."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pipeline.study.errors import UserError
from pipeline.study.files import remove_leftovers, replacing, sha256, write_json


def test_a_file_takes_the_place_of_the_old_one_when_the_block_ends(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one_with_all_that_was_in_it(tmp_path):
    path = tmp_path / "prepared"
    path.mkdir()
    (path / "old").touch()
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        assert [entry.name for entry in path.iterdir()] == ["old"]
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def write_half_a_file(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("ne")
        raise InterruptedError


def write_half_a_folder(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        raise InterruptedError


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("old")
    with pytest.raises(InterruptedError):
        write_half_a_file(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "prepared"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(InterruptedError):
        write_half_a_folder(path)
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG]
)
def test_a_disk_that_refuses_is_told_and_the_old_file_stays(tmp_path, number):
    path = tmp_path / "history.csv"
    path.write_text("old")
    with pytest.raises(UserError) as error, replacing(path):
        raise OSError(number, os.strerror(number))
    assert str(error.value) == (
        f"{path} cannot be written: {os.strerror(number)}; what was there before is kept: make "
        "room or allow writing, then run again"
    )
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("told", ["Not a directory", "File name too long", "Too many levels"])
def test_a_place_where_nothing_can_be_is_told(tmp_path, told):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    path = {
        "Not a directory": tmp_path / "file" / "below" / "output",
        "File name too long": tmp_path / ("x" * 300) / "output",
        "Too many levels": tmp_path / "loop" / "below" / "output",
    }[told]
    with pytest.raises(UserError, match=f"cannot be written: {told}.*name another path"):
        write_half_a_file(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_place_where_no_folder_can_be_made_is_told():
    with pytest.raises(UserError, match=r"cannot be written: No such file.*name another path"):
        write_half_a_file(Path("/proc/none/output"))


def test_a_file_that_the_writer_itself_misses_is_no_fault_of_the_place(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "output"):
        (tmp_path / "missing").read_text()


def test_a_file_in_the_place_of_a_folder_is_told_and_stays(tmp_path):
    (tmp_path / "reports").write_text("mine")
    with pytest.raises(UserError, match=r"File exists.*move away what is in its place"):
        write_half_a_file(tmp_path / "reports" / "results.json")
    assert (tmp_path / "reports").read_text() == "mine"


@pytest.mark.parametrize("write", [write_half_a_file, write_half_a_folder])
def test_an_error_leaves_nothing_where_nothing_was(tmp_path, write):
    with pytest.raises(InterruptedError):
        write(tmp_path / "output")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_a_link_is_replaced_and_what_it_led_to_is_left_alone(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (tmp_path / "prepared").symlink_to(elsewhere)
    with replacing(tmp_path / "prepared") as temporary:
        temporary.mkdir()
    assert not (tmp_path / "prepared").is_symlink()
    assert (elsewhere / "precious").is_file()


def test_missing_parent_folders_are_made(tmp_path):
    with replacing(tmp_path / "runs" / "unet" / "0" / "run.json") as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "runs" / "unet" / "0" / "run.json").read_text() == "{}"


def test_json_is_read_back_as_it_was_written(tmp_path):
    content = {"dice": 0.1 + 0.2, "ids": ["é", "a|b"], "none": None}
    write_json(tmp_path / "metrics.json", content)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_refuses_what_json_has_no_number_for_and_keeps_the_old_file(
    tmp_path: Path, number: float
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"dice": [number]})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_equals_the_standards_example(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_two_writers_of_one_path_do_not_meet_and_the_last_one_stays(tmp_path):
    path = tmp_path / "history.csv"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def write_and_wait(path: Path, writing) -> None:
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "file").touch()
        writing.set()
        signal.pause()


def test_what_a_killed_writer_left_goes_with_the_next_and_a_living_ones_stays(tmp_path):
    path = tmp_path / "prepared"
    context = multiprocessing.get_context("fork")
    writing = context.Event()
    process = context.Process(target=write_and_wait, args=(path, writing))
    process.start()
    assert writing.wait(30)
    (left,) = tmp_path.iterdir()
    with replacing(path) as temporary:
        temporary.mkdir()
    assert sorted(tmp_path.iterdir()) == [left, path]
    process.kill()
    process.join()
    with replacing(tmp_path / "another") as temporary:
        temporary.touch()
    (tmp_path / "another").unlink()
    assert left.is_dir()  # of another path
    with replacing(path) as temporary:
        temporary.mkdir()
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_machine_left_goes_after_a_day(tmp_path):
    path = tmp_path / "prepared"
    left = tmp_path / ".prepared.00000000-1-0.partial"
    left.mkdir()
    for age, stays in ((0, True), (25, False)):
        os.utime(left, (time.time() - age * 3600,) * 2)
        remove_leftovers(tmp_path)
        assert left.exists() == stays
    with replacing(path) as temporary:
        temporary.mkdir()
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_of_255_bytes_can_be_replaced(tmp_path):
    path = tmp_path / ("ü" * 127 + "a")
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]

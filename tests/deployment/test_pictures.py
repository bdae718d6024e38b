"""deployment/pictures.py: what is found in folders, and names that never meet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.data.raw import VOLUME_SUFFIXES
from pipeline.deployment.pictures import find_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.PNG",
        "a.jpg",
        "deep/er/a.jpeg",
        "notes.txt",
        ".hidden.jpg",
        "x_superpixels.png",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "in"


def test_folders_are_searched_to_the_bottom_and_what_is_no_picture_is_counted(folder):
    found = find_pictures([folder])
    assert [picture.shown for picture in found.pictures] == ["a.jpg", "b.PNG", "deep/er/a.jpeg"]
    assert [picture.name for picture in found.pictures] == ["a", "b", "deep/er/a"]
    assert (found.passed_over, found.skipped) == (3, [])


def test_a_hidden_file_that_is_named_keeps_its_whole_name(tmp_path):
    (tmp_path / ".png").write_bytes(b"")
    (picture,) = find_pictures([tmp_path / ".png"]).pictures
    assert picture.name == ".png"


def test_volumes_are_called_without_both_of_their_endings(tmp_path):
    for name in ("a.nii.gz", "b.NII", "c.png", "d.gz"):
        (tmp_path / name).write_bytes(b"")
    found = find_pictures([tmp_path], VOLUME_SUFFIXES)
    assert [picture.name for picture in found.pictures] == ["a", "b"]
    assert found.passed_over == 2
    (tmp_path / "a.nii").write_bytes(b"")
    assert [one.name for one in find_pictures([tmp_path], VOLUME_SUFFIXES).pictures] == [
        "a.nii", "a.nii.gz", "b.NII"
    ]  # fmt: skip


def test_names_are_paths_below_the_named_folder_unless_two_would_be_one(folder, tmp_path):
    other = tmp_path / "other" / "c.jpg"
    other.parent.mkdir()
    other.write_bytes(b"")
    found = find_pictures([folder / "deep", other])
    assert [picture.name for picture in found.pictures] == ["er/a", "c"]
    (tmp_path / "other" / "a.jpg").write_bytes(b"")
    found = find_pictures([folder / "a.jpg", tmp_path / "other"])
    assert [picture.name for picture in found.pictures] == ["in/a", "other/a", "other/c"]


def test_pictures_that_differ_in_their_ending_alone_keep_it(folder):
    (folder / "a.png").write_bytes(b"")
    names = [picture.name for picture in find_pictures([folder]).pictures]
    assert names == ["a.jpg", "a.png", "b.PNG", "deep/er/a.jpeg"]


def test_a_picture_named_twice_is_found_once(folder):
    found = find_pictures([folder / "a.jpg", folder, folder / "deep" / ".." / "a.jpg"])
    assert [picture.shown for picture in found.pictures] == ["a.jpg", "b.PNG", "deep/er/a.jpeg"]


def test_a_link_keeps_its_own_name(folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "mine.jpg").symlink_to(folder / "a.jpg")
    assert find_pictures([tmp_path / "linked"]).pictures[0].name == "mine"


def test_what_is_missing_or_empty_is_told_and_the_rest_found(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    found = find_pictures([tmp_path / "nowhere", tmp_path / "empty", folder])
    assert [reason for _, reason in found.skipped] == [
        "does not exist",
        "holds no picture that ends in .bmp, .jpeg, .jpg, .png",
    ]
    assert len(found.pictures) == 3
    assert find_pictures([tmp_path / "empty"]).pictures == []


def test_links_to_folders_are_followed_and_each_folder_is_searched_once(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.jpg").write_bytes(b"")
    (folder / "linked").symlink_to(other)
    (folder / "again").symlink_to(other)
    (folder / "before").symlink_to(folder / "deep")  # it lies here, and keeps its name
    (folder / "loop").symlink_to(folder)
    (other / "back").symlink_to(folder)
    found = find_pictures([folder, other, folder / "loop"])
    shown = [picture.shown for picture in found.pictures]
    assert shown == ["a.jpg", "again/c.jpg", "b.PNG", "deep/er/a.jpeg"]
    assert found.skipped == []


def test_a_folder_of_results_is_passed_over_with_all_that_is_in_it(folder):
    (folder / "deep" / "predict.json").write_text('{"networks": [], "columns": {}}')
    (folder / "predict.json").write_text('{"by": "another program"}')
    found = find_pictures([folder])
    assert [picture.shown for picture in found.pictures] == ["a.jpg", "b.PNG"]
    assert found.results == 1
    (told,) = find_pictures([folder / "deep"]).skipped
    endings = ".bmp, .jpeg, .jpg, .png"
    assert told.reason == f"holds no picture that ends in {endings} beside predict's results"


def test_names_that_no_result_can_have_are_skipped_and_told_in_letters(folder, tmp_path):
    for name in (b"\xe9.jpg", b"a\tb.jpg", "\u2028.jpg".encode(), "\u00a0\u202fé.jpg".encode()):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"")
    found = find_pictures([folder, tmp_path / "no\r"])
    assert [image for image, _ in found.skipped] == [
        f"{tmp_path}/no\\r", "a\\tb.jpg", "\\u2028.jpg", "\\xe9.jpg",
    ]  # fmt: skip
    assert "\u00a0\u202fé.jpg" in [picture.shown for picture in found.pictures]


@pytest.mark.parametrize("name", ["x" * 300, "loop/a.jpg", "a.jpg/b.jpg"])
def test_a_path_that_cannot_be_is_skipped(folder, name):
    (folder / "loop").symlink_to("loop")
    assert find_pictures([folder / name]).skipped == [(str(folder / name), "does not exist")]

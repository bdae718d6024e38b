"""deployment/pictures.py: what is found in folders, and names that never meet."""

from __future__ import annotations

from pathlib import Path

import pytest

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
        "holds no picture that ends in .jpeg, .jpg, .png",
    ]
    assert len(found.pictures) == 3
    assert find_pictures([tmp_path / "empty"]).pictures == []

"""data/raw.py: which image belongs to which mask, on empty files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.data.raw import MOST_TOLD, RawCase, find_cases, tell
from pipeline.study.errors import UserError
from pipeline.study.values import printable

TRAINING = ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth")
VALIDATION = ("ISIC2018_Task1-2_Validation_Input", "ISIC2018_Task1_Validation_GroundTruth")
TEST = ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth")
MASKS = [  # of the image IMD_1, as public data sets and others call it
    "IMD_1.png",
    "IMD_1_segmentation.png",  # ISIC 2017 and 2018, HAM10000
    "IMD_1_Segmentation.png",  # ISIC 2016
    "IMD_1_SEGMENTATION.png",
    "IMD_1_lesion.bmp",  # PH2
    "IMD_1_Lesion.BMP",
    "IMD_1_mask.png",
    "IMD_1_Mask.jpg",
]


def touch(raw: Path, *names: str) -> None:
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).touch()


def test_the_official_layout_gives_each_case_its_folders_split(tmp_path):
    expected = []
    for number, (split, (images, masks)) in enumerate(
        {"training": TRAINING, "validation": VALIDATION, "test": TEST}.items()
    ):
        image, mask = f"{images}/ISIC_{number}.jpg", f"{masks}/ISIC_{number}_segmentation.png"
        touch(tmp_path, image, mask)
        expected.append(RawCase(f"ISIC_{number}", split, tmp_path / image, tmp_path / mask))
    assert find_cases(tmp_path) == (expected, [])


@pytest.mark.parametrize("mask", MASKS)
def test_a_flat_layout_gives_cases_without_a_split(tmp_path, mask):
    touch(tmp_path, "images/IMD_1.PNG", f"masks/{mask}")
    image = tmp_path / "images/IMD_1.PNG"
    assert find_cases(tmp_path) == ([RawCase("IMD_1", None, image, tmp_path / "masks" / mask)], [])


@pytest.mark.parametrize("mask", ["case.1.nii", "case.1.nii.gz", "case.1_mask.NII.GZ"])
def test_volumes_are_cases_where_they_are_wanted_and_pictures_are_none_there(tmp_path, mask):
    touch(tmp_path, "images/case.1.nii.gz", f"masks/{mask}")
    image = tmp_path / "images/case.1.nii.gz"
    case = RawCase("case.1", None, image, tmp_path / "masks" / mask)
    assert find_cases(tmp_path, volumes=True) == ([case], [])
    told = "must be a picture that ends in .bmp, .jpeg, .jpg, .png, got a file that ends in ."
    assert all(told in str(finding) for finding in find_cases(tmp_path)[1])
    touch(tmp_path, "images/picture.png")
    (odd,) = find_cases(tmp_path, volumes=True)[1]
    told = "must be a volume that ends in .nii, .nii.gz, got a file that ends in .png"
    assert f"picture.png: {told}" in str(odd)


def test_how_masks_of_volumes_must_be_called_is_said_with_their_ending(tmp_path):
    for number in range(MOST_TOLD + 1):
        touch(tmp_path, f"images/v{number:02d}.nii", f"masks/v{number:02d}_label.nii")
    (told,) = tell(find_cases(tmp_path, volumes=True)[1])
    assert "must be called v00.nii.gz, v00_segmentation.nii.gz, v00_lesion.nii.gz or" in told
    assert told.endswith("there is v00_label.nii")


def test_an_ending_that_an_image_has_too_is_part_of_its_id(tmp_path):
    touch(tmp_path, "images/a_lesion.jpg", "masks/a_lesion.png")
    touch(tmp_path, "images/b_mask.jpg", "masks/b_mask_segmentation.png")
    cases, findings = find_cases(tmp_path)
    assert ([case.id for case in cases], findings) == (["a_lesion", "b_mask"], [])


def test_licence_attribution_and_hidden_files_are_passed_over(tmp_path):
    for folder in TRAINING:
        touch(tmp_path, f"{folder}/LICENSE.txt", f"{folder}/ATTRIBUTION.txt")
        touch(tmp_path, f"{folder}/.DS_Store", f"{folder}/._a.jpg")
    touch(tmp_path, f"{TRAINING[0]}/a.jpg", f"{TRAINING[1]}/a_segmentation.png")
    cases, problems = find_cases(tmp_path)
    assert [case.id for case in cases] == ["a"]
    assert problems == []


def test_cases_are_ordered_by_id_across_the_splits(tmp_path):
    for (images, masks), ids in ((TRAINING, "dbf"), (VALIDATION, "ae"), (TEST, "c")):
        for id in ids:
            touch(tmp_path, f"{images}/{id}.jpg", f"{masks}/{id}_segmentation.png")
    assert [case.id for case in find_cases(tmp_path)[0]] == list("abcdef")


def test_every_file_that_is_no_part_of_a_case_is_told_at_once(tmp_path):
    images, masks = TRAINING
    touch(tmp_path, f"{images}/good.jpg", f"{masks}/good_segmentation.png")
    touch(tmp_path, f"{images}/maskless.jpg", f"{masks}/imageless_segmentation.png")
    touch(tmp_path, f"{images}/twice.jpg", f"{images}/twice.png", f"{masks}/twice.png")
    touch(tmp_path, f"{TEST[0]}/good.jpg", f"{TEST[1]}/good_segmentation.png")
    cases, problems = find_cases(tmp_path)
    assert cases == []
    told = ": which is right cannot be told"
    assert [(finding.id, finding.defect, str(finding)) for finding in problems] == sorted(
        [
            (
                "maskless",
                "missing mask",
                f"{tmp_path}/{images}/maskless.jpg: has no mask in {tmp_path}/{masks}",
            ),
            (
                "imageless",
                "missing image",
                f"{tmp_path}/{masks}/imageless_segmentation.png: has no image in "
                f"{tmp_path}/{images}",
            ),
            (
                "twice",
                "duplicate id",
                f"{tmp_path}/{images}/twice.png: has the id of {tmp_path}/{images}/twice.jpg{told}",
            ),
            (
                "good",
                "duplicate id",
                f"{tmp_path}/{TEST[0]}/good.jpg: has the id of {tmp_path}/{images}/good.jpg{told}",
            ),
        ],
        key=lambda row: row[2],
    )
    assert {finding.outcome for finding in problems} == {"left out"}


@pytest.mark.parametrize(
    "name", ["lesion (1).jpg", "lesion 1.jpg", "lesion,1.png", "lesion.gif", "lesion.tif", "lesion"]
)
def test_an_odd_file_name_is_told_and_not_passed_over(tmp_path, name):
    touch(tmp_path, f"images/{name}", "masks/lesion.txt")
    cases, (finding,) = find_cases(tmp_path)
    assert cases == []
    assert (finding.defect, finding.file) == ("odd file name", tmp_path / "images" / name)


def test_a_pipe_among_the_images_is_told_and_not_read(tmp_path):
    touch(tmp_path, "masks/p.png")
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "p.jpg")
    _, findings = find_cases(tmp_path)
    assert {finding.defect for finding in findings} == {"odd file name", "missing image"}
    assert any("got a special file" in finding.detail for finding in findings)


def test_a_folder_that_may_be_listed_and_not_entered_is_told(tmp_path, monkeypatch):
    touch(tmp_path, "images/a.jpg", "masks/a.png")
    stat = os.stat

    def refused(path, **options):
        if str(path).endswith("a.jpg"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refused)  # as chmod a-x images does, for all but root
    with pytest.raises(UserError, match=r"images cannot be read: Permission denied; allow it"):
        find_cases(tmp_path)


def test_no_case_is_used_whose_id_a_stray_file_has_too(tmp_path):
    images, masks = TRAINING
    touch(tmp_path, f"{images}/a.jpg", f"{masks}/a_segmentation.png", f"{TEST[0]}/a.jpg")
    touch(tmp_path, f"{images}/b.jpg", f"{images}/b.png")
    cases, findings = find_cases(tmp_path)
    assert cases == []
    assert sorted(finding.file.name for finding in findings) == ["a.jpg", "b.jpg", "b.png"]


def test_accents_composed_or_apart_are_one_id(tmp_path):
    touch(tmp_path, "images/n\u00e9vus.jpg", "masks/ne\u0301vus.png")
    (case,) = find_cases(tmp_path)[0]
    assert case.id == "n\u00e9vus"


def test_a_folder_among_the_images_is_told(tmp_path):
    touch(tmp_path, "images/more/a.jpg")
    _, (finding,) = find_cases(tmp_path)
    assert finding.defect == "odd file name"


def test_two_masks_of_one_image_are_told(tmp_path):
    touch(tmp_path, "images/a.jpg", "masks/a.png", "masks/a_segmentation.png")
    assert [str(finding) for finding in find_cases(tmp_path)[1]] == [
        f"{tmp_path}/masks/a_segmentation.png: has the id of {tmp_path}/masks/a.png: which is "
        "right cannot be told"
    ]


def test_a_mask_in_another_splits_folder_is_not_taken(tmp_path):
    touch(tmp_path, f"{TRAINING[0]}/a.jpg", f"{TEST[1]}/a_segmentation.png")
    cases, problems = find_cases(tmp_path)
    assert cases == []
    assert len(problems) == 2


def test_a_folder_without_the_layout_has_no_cases(tmp_path):
    touch(tmp_path, "a.jpg", "a_segmentation.png")
    assert find_cases(tmp_path) == ([], [])


def test_of_each_defect_the_first_are_told_and_how_many_more_there_are(tmp_path):
    for number in range(MOST_TOLD + 5):
        touch(tmp_path, f"images/b{number:02d}.jpg")
    touch(tmp_path, "images/odd name.jpg", "masks/c.png")
    lines = tell(find_cases(tmp_path)[1])
    assert len(lines) == MOST_TOLD + 2 + 1 + 1
    assert lines[0] == f"{tmp_path}/images/b00.jpg: has no mask in {tmp_path}/masks"
    assert sum("odd name.jpg" in line for line in lines) == 1
    assert lines[-2] == "... and 5 more: missing mask"
    assert lines[-1].startswith(
        f"the mask of {tmp_path}/images/b00.jpg must be called b00.png, b00_"
    )


@pytest.mark.parametrize("ending", ["_gt.png", ".tif"])
def test_how_masks_must_be_called_is_said_once_where_many_are_called_otherwise(tmp_path, ending):
    for number in range(MOST_TOLD + 5):
        touch(tmp_path, f"images/b{number:02d}.jpg", f"masks/b{number:02d}{ending}")
    touch(tmp_path, "images/odd name.jpg")
    told, *lines = tell(find_cases(tmp_path)[1])
    assert told == (
        f"{MOST_TOLD + 5} images have no mask: the mask of {tmp_path}/images/b00.jpg must be "
        "called b00.png, b00_segmentation.png, b00_lesion.png or b00_mask.png; there is "
        f"b00{ending}"
    )
    assert not any("has no mask in" in line or "has no image in" in line for line in lines)
    assert sum("odd name.jpg" in line for line in lines) == 1


def test_few_findings_are_all_told_and_no_more(tmp_path):
    touch(tmp_path, "images/a.jpg", "masks/b.png")
    findings = find_cases(tmp_path)[1]
    assert tell(findings) == [str(finding) for finding in findings]


@pytest.mark.parametrize(
    ("name", "told"),
    [(b"caf\xe9.png", r"caf\xe9.png"), (b"a\nb.png", r"a\nb.png"), (b"a\x1b[2J.png", r"\x1b[2J")],
)
def test_a_name_of_any_bytes_is_one_finding_of_one_printable_line(tmp_path, name, told):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / os.fsdecode(name)).touch()
    (finding,) = find_cases(tmp_path)[1]
    assert finding.defect == "odd file name"
    assert told in str(finding)
    assert str(finding).isprintable()
    assert str(finding).encode()


def test_a_name_that_can_be_read_stays_as_it_is():
    assert printable("n\u00e9vus \u4e2d/a b.png") == "n\u00e9vus \u4e2d/a b.png"

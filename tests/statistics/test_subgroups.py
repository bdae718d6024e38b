"""statistics/subgroups.py on drawn pictures, colours against CIE's formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pipeline.engine.prepared import PreparedCases
from pipeline.statistics.subgroups import (
    BORDER,
    SIZE,
    SKIN,
    SOURCE,
    SPACING,
    VOLUME,
    group_cases,
    sources,
    terciles,
    tone,
    touches_border,
    typology_angle,
)
from pipeline.study.values import percent

SKINS = {  # sRGB
    "very light": (244, 220, 210),
    "light": (215, 178, 150),
    "intermediate": (190, 148, 117),
    "tan": (180, 135, 105),
    "brown": (140, 102, 78),
    "dark": (62, 46, 40),
}


def angle_of(red: int, green: int, blue: int) -> float:
    """The individual typology angle of a colour, by IEC 61966-2-1 and CIE 15."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (red / 255, green / 255, blue / 255)
    ]
    y = np.dot([0.212671, 0.715160, 0.072169], linear)
    z = np.dot([0.019334, 0.119193, 0.950227], linear) / 1.088754

    def f(t: float) -> float:
        return t ** (1 / 3) if t > (6 / 29) ** 3 else t * (29 / 6) ** 2 / 3 + 4 / 29

    lightness, b = 116 * f(y) - 16, 200 * (f(y) - f(z))
    return math.degrees(math.atan((lightness - 50) / b))


def picture(skin: tuple[int, int, int], *, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A dark disc on plain skin."""
    y, x = np.mgrid[:side, :side]
    mask = np.hypot(y - side / 2, x - side / 2) < side / 5
    image = np.where(mask[..., None], np.uint8([70, 40, 30]), np.uint8(skin))
    return image.astype(np.uint8), mask


@pytest.mark.parametrize("name", SKINS)
def test_the_angle_of_plain_skin_is_that_of_its_colour_and_names_its_group(name):
    found = typology_angle(*picture(SKINS[name]))
    # OpenCV looks the cube roots up: that is up to 0.4 degrees off.
    assert found == pytest.approx(angle_of(*SKINS[name]), abs=0.5)
    assert tone(found) == name


def test_lesion_its_fading_rim_vignette_and_padding_have_no_part_in_the_tone():
    image, mask = picture(SKINS["light"])
    y, x = np.mgrid[:64, :64]
    far = np.hypot(y - 32, x - 32)
    image[far > 30] = 12  # the black round the lens
    image[(~mask) & (far < 64 / 5 + 1)] = (20, 200, 20)  # a rim of another colour
    image[:6] = 0
    assert typology_angle(image, mask) == pytest.approx(angle_of(*SKINS["light"]), abs=0.5)


@pytest.mark.parametrize("across", [False, True])
def test_skin_begins_two_hundredths_of_the_diagonal_from_the_lesion(across):
    # 2 pixels of 64 x 64. On either side of the lesion, which runs through the picture, are its
    # fading rim of 2 pixels and 1 of skin.
    mask, rim = np.zeros((2, 64, 64), bool)
    mask[3:-3] = True
    rim[1:-1] = True
    if across:
        mask, rim = mask.T, rim.T
    image = np.where(rim[..., None], np.uint8(SKINS["brown"]), np.uint8(SKINS["light"]))
    assert typology_angle(image, mask) == pytest.approx(angle_of(*SKINS["light"]), abs=0.5)


def test_a_tone_is_told_of_a_fiftieth_of_the_picture_and_what_is_black_is_no_skin():
    image, mask = np.full((50, 50, 3), 40, np.uint8), np.zeros((50, 50), bool)
    image[0, :49] = SKINS["light"]
    assert typology_angle(image, mask) is None
    image[0, 49] = SKINS["light"]  # the fiftieth of 50
    assert typology_angle(image, mask) == pytest.approx(angle_of(*SKINS["light"]), abs=0.5)


def test_hairs_do_not_move_the_median():
    image, mask = picture(SKINS["intermediate"])
    image[:, ::5] = (45, 30, 25)
    assert typology_angle(image, mask) == pytest.approx(angle_of(*SKINS["intermediate"]), abs=0.5)


def test_bluish_skin_is_lighter_than_yellow_skin_and_not_darker():
    """arctan of the ratio would call it dark."""
    found = typology_angle(*picture((200, 205, 225)))
    assert found is not None
    assert found > 90
    assert tone(found) == "very light"


def test_a_picture_without_skin_has_no_tone():
    image, mask = picture(SKINS["light"])
    assert typology_angle(image, np.ones_like(mask)) is None
    assert typology_angle(np.zeros_like(image), mask) is None
    assert tone(None) == "no skin seen"


def test_tones_change_at_the_literatures_bounds():
    bounds = [(56, "very light"), (55, "light"), (41, "intermediate"), (28, "tan"), (10, "brown"),
              (-29, "brown"), (-30, "dark")]  # fmt: skip
    assert [tone(angle) for angle, _ in bounds] == [name for _, name in bounds]


def test_terciles_hold_as_many_cases_each_and_name_their_bounds():
    shares = np.random.default_rng(0).permutation(np.arange(1, 31))
    names, order = terciles(shares, percent)
    assert [names.count(group) for group in order] == [10, 10, 10]
    assert order == ["small (up to 10.7 %)", "medium (up to 20.3 %)", "large (above 20.3 %)"]
    assert names[shares.argmin()] == order[0]
    assert names[shares.argmax()] == order[2]


def test_sizes_of_few_cases_are_put_together():
    sizes = ["600 x 450"] * 10 + ["1022 x 767"] * 12 + ["3024 x 2016"] * 9
    names, order = sources(sizes, "sizes")
    assert order == ["1022 x 767", "600 x 450", "other sizes"]
    assert names[-1] == "other sizes"
    assert names[0] == "600 x 450"


@pytest.mark.parametrize(
    ("place", "touches"),
    [
        ((0, 5), True), ((1, 5), False), ((11, 5), True), ((10, 5), False),
        ((5, 0), True), ((5, 1), False), ((5, 15), True), ((5, 14), False),
    ],
)  # fmt: skip
def test_each_edge_of_the_picture_is_one_that_a_lesion_may_touch(place, touches):
    mask = np.zeros((12, 16), bool)
    mask[place] = True
    assert touches_border(mask, (120, 160), "stretch") is touches


@pytest.mark.parametrize(
    ("resize", "row", "touches"),
    [("stretch", 0, True), ("stretch", 1, False), ("pad", 16, True), ("pad", 17, False)],
)
def test_a_lesion_touches_the_edge_of_what_is_shown_and_not_of_padding(resize, row, touches):
    mask = np.zeros((64, 64), bool)
    mask[row : row + 5, 30:35] = True
    # Padded, an original twice as wide as high fills rows 16 to 47.
    assert touches_border(mask, (300, 600), resize) is touches


def test_every_case_is_in_one_group_of_each_grouping():
    names = list(SKINS)
    drawn = [picture(SKINS[names[number % 6]]) for number in range(24)]
    masks = np.stack([mask for _, mask in drawn])
    masks[:4, :30, 30] = True
    table = pd.DataFrame({"id": [f"c{n}" for n in range(24)], "split": "test"})
    table["height"], table["width"] = 450, [600] * 12 + [800] * 12
    cases = PreparedCases(
        np.stack([image for image, _ in drawn]), masks.astype(np.uint8), table, fingerprint=""
    )
    places = list(range(2, 24))
    found = group_cases(cases, places, "stretch")
    assert list(found) == [SIZE, BORDER, SOURCE, SKIN]
    for groups in found.values():
        assert sorted(np.concatenate(list(groups.values())).tolist()) == list(range(22))
    assert found[BORDER]["touches it"].tolist() == [0, 1]
    assert {group: len(own) for group, own in found[SOURCE].items()} == {
        "800 x 450": 12,
        "600 x 450": 10,
    }
    assert list(found[SKIN]) == names
    assert found[SKIN]["very light"].tolist() == [4, 10, 16]


def test_a_lesion_at_padding_touches_the_border_of_its_group_too():
    image, mask = picture(SKINS["light"])
    mask[16, 10:50] = True  # an original twice as wide as high fills rows 16 to 47
    table = pd.DataFrame({"id": ["a"], "split": "test", "height": 300, "width": 600})
    cases = PreparedCases(image[None], mask[None].astype(np.uint8), table, fingerprint="")
    assert list(group_cases(cases, [0], "pad")[BORDER]) == ["touches it"]
    assert list(group_cases(cases, [0], "stretch")[BORDER]) == ["within the picture"]


def volumes(millilitres, spacings):
    """Cases of 16 x 20 x 30 voxels, their lesions away from the sides."""
    masks = np.zeros((len(millilitres), 8, 10, 10), np.uint8)
    masks[:, 2:4, 2:7, 2:7] = 1
    table = pd.DataFrame({"id": range(len(millilitres)), "split": "test"})
    table["depth"], table["height"], table["width"] = 16, 20, 30
    table[["depth_mm", "height_mm", "width_mm"]] = spacings
    table["lesion_ml"] = millilitres
    images = np.zeros((*masks.shape, 1), np.uint8)
    return PreparedCases(images, masks, table, fingerprint="")


def sizes(found):
    return {group: own.tolist() for group, own in found.items()}


def test_volumes_are_grouped_by_millilitres_and_by_spacing():
    spacings = [[2.0, 0.75, 0.5]] * 10 + [[4.0, 1.5, 1.0]] * 2
    cases = volumes([0.004] * 4 + [20.5] * 4 + [1190.0, 1190.0, 1530.0, 1200.0], spacings)
    cases.masks[0, 0, 5] = 1
    found = group_cases(cases, list(range(12)), "stretch")
    assert list(found) == [VOLUME, BORDER, SPACING]
    assert sizes(found[VOLUME]) == {
        "small (up to 13.7 ml)": [0, 1, 2, 3],
        "medium (up to 410 ml)": [4, 5, 6, 7],
        "large (above 410 ml)": [8, 9, 10, 11],
    }
    assert sizes(found[BORDER]) == {"within the volume": list(range(1, 12)), "touches it": [0]}
    assert sizes(found[SPACING]) == {
        "0.5 x 0.75 x 2 mm": list(range(10)),
        "other spacings": [10, 11],
    }
    whole = group_cases(cases, list(range(8, 12)), "stretch")
    assert next(iter(whole[VOLUME])) == "small (up to 1190 ml)"


def test_one_spacing_is_one_group_whatever_an_affines_last_digits():
    """500 mm over 512 voxels are 0.9765625 mm: six digits would be a tie."""
    noise = np.random.default_rng(0).normal(scale=1e-7, size=(12, 3))
    cases = volumes([1.0] * 12, noise + np.array([3.0, 0.9765625, 0.9765625]))
    found = group_cases(cases, list(range(12)), "stretch")
    assert sizes(found[SPACING]) == {"0.977 x 0.977 x 3 mm": list(range(12))}

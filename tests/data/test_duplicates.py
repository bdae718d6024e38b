"""Near-duplicates: what the sieve finds against brute force, and which copies are confirmed."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from pipeline.data import duplicates
from pipeline.data.duplicates import (
    HASHES,
    Features,
    Pair,
    candidate_pairs,
    confirm,
    find,
    fingerprint,
    groups,
    local_features,
    thumbnail,
)
from pipeline.data.synthetic import draw_case

Picture = NDArray[np.uint8]  # (height, width, 3) RGB


def found_among(images: list[Picture]) -> list[Pair]:
    thumbnails = [thumbnail(image) for image in images]
    features = [local_features(small) for small in thumbnails]
    fingerprints = np.array([fingerprint(each) for each in features])
    return find(fingerprints, thumbnails.__getitem__, features.__getitem__)


def drawn(count: int, height: int = 192, width: int = 256) -> list[Picture]:
    return [draw_case(7, index, height=height, width=width)[0] for index in range(count)]


def warped(image: Picture, degrees: float, zoom: float) -> Picture:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, zoom)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT))


def jpeg(image: Picture) -> Picture:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


COPIES: dict[str, Callable[[Picture], Picture]] = {
    "gamma": lambda image: np.rint(255 * (image / 255) ** 0.7).astype(np.uint8),
    "white balance": lambda image: np.rint(image * [0.8, 0.95, 1.0]).astype(np.uint8),
    "saturation": lambda image: np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(0.4)),
    "cropped by a tenth": lambda image: image[10:182, 13:243],
    "cropped by a quarter": lambda image: image[24:168, 32:224],
    "larger": lambda image: np.asarray(Image.fromarray(image).resize((500, 375))),
    "recompressed": jpeg,
    "turned by 20 degrees": lambda image: warped(image, 20, 1.0),
    "turned by 90 degrees": lambda image: np.ascontiguousarray(np.rot90(image)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_found_and_nothing_else(name: str):
    originals = drawn(4)
    pairs = found_among(originals + [COPIES[name](image) for image in originals])
    joined = {(pair.first, pair.second) for pair in pairs}
    wanted = {(index, index + 4) for index in range(4)}
    assert joined == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(64, 64), (72, 96), (192, 256)])
def test_drawn_cases_are_no_duplicates_of_each_other(height: int, width: int):
    assert found_among(drawn(20, height, width)) == []


def test_pictures_without_features_give_no_pairs_and_no_warnings():
    flat = [np.full((32, 32, 3), grey, np.uint8) for grey in (0, 0, 128, 255)]
    narrow = np.full((32, 900, 3), 9, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found_among([*flat, narrow]) == []
        assert found_among(flat[:1]) == []
        none = candidate_pairs(np.zeros((0, HASHES, duplicates.WORDS), np.uint64))
    assert none[0].shape == (0, 2)
    assert none[1].shape == (0,)


def labelled(seed: int) -> Picture:
    """A picture of its own with the label that all of them bear on a fortieth of it."""
    detail = cv2.GaussianBlur(np.random.default_rng(seed).normal(128, 150, (192, 256)), (0, 0), 1.5)
    detail[:16, :80] = (
        np.random.default_rng(99).choice([30, 230], (4, 20)).repeat(4, 0).repeat(4, 1)
    )
    return np.repeat(detail.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def test_pictures_that_share_a_label_and_nothing_else_are_no_pair():
    thumbnails = [thumbnail(labelled(seed)) for seed in (0, 1, 0)]
    features = [local_features(small) for small in thumbnails]
    pairs, distances = np.array([[0, 1], [0, 2], [1, 2]]), np.zeros(3, np.int64)
    of_case = (thumbnails.__getitem__, features.__getitem__)
    (copied,) = confirm(pairs, distances, *of_case)
    assert (copied.first, copied.second) == (0, 2)
    assert copied.correlation == pytest.approx(1)
    every = confirm(pairs, distances, *of_case, min_correlation=-1)
    assert len(every) == 3  # the label's features alone carry enough over
    assert all(abs(pair.correlation) < 0.15 for pair in every if pair != copied)


@pytest.mark.slow
def test_the_same_input_gives_the_same_pairs():
    images = drawn(3)
    images += [warped(image, 10, 1.1) for image in images]
    assert found_among(images) == found_among(images) != []


def planted(rng: np.random.Generator, cases: int, copies: int, flips: int) -> NDArray[np.uint64]:
    """Random fingerprints; the last `copies` are the first ones' with `flips` bits changed."""
    hashes = rng.integers(1, 2**64, (cases, HASHES, duplicates.WORDS), np.uint64)
    for case in range(copies):
        bits = np.unpackbits(hashes[case].view(np.uint8), axis=1)
        for row in bits:
            row[rng.choice(bits.shape[1], flips, replace=False)] ^= 1
        hashes[cases - copies + case] = np.packbits(bits, axis=1).view(np.uint64)
    return hashes


def test_the_sieve_finds_what_brute_force_finds():
    hashes = planted(np.random.default_rng(3), cases=24, copies=8, flips=9)
    bits = np.unpackbits(hashes.reshape(-1, duplicates.WORDS).view(np.uint8), axis=1)
    signs = 2 * bits.astype(np.float32) - 1
    distance = ((bits.shape[1] - signs @ signs.T) / 2).reshape(24, HASHES, 24, HASHES)
    closest = distance.min(axis=(1, 3))
    near = {(a, b) for a, b in zip(*np.nonzero(closest <= 28), strict=True) if a < b}
    pairs, distances = candidate_pairs(hashes)
    assert {(a, b) for a, b in pairs.tolist()} == near == {(a, a + 16) for a in range(8)}
    assert distances.tolist() == [closest[a, b] for a, b in pairs] == [9] * 8


def test_in_a_crowd_most_features_of_a_copy_are_found():
    """A pair has twice HASHES to find: from both sides."""
    hashes = planted(np.random.default_rng(1), cases=200, copies=60, flips=20)
    pairs, _ = candidate_pairs(hashes, min_matches=HASHES)
    assert pairs.tolist() == [[case, case + 140] for case in range(60)]


def test_candidates_are_bounded_where_all_cases_are_alike():
    hashes = np.repeat(planted(np.random.default_rng(4), 1, 0, 0), 300, axis=0)
    pairs, _ = candidate_pairs(hashes, candidates=5)
    assert 0 < len(pairs) <= 5 * 300


def sharing(*shared: tuple[int, int, int], cases: int = 4, flips: int = 0) -> NDArray[np.uint64]:
    """Random fingerprints; of each (case, other, number) the first `number` free hashes of `other`
    are those of `case` with `flips` bits changed."""
    rng = np.random.default_rng(5)
    hashes = rng.integers(1, 2**64, (cases, HASHES, duplicates.WORDS), np.uint64)
    used = [0] * cases
    for case, other, number in shared:
        for _ in range(number):
            place = max(used[case], used[other])
            bits = np.unpackbits(hashes[case, place].view(np.uint8))
            bits[rng.choice(128, flips, replace=False)] ^= 1
            hashes[other, place] = np.packbits(bits).view(np.uint64)
            used[case] = used[other] = place + 1
    return hashes


def test_a_pair_needs_its_matches_counted_from_both_sides():
    # One hash in common is two matches: each is the other's nearest.
    hashes = sharing((0, 1, 1), (2, 3, 2))
    for matches, pairs in ((2, [[0, 1], [2, 3]]), (3, [[2, 3]]), (4, [[2, 3]]), (5, [])):
        assert candidate_pairs(hashes, min_matches=matches)[0].tolist() == pairs
    assert candidate_pairs(hashes)[0].tolist() == [[2, 3]]


def test_a_match_differs_in_so_many_bits_at_most():
    hashes = sharing((0, 1, 3), flips=12)
    pairs, distances = candidate_pairs(hashes, hash_distance=12)
    assert (pairs.tolist(), distances.tolist()) == ([[0, 1]], [12])
    assert len(candidate_pairs(hashes, hash_distance=11)[0]) == 0


def test_a_pair_is_kept_where_it_is_among_the_best_of_either_case():
    # Case 0 matches 1 best, then 2, then 3. For 2 and 3 it is the only one.
    hashes = sharing((0, 1, 6), (0, 2, 4), (0, 3, 2), (1, 4, 3), (1, 5, 2), cases=6)
    assert candidate_pairs(hashes, candidates=1)[0].tolist() == [
        [0, 1],
        [0, 2],
        [0, 3],
        [1, 4],
        [1, 5],
    ]
    # Of a triangle the weakest side is no case's best.
    triangle = sharing((0, 1, 6), (0, 2, 4), (1, 2, 2), cases=3)
    assert candidate_pairs(triangle, candidates=1)[0].tolist() == [[0, 1], [0, 2]]
    assert candidate_pairs(triangle, candidates=2)[0].tolist() == [[0, 1], [0, 2], [1, 2]]


def test_a_thumbnail_is_grey_and_no_larger_than_it_need_be():
    for sides, expected in (
        ((600, 450), (256, 192)),
        ((384, 1024), (96, 256)),
        ((256, 100), (256, 100)),
        ((40, 30), (40, 30)),
        ((200, 150), (200, 150)),
        ((10, 1000), (8, 256)),
        ((512, 257), (256, 128)),
    ):
        small = thumbnail(np.zeros((*sides, 3), np.uint8))
        assert (small.shape, small.dtype) == (expected, np.uint8)
    colours = np.uint8([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]])
    # Rec. 601's weights of red, green and blue; a shrunk pixel is the mean of those it covers.
    assert thumbnail(colours)[0].tolist() == [76, 150, 29]
    stripes = np.repeat(np.uint8([0, 200]), 3).reshape(1, 2, 3).repeat(512, 0).repeat(1, 1)
    assert set(thumbnail(np.tile(stripes, (1, 256, 1))).ravel().tolist()) == {100}


def test_descriptors_become_roots_of_shares():
    descriptors = np.zeros((3, 128), np.uint8)
    descriptors[0, :4] = 1, 4, 9, 2
    descriptors[1] = 255
    found = duplicates.root_sift(descriptors)
    np.testing.assert_allclose(found[0, :4], np.sqrt(np.array([1, 4, 9, 2]) / 16), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.sqrt(1 / 128), rtol=1e-6)
    assert (found[2] == 0).all()
    assert found.dtype == np.float32


def test_a_fingerprint_tells_the_side_of_the_mean_along_each_direction():
    rng = np.random.default_rng(0)
    descriptors = rng.integers(0, 256, (HASHES + 5, 128), dtype=np.uint8)
    features = Features(np.zeros((len(descriptors), 2), np.float32), descriptors)
    hashes = fingerprint(features)
    assert (hashes.shape, hashes.dtype) == (duplicates.FINGERPRINT, np.uint64)
    roots = duplicates.root_sift(descriptors)
    bits = (roots[:HASHES] - roots.mean(axis=0)) @ duplicates._directions() > 0
    np.testing.assert_array_equal(
        np.unpackbits(hashes.view(np.uint8).reshape(HASHES, -1), axis=1), bits
    )
    few = fingerprint(Features(features.places[:4], descriptors[:4]))
    assert few[:4].all()
    assert not few[4:].any()
    directions = duplicates._directions()
    np.testing.assert_allclose(directions.T @ directions, np.eye(128), atol=1e-5)


def test_features_are_the_strongest_coarse_ones_first_and_no_more_than_asked():
    small = thumbnail(drawn(1)[0])
    every, some = local_features(small, 300), local_features(small, 40)
    assert len(some.places) == len(some.descriptors) == 40 < len(every.places) <= 300
    assert (every.places.dtype, every.descriptors.dtype) == (np.float32, np.uint8)
    sift = cv2.SIFT.create(300, contrastThreshold=0.01)
    found = sift.detect(duplicates.equalised(small), None)
    ordered = sorted(found, key=lambda each: (each.size <= duplicates.FINE, -each.response))[:300]
    np.testing.assert_allclose(every.places, [each.pt for each in ordered])


def textured(seed: int, sides: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(128, 100, sides)
    return cv2.GaussianBlur(noise, (0, 0), 1.5).clip(0, 255).astype(np.uint8)


def test_details_correlate_under_the_map_and_shading_does_not_count():
    picture, same = textured(0), np.eye(2, 3)
    assert duplicates.correlation(picture, picture, same) == pytest.approx(1)
    assert duplicates.correlation(picture, 255 - picture, same) == pytest.approx(-1)
    assert abs(duplicates.correlation(picture, textured(1), same)) < 0.1
    moved = np.array([[1.0, 0, 7], [0, 1, -4]])  # from `picture` to `there`
    there = np.roll(picture, (-4, 7), axis=(0, 1))
    assert duplicates.correlation(picture, there, moved) > 0.8  # black comes in at two edges
    assert duplicates.correlation(picture, there, same) < 0.5
    shading = np.linspace(0, 60, 160)
    shaded = (picture * 0.7 + shading).astype(np.uint8)
    assert duplicates.correlation(picture, shaded, same) > 0.98


def test_without_details_or_enough_overlap_nothing_correlates():
    picture = textured(0)
    flat = np.full_like(picture, 90)
    assert duplicates.correlation(picture, flat, np.eye(2, 3)) == 0
    for shift, some in ((150, True), (153, False)):  # 10 and 7 of 160 columns overlap
        map = np.array([[1.0, 0, shift], [0, 1, 0]])
        there = np.roll(picture, shift, axis=1)
        assert (duplicates.correlation(picture, there, map) > 0.5) is some


def features_at(places: NDArray[np.float32], seed: int = 0) -> Features:
    """Features at those places, each with a descriptor of its own; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return Features(places, rng.integers(0, 2, (len(places), 128), dtype=np.uint8) * 200)


def grid(step: float = 20) -> NDArray[np.float32]:
    return np.float32([(x, y) for x in np.arange(5) * step for y in np.arange(4) * step])


@pytest.mark.parametrize(
    ("map", "inliers"),
    [
        ([[1, 0, 0], [0, 1, 0]], 20),
        ([[0, -1, 80], [1, 0, 3]], 20),
        ([[2.9, 0, 1], [0, 2.9, 1]], 20),
        ([[3.1, 0, 1], [0, 3.1, 1]], 0),  # nobody zooms so far
        ([[3.1, 0, 1], [0, 2.0, 1]], 0),
        ([[1 / 2.9, 0, 9], [0, 1 / 2.9, 9]], 20),
        ([[1 / 3.1, 0, 9], [0, 1 / 3.1, 9]], 0),
        ([[0.5, 0, 9], [0, 1 / 3.1, 9]], 0),
        ([[1.9, 0, 0], [0, 1, 0]], 20),
        ([[2.1, 0, 0], [0, 1, 0]], 0),  # nor stretches
    ],
)
def test_features_that_an_affine_map_carries_over_are_common(map, inliers):
    here = grid()
    there = (here @ np.array(map)[:, :2].T + np.array(map)[:, 2]).astype(np.float32)
    found, transform = duplicates.common_features(features_at(here), features_at(there))
    assert found == inliers
    np.testing.assert_allclose(transform, map if inliers else np.eye(2, 3), atol=1e-3)


def test_features_on_one_spot_are_one_proof_and_strangers_none():
    here = grid()
    crowded = np.concatenate([here, here + np.float32([0.3, 0.2])])
    assert duplicates.common_features(features_at(crowded), features_at(crowded))[0] == 20
    for one, other in (
        (features_at(here), features_at(here, seed=1)),
        (features_at(here[:2]), features_at(here)),
        (features_at(here), features_at(here[:2])),
    ):
        assert duplicates.common_features(one, other)[0] == 0
    corner = features_at(here[[0, 1, 4]])
    assert duplicates.common_features(corner, corner)[0] == 3


def test_a_pair_is_confirmed_from_nine_inliers_on_and_keeps_its_distance():
    small = [thumbnail(drawn(1)[0])] * 2
    pairs, distances = np.array([[0, 1]]), np.array([13])
    for count, confirmed in ((8, 0), (9, 1)):
        features = [features_at(grid()[:count])] * 2
        of_case = (small.__getitem__, features.__getitem__)
        found = confirm(pairs, distances, *of_case)
        assert len(found) == confirmed
        (pair,) = confirm(pairs, distances, *of_case, min_inliers=8)
        assert pair[:4] == (0, 1, 13, count)
        assert pair.correlation == pytest.approx(1)


def test_groups_are_joined_through_others_and_named_by_the_smallest():
    pairs = [Pair(4, 6, 0, 9, 1.0), Pair(1, 6, 0, 9, 1.0), Pair(2, 3, 0, 9, 1.0)]
    assert groups(8, pairs).tolist() == [0, 1, 2, 2, 1, 5, 1, 7]
    assert groups(3, []).tolist() == [0, 1, 2]


def test_pairs_and_known_groups_are_joined_together():
    pairs = [Pair(1, 4, 0, 9, 1.0)]
    known = ["x", None, None, "x", "y", "y", None]
    assert groups(7, pairs, known).tolist() == [0, 1, 2, 0, 1, 1, 6]
    assert groups(7, [], known).tolist() == [0, 1, 2, 0, 4, 4, 6]
    assert groups(7, [Pair(3, 5, 0, 9, 1.0)], known).tolist() == [0, 1, 2, 0, 0, 0, 6]


# Seen side by side: one photograph in two colour balances, cropped and scaled, and turned.
REAL_PAIRS = [
    ("ISIC_0000215", "ISIC_0015313"),
    ("ISIC_0000229", "ISIC_0014771"),
    ("ISIC_0000196", "ISIC_0014957"),
    ("ISIC_0000420", "ISIC_0009910"),
    ("ISIC_0000439", "ISIC_0010853"),
    ("ISIC_0000443", "ISIC_0010173"),
    ("ISIC_0015960", "ISIC_0015961"),
]


@pytest.mark.slow
def test_real_pairs_are_found_and_no_others(real_cases: Path):
    paths = {path.stem: path for path in sorted(real_cases.glob("*Training_Input/*.jpg"))}
    ids = [id for id in list(paths)[::100] if id not in sum(REAL_PAIRS, ())]
    ids += [id for pair in REAL_PAIRS for id in pair]
    pairs = found_among([np.asarray(Image.open(paths[id])) for id in ids])
    assert {(ids[pair.first], ids[pair.second]) for pair in pairs} == set(REAL_PAIRS)

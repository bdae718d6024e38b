"""Near-duplicates: cases that show one lesion twice, recoloured, cropped, scaled or turned.

Two steps. A sieve compares hashes of the strongest local features of all cases and names a few
candidates for each case, in nearly linear time. Then local features (SIFT: Lowe 2004,
doi:10.1023/B:VISI.0000029664.99615.94, as RootSIFT: Arandjelovic and Zisserman 2012,
doi:10.1109/CVPR.2012.6248018) are matched between the two pictures of every candidate pair, and the
pair stands if one affine map carries enough of them over and the pictures agree under it.

A hash of the whole picture would not do, since photographs of one lesion differ in framing: the low
DCT frequencies of five crops rank 30 of 53 pairs among a case's 10 nearest, hashes of local
features 48 (2,000 cases of ISIC 2018). Mirrored copies are not looked for: none was seen there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.study.cores import usable_cores

LONG_SIDE = 256  # of a thumbnail at most, in pixels
HASHES = 96  # features of a case that the sieve knows
WORDS = 2  # of 64 bits in a hash
FINE = 3.0  # pixels: smaller features are often noise, and another photograph's is another
FEATURES = 500  # features of a case that are matched to confirm a pair
TABLES = 16  # sorted orders of the hashes in which the sieve looks for neighbours
NEIGHBOURS = 4  # places up an order that it looks
MATCH_RATIO = 0.85  # nearest to second nearest descriptor; Lowe: 0.8
MOST_ZOOM = 3.0  # between two pictures of one lesion
BLOCK = 1 << 20  # hashes compared at once: memory stays flat

FINGERPRINT = (HASHES, WORDS)  # the shape of a fingerprint

Thumbnail = NDArray[np.uint8]  # (height, width), grey
Picture = NDArray[np.uint8]  # the same, equalised

# The callers run one worker a core; OpenCV's own threads, once started, hang in forked processes.
cv2.setNumThreads(1)


class Features(NamedTuple):
    """The keypoints of one picture: coarse ones before fine ones, strong before weak."""

    places: NDArray[np.float32]  # (n, 2): x, y in the picture's pixels
    descriptors: NDArray[np.uint8]  # (n, 128)


class Pair(NamedTuple):
    """Two cases that show the same lesion; first < second."""

    first: int
    second: int
    distance: int  # bits of 128 in which their closest hashes differ
    inliers: int  # features that one affine map carries from one to the other
    correlation: float  # of the two pictures' details under that map, -1 to 1


def thumbnail(image: NDArray[np.uint8]) -> Thumbnail:
    """RGB (H, W, 3) in grey (h, w), uint8, with at most LONG_SIDE pixels on its long side."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    scale = LONG_SIDE / max(grey.shape)
    if scale < 1:
        height, width = (max(8, round(side * scale)) for side in grey.shape)
        grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)


def equalised(small: Thumbnail) -> Picture:
    """The thumbnail, its contrast equalised locally (CLAHE), which undoes most of a colour balance
    and the lamp."""
    return np.asarray(cv2.createCLAHE(3.0, (4, 4)).apply(small), np.uint8)


def local_features(small: Thumbnail, count: int = FEATURES) -> Features:
    """The `count` strongest SIFT features of a thumbnail; fewer, or none, where it is flat."""
    picture = equalised(small)
    # A lower contrast than Lowe's 0.04 counts: skin has little.
    sift = cv2.SIFT.create(count, contrastThreshold=0.01)
    keypoints, descriptors = sift.detectAndCompute(picture, None)
    if descriptors is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
    fine = [keypoint.size <= FINE for keypoint in keypoints]
    order = np.lexsort(([-keypoint.response for keypoint in keypoints], fine))[:count]
    places = np.array([keypoint.pt for keypoint in keypoints], np.float32)
    return Features(places[order], descriptors[order].astype(np.uint8))


def root_sift(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Descriptors (n, 128) of unit length whose dot product is Hellinger's kernel, 0 to 1."""
    values = descriptors.astype(np.float32)
    return np.asarray(np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1)))


def fingerprint(features: Features) -> NDArray[np.uint64]:
    """Hashes (HASHES, WORDS), uint64, of a thumbnail's first local features.

    Each bit tells on which side of the image's mean descriptor a feature lies along one random
    direction (Charikar 2002, doi:10.1145/509907.509965), so features that are alike differ in few
    of the 128 bits. 0 stands where the image has fewer features.
    """
    descriptors = root_sift(features.descriptors)
    hashes = np.zeros((HASHES, WORDS), np.uint64)
    if len(descriptors):
        centred = descriptors[:HASHES] - descriptors.mean(axis=0)
        bits = centred @ _directions() > 0
        hashes[: len(bits)] = np.packbits(bits, axis=1).view(np.uint64)
    return hashes


@lru_cache(1)
def _directions() -> NDArray[np.float32]:
    """(128, 64 * WORDS) orthonormal random directions, always the same."""
    drawn = np.random.default_rng(0).standard_normal((128, 64 * WORDS))
    return np.linalg.qr(drawn)[0].astype(np.float32)


def candidate_pairs(
    fingerprints: NDArray[np.uint64],
    *,
    hash_distance: int = 28,
    min_matches: int = 3,
    candidates: int = 10,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (n, 2) of cases that share features, first < second, in order; their distances (n,).

    fingerprints is (cases, HASHES, WORDS). A match is a hash whose nearest in another case differs
    in at most `hash_distance` of 128 bits. A pair needs `min_matches`, counted from both sides, and
    to be among the `candidates` pairs with most matches of either case. Its distance is its closest
    match's.
    """
    count = len(fingerprints)
    partners, nearest = _nearest_cases(fingerprints.reshape(-1, WORDS), hash_distance)
    found = np.flatnonzero(partners >= 0)
    if not len(found):
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    partners, nearest = partners[found], nearest[found]
    found //= HASHES
    # One number a match, pair before distance, made in place: at 100,000 cases it takes 80 MB.
    keys = np.minimum(found, partners)
    np.maximum(found, partners, out=found)
    keys *= count
    keys += found
    keys *= 256
    keys += nearest
    del found, partners, nearest
    keys.sort()
    starts = np.flatnonzero(np.diff(keys >> 8, prepend=-1))
    matches = np.diff(starts, append=len(keys))
    codes, distances = np.divmod(keys[starts], 256)
    enough = matches >= min_matches
    pairs = np.stack(np.divmod(codes, count), axis=1)[enough]
    kept = _among_best(pairs, matches[enough], candidates)
    return pairs[kept], distances[enough][kept]


def _nearest_cases(
    hashes: NDArray[np.uint64], hash_distance: int
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The other case (n,) that holds a hash's nearest, -1 where none is within `hash_distance`,
    and the distance (n,) to it.

    Neighbours are looked for a few places along sorted orders of the rotated hashes (Manku et al.
    2007, doi:10.1145/1242572.1242592): a near one is missed at times, and time grows as n log n
    however alike the cases are.
    """
    nearest = np.full(len(hashes), hash_distance + 1, np.uint8)
    partners = np.full(len(hashes), -1, np.int32)
    index_bits = np.uint64(len(hashes).bit_length())
    index_mask = (np.uint64(1) << index_bits) - np.uint64(1)
    for table in range(TABLES):
        word, turn = hashes[:, table % WORDS], table // WORDS * (64 * WORDS // TABLES)
        keys = np.empty(len(hashes), np.uint64)
        for start in range(0, len(keys), BLOCK):
            part = word[start : start + BLOCK]
            rotated = (part << np.uint64(turn)) | (part >> np.uint64((64 - turn) % 64))
            # The index in the last bits leaves no ties, and sorting is faster than argsort.
            indices = np.arange(start, start + len(part), dtype=np.uint64)
            keys[start : start + BLOCK] = (rotated & ~index_mask) | indices
        keys.sort()
        for start in range(0, len(keys), BLOCK):
            block = (keys[start : start + BLOCK + NEIGHBOURS] & index_mask).astype(np.int32)
            block = block[word[block] != 0]  # 0 is no feature
            values = [hashes[block, column] for column in range(WORDS)]
            for step in range(1, NEIGHBOURS + 1):
                distance = np.zeros(max(0, len(block) - step), np.uint8)
                for value in values:
                    distance += np.bitwise_count(value[:-step] ^ value[step:])
                close = np.flatnonzero(distance <= hash_distance)
                close = close[block[close] // HASHES != block[close + step] // HASHES]
                low, high, distance = block[close], block[close + step], distance[close]
                for one, other in ((low, high), (high, low)):
                    better = distance < nearest[one]
                    nearest[one[better]] = distance[better]
                    partners[one[better]] = other[better] // HASHES
    return partners, nearest


def _among_best(
    pairs: NDArray[np.int64], matches: NDArray[np.int64], best: int
) -> NDArray[np.bool_]:
    """Whether a pair (n, 2) is among the `best` of either case's by matches; ties by order."""
    cases = pairs.T.ravel()
    order = np.lexsort((np.tile(-matches, 2), cases))
    cases = cases[order]
    rank = np.arange(len(cases)) - np.searchsorted(cases, cases)
    kept = np.zeros(len(pairs), np.bool_)
    kept[order[rank < best] % max(1, len(pairs))] = True
    return kept


def confirm(
    pairs: NDArray[np.int64],
    distances: NDArray[np.int64],
    thumbnail_of: Callable[[int], Thumbnail],
    features_of: Callable[[int], Features],
    *,
    min_inliers: int = 9,
    min_correlation: float = 0.15,
) -> list[Pair]:
    """Those of the candidate pairs (n, 2) that show one lesion, in their order.

    thumbnail_of and features_of give a case's `thumbnail` and `local_features` by its index;
    threads call them at once. A pair needs `min_inliers` features that one affine map carries over,
    and pictures whose details correlate by `min_correlation` under it: scales, bubbles and
    hairs give a few inliers, not a like picture.
    """

    def compare(pair: NDArray[np.int64]) -> tuple[int, float]:
        first, second = (int(index) for index in pair)
        inliers, transform = common_features(features_of(first), features_of(second))
        if inliers < min_inliers:
            return inliers, 0.0
        one, other = (equalised(thumbnail_of(index)) for index in (first, second))
        return inliers, correlation(one, other, transform)

    # Threads suffice: OpenCV and NumPy let go of the interpreter's lock.
    with ThreadPool(usable_cores()) as pool:
        results = pool.map(compare, pairs)
    return [
        Pair(int(first), int(second), int(distance), inliers, alike)
        for (first, second), distance, (inliers, alike) in zip(
            pairs, distances, results, strict=True
        )
        if inliers >= min_inliers and alike >= min_correlation
    ]


def common_features(one: Features, other: Features) -> tuple[int, NDArray[np.float64]]:
    """How many features one affine map carries from `one` to `other`, and the map (2, 3).

    Matches are mutual nearest neighbours that pass Lowe's ratio test; affine, because photographs
    of other proportions are stretched to one size. 0 where the map is none a photographer makes.
    """
    none = 0, np.eye(2, 3)
    if min(len(one.places), len(other.places)) < 3:
        return none
    similarity = root_sift(one.descriptors) @ root_sift(other.descriptors).T
    match = similarity.argmax(axis=1)
    mutual = similarity.argmax(axis=0)[match] == np.arange(len(match))
    runner_up, best = np.partition(similarity, -2, axis=1)[:, -2:].T
    # Between unit vectors the squared distance is 2 - 2 * similarity.
    chosen = np.flatnonzero(mutual & (1 - best < MATCH_RATIO**2 * (1 - runner_up)))
    if len(chosen) < 3:
        return none
    here, there = one.places[chosen], other.places[match[chosen]]
    transform, inside = cv2.estimateAffine2D(
        here, there, ransacReprojThreshold=3, maxIters=2000, confidence=0.999
    )
    if transform is None or not np.isfinite(transform).all():
        return none
    stretch = np.linalg.svd(transform[:, :2], compute_uv=False)
    if stretch[0] > MOST_ZOOM or stretch[1] < 1 / MOST_ZOOM or stretch[0] > 2 * stretch[1]:
        return none
    # Features on one spot, such as a corner's at several scales, are one proof.
    spots = np.unique(np.rint(here[inside.ravel() == 1] / 3), axis=0)
    return len(spots), np.asarray(transform, np.float64)


def correlation(one: Picture, other: Picture, transform: NDArray[np.float64]) -> float:
    """Of the details of two pictures where they overlap, `transform` leading from one to other.

    Details are what a blur of 8 pixels takes away, so shading and the lens's dark rim count little.
    0 where less than a twentieth of `one` overlaps.
    """
    size, flags = one.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid_over = cv2.warpAffine(other, transform, size, flags=flags)
    inside = cv2.warpAffine(np.ones_like(other), transform, size, flags=flags) > 0
    if inside.mean() < 0.05:
        return 0.0
    here, there = (
        (picture - cv2.GaussianBlur(picture, (0, 0), 8))[inside]
        for picture in (one.astype(np.float32), laid_over.astype(np.float32))
    )
    here, there = here - here.mean(), there - there.mean()
    spread = float(np.linalg.norm(here) * np.linalg.norm(there))
    return float(here @ there) / spread if spread else 0.0


def find(
    fingerprints: NDArray[np.uint64],
    thumbnail_of: Callable[[int], Thumbnail],
    features_of: Callable[[int], Features],
    *,
    hash_distance: int = 28,
    min_matches: int = 3,
    candidates: int = 10,
    min_inliers: int = 9,
    min_correlation: float = 0.15,
) -> list[Pair]:
    """The near-duplicates among all cases: `candidate_pairs`, then `confirm`."""
    pairs, distances = candidate_pairs(
        fingerprints, hash_distance=hash_distance, min_matches=min_matches, candidates=candidates
    )
    return confirm(
        pairs,
        distances,
        thumbnail_of,
        features_of,
        min_inliers=min_inliers,
        min_correlation=min_correlation,
    )


def groups(
    count: int, pairs: Sequence[Pair], known: Sequence[str | None] = ()
) -> NDArray[np.int64]:
    """The smallest case that each case is joined to, (count,), by pairs and by known groups, also
    through others.

    known: (count,), the name of each case's known group, None for none; or empty.
    """
    first = [pair.first for pair in pairs]
    second = [pair.second for pair in pairs]
    first_of: dict[str, int] = {}
    for case, name in enumerate(known):
        if name is not None:
            first.append(first_of.setdefault(name, case))
            second.append(case)
    links = coo_array((np.ones(len(first), np.uint8), (first, second)), shape=(count, count))
    _, labels = connected_components(links, directed=False)
    _, smallest = np.unique(labels, return_index=True)
    return np.asarray(smallest[labels], np.int64)

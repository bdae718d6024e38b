"""Whom a network may serve badly: the test cases in groups.

Groups are of what a case shows, found from the prepared arrays and the original's size. Skin tone
is an estimate: the colours are not calibrated, and skin is what is left of the picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.geometry import place
from pipeline.data.slices import AXES
from pipeline.engine.prepared import PreparedCases
from pipeline.study.values import Resize, percent, significant

Named = tuple[list[str], list[str]]  # the group of each case, and the groups in order

FEWEST_CASES = 10  # below them a group has no interval
SIZE = "lesion size"
VOLUME = "lesion volume"
BORDER = "lesion at the border"
SOURCE = "image size"
SPACING = "voxel spacing"
SKIN = "skin tone (estimate)"
GROUPINGS = {
    SIZE: "Terciles of the lesion's share of the picture.",
    VOLUME: "Terciles of the lesion's millilitres, at the original's size.",
    BORDER: "Whether the lesion touches the edge of the picture.",
    SOURCE: "Width x height of the original, in pixels: which camera and archive it comes from. "
    f"Sizes of fewer than {FEWEST_CASES} cases are put together.",
    SPACING: "Width x height x depth of a voxel, in millimetres: which scanner and protocol the "
    f"volume comes from. Spacings of fewer than {FEWEST_CASES} cases are put together.",
    SKIN: "An estimate from photographs whose colours are not calibrated: the individual typology "
    "angle, atan2(L* - 50, b*) in degrees, median over pixels outside of the lesion and of black "
    "borders; very light above 55, light above 41, intermediate above 28, tan above 10, brown "
    "above -30, dark. Light, lens and white balance shift it: no statement about a patient.",
}
# Lower bounds in degrees. Source: Chardon, Cretois and Hourseau 1991; Del Bino and Bernerd 2013.
TONES = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0}
DARKEST, UNKNOWN = "dark", "no skin seen"
BLACK = 40  # a pixel with no channel above is vignette or padding: L* below 16, darker than skin
MARGIN = 0.02  # of the diagonal: how far from the lesion skin begins, for lesions fade out
LEAST_SKIN = 0.02  # share of the picture's pixels below which no tone is told


def group_cases(
    cases: PreparedCases, places: Sequence[int], resize: Resize
) -> dict[str, dict[str, NDArray[np.int64]]]:
    """Grouping -> group -> which of `places`, those of cases in the arrays, are in it; in order,
    without groups that have no case."""
    masks = [cases.masks[place] > 0 for place in places]
    rows = cases.table.iloc[list(places)]
    if cases.masks.ndim == 4:  # volumes
        sizes = rows[[*AXES]].to_numpy()
        spacings = rows[[f"{axis}_mm" for axis in AXES]].to_numpy().round(3)
        told = [f"{_product(spacing[::-1])} mm" for spacing in spacings]
        named = {
            VOLUME: terciles(rows["lesion_ml"].to_numpy(), lambda ml: f"{significant(ml, 3)} ml"),
            SPACING: sources(told, "spacings"),
        }
        inside = "within the volume"
    else:
        sizes = rows[["height", "width"]].to_numpy()
        told = [_product(size[::-1]) for size in sizes]
        shares = np.array([mask.mean() for mask in masks])
        named = {SIZE: terciles(100 * shares, percent), SOURCE: sources(told, "sizes")}
        inside = "within the picture"
    borders = [
        "touches it" if touches_border(mask, tuple(size), resize) else inside
        for mask, size in zip(masks, sizes, strict=True)
    ]
    named[BORDER] = (borders, [inside, "touches it"])
    if cases.images.shape[-1] == 3:  # in colour
        tones = [
            tone(typology_angle(cases.images[place], mask))
            for place, mask in zip(places, masks, strict=True)
        ]
        named[SKIN] = (tones, [*TONES, DARKEST, UNKNOWN])
    return {
        grouping: {
            group: np.flatnonzero(np.array(names) == group) for group in order if group in names
        }
        for grouping, (names, order) in ((each, named[each]) for each in GROUPINGS if each in named)
    }


def terciles(sizes: NDArray[np.float64], write: Callable[[float], str]) -> Named:
    """Lesions' sizes in three groups, as equal as ties allow, named by bounds that `write`
    writes."""
    low, high = np.quantile(sizes, [1 / 3, 2 / 3])
    lower, upper = write(low), write(high)
    order = [f"small (up to {lower})", f"medium (up to {upper})", f"large (above {upper})"]
    return [order[group] for group in np.searchsorted([low, high], sizes)], order


def touches_border(mask: NDArray[np.bool_], original: tuple[int, ...], resize: Resize) -> bool:
    """Whether a lesion pixel lies at an edge of what the prepared picture shows of the original, or
    a voxel at a side of the volume."""
    if mask.ndim == 2:
        shown = place((original[0], original[1]), mask.shape, resize)
        mask = mask[shown.top : shown.top + shown.height, shown.left : shown.left + shown.width]
    return any(mask.take(end, axis).any() for axis in range(mask.ndim) for end in (0, -1))


def sources(sizes: list[str], called: str) -> Named:
    """Sizes, `called` so, as groups, the commonest first; those of few cases together, last."""
    common = [size for size, count in Counter(sizes).most_common() if count >= FEWEST_CASES]
    others = f"other {called}"
    return [size if size in common else others for size in sizes], [*common, others]


def _product(sides: Iterable[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)


def typology_angle(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float | None:
    """The individual typology angle of the skin around a lesion, in degrees: image (H, W, 3) RGB.

    None where too little skin is seen. CIE L*a*b* of sRGB under D65, to 0.5 degrees; atan2 rather
    than arctan of (L* - 50) / b*, for bluish skin (b* below 0) would change sides.
    """
    width = round(MARGIN * float(np.hypot(*mask.shape)))
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    lesion = np.asarray(cv2.dilate(mask.astype(np.uint8), square)) > 0
    skin = image[~lesion & (image.max(axis=-1) > BLACK)]
    if len(skin) < LEAST_SKIN * mask.size:
        return None
    lab = np.asarray(cv2.cvtColor(skin[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB))[0]
    return float(np.median(np.degrees(np.arctan2(lab[:, 0] - 50, lab[:, 2]))))


def tone(angle: float | None) -> str:
    """The name of an angle's group."""
    if angle is None:
        return UNKNOWN
    return next((name for name, bound in TONES.items() if angle > bound), DARKEST)

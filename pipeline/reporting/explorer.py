"""The case explorer of the report's page: the test cases to sort, filter and look at.

An HTML fragment with its own style, script (explorer.js) and data; it needs no network. Images are
small WebPs, masks are their borders as SVG paths, deflated by seed. What is drawn are frames: a
picture is one, and of a volume a few slices are.
"""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray
from PIL import Image

from pipeline.data import slices
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.result_figures import Look, looks
from pipeline.reporting.style import proportions, view
from pipeline.statistics.results import Cases, Results
from pipeline.study.values import Resize, percent, quantity

# Bytes of borders and images. A page can be mailed up to some 8 MB: its figures take up to 2, and
# what is left is the Dice of 70 runs on 1,000 cases.
BUDGET = 5_200_000
MOST_CASES = 1000  # that one page holds; or slices of volumes
FEW_CASES = (
    250  # up to here images are larger, borders finer, and all seeds have theirs of pictures
)
SLICES = 7  # of a volume at most; so many show where a border leaves the truth's
SIDE, FEW_SIDE = 160, 256  # pixels of an image's longer side
QUALITY = 60  # of WebP
STEPS, FEW_STEPS = 128, 256  # of a mask's longer side: a border strays by no more than one
LARGEST = 30  # contours of a mask: an untrained network's can be specks by the thousand

# ids, seed, the slice of each -> variant -> their masks, still packed: (ids, height, width / 8)
Predictions = Callable[[Sequence[str], int, Sequence[int]], Mapping[str, NDArray[np.uint8]]]


class Frame(NamedTuple):
    """A picture, or a slice of a volume."""

    id: str
    place: int  # of its case among the prepared ones
    slice: int  # across depth; of a picture 0


def templates() -> Environment:
    """The templates beside this module; text put into one is escaped, a missing name an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {"quantity": quantity, "percent": percent}
    return environment


def explorer(
    results: Results, cases: PreparedCases, predictions: Predictions, resize: Resize
) -> str:
    """The section `explorer` of the page: HTML with all text from data escaped, so that a template
    takes it in as it is (`| safe`).

    predictions: what read_predictions reads. Of more than MOST_CASES cases those are shown that
    variants disagree on most; of more than FEW_CASES the borders of as many seeds as BUDGET allows.
    Of volumes as many slices up to SLICES as it allows with the borders of all seeds. In the
    address `#case=ID&seed=3` opens a case, `#run=VARIANT,3` sorts the cases by the Dice of a run;
    both are URI-encoded.
    """
    script = Path(__file__).with_name("explorer.js").read_text(encoding="utf-8")
    data = collect(results, cases, predictions, resize)
    return (
        templates()
        .get_template("explorer.html")
        .render(
            data=data,
            script=script,
            total=len(results.cases.ids),
            fewer=data["most"] < min(SLICES, data["depth"]),
        )
    )


def collect(
    results: Results, cases: PreparedCases, predictions: Predictions, resize: Resize
) -> dict[str, Any]:
    """What the script shows: lists in the order of `variants`, `seeds` and `ids`.

    Every figure is rounded here, once, and shown as it is: a Dice to three decimals, a lesion's
    area to a tenth of a percent of the picture.
    """
    chosen = _choose(results.cases)
    ids = [results.cases.ids[index] for index in chosen]
    variants = list(results.cases.dice)
    seeds = sorted({int(seed) for runs in results.cases.dice.values() for seed in runs})
    position = {id: place for place, id in enumerate(cases.table["id"])}
    places = [position[id] for id in ids]
    shown = proportions(cases, resize)
    depth = math.prod(cases.masks.shape[1:-2])  # of a picture, 1
    most = min(SLICES, depth, MOST_CASES // len(ids))
    while True:
        frames, spans = _frames(cases, places, most)
        drawn = _images_and_borders(cases, frames, shown, predictions, variants, seeds)
        if most == 1 or len(drawn["borders"]) == len(seeds):
            break
        most = max(1, most - 2)
    look = looks(results.study.variants)
    failed = {found.variant: found.failed for found in results.failures}
    return {
        "variants": [
            {"name": name, "failed": failed.get(name, []), **_drawn(look[name])}
            for name in variants
        ],
        "seeds": seeds,
        "ids": ids,
        "lesion": [_percent(results.cases.lesion_share[index]) for index in chosen],
        "disagreement": _rounded(results.cases.disagreement[index] for index in chosen),
        "dice": _dice(results, variants, seeds, ids),
        "proportions": shown[places].round(4).tolist(),
        "depth": depth,
        "most": most,
        "frames": spans,
        "slices": [frame.slice + 1 for frame in frames],
        **drawn,
    }


def _frames(
    cases: PreparedCases, places: Sequence[int], most: int
) -> tuple[list[Frame], list[list[int]]]:
    """The frames of the cases at `places`, at most `most` of each, one case's after the other's;
    and of each case where in them its first stands, the one that shows it, and its last."""
    masks = cases.masks.reshape(len(cases.masks), -1, *cases.masks.shape[-2:])  # a picture: 1 deep
    frames: list[Frame] = []
    spans = []
    for place in places:
        found, first = slices.spread(masks[place], most), len(frames)
        shown = found.index(slices.largest(masks[place]))
        spans.append([first, first + shown, first + len(found) - 1])
        frames += [Frame(cases.table["id"].iloc[place], place, slice) for slice in found]
    return frames, spans


def _images_and_borders(
    cases: PreparedCases,
    frames: Sequence[Frame],
    shown: NDArray[np.float64],
    predictions: Predictions,
    variants: Sequence[str],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """The frames' images and borders, of as many seeds as fit; shown: of all cases' proportions."""
    height, width = cases.masks.shape[-2:]
    few = len(frames) <= FEW_CASES
    # A border's unit, in pixels; never finer than one.
    tolerance = max(height, width) / (FEW_STEPS if few else STEPS)
    step = max(1.0, tolerance)
    images, truth = [], []
    for frame in frames:
        image, mask = view(cases, frame.place, at=frame.slice)
        images.append(webp(image, float(shown[frame.place]), FEW_SIDE if few else SIDE))
        truth.append(border(mask, tolerance))

    def deflated(seed: int) -> str:
        masks = predictions([frame.id for frame in frames], seed, [frame.slice for frame in frames])
        lines = [
            [border(np.unpackbits(mask, axis=-1), tolerance) for mask in masks[name]]
            if name in masks
            else None
            for name in variants
        ]
        return base64.b64encode(zlib.compress(json.dumps(lines).encode(), 9)).decode()

    pictures = cases.masks.ndim == 3
    left = np.inf if few and pictures else BUDGET - sum(map(len, images))
    borders = {}
    for seed in seeds:
        text = deflated(seed)
        left -= len(text)
        if left < 0:
            break
        borders[seed] = text
    return {
        "width": width / step,
        "height": height / step,
        "images": images,
        "truth": truth,
        "borders": borders,
    }


def _dice(
    results: Results, variants: list[str], seeds: list[int], ids: list[str]
) -> list[list[list[float | None] | None]]:
    """variant, seed, case; after the last seed the mean over seeds, after the last variant the
    mean over variants. None: of no run. A case without a value with some run has no mean."""
    scores = results.scores()

    def means(*by: str) -> Mapping[Any, list[float | None]]:
        """The keys of `by`, one or several -> of the cases."""
        groups = scores.groupby([*by, "id"], sort=False)["dice"]
        found = groups.mean().where(groups.count() == groups.size())
        if not by:
            return {(): _rounded(found.loc[ids])}
        table = found.unstack("id")[ids]
        return dict(zip(table.index, map(_rounded, table.to_numpy()), strict=True))

    runs, of_variant, of_seed = means("variant", "seed"), means("variant"), means("seed")
    return [
        *([*(runs.get((name, seed)) for seed in seeds), of_variant[name]] for name in variants),
        [*(of_seed[seed] for seed in seeds), means()[()]],
    ]


def _drawn(look: Look) -> dict[str, str]:
    """A variant's colour, and its marker as an SVG path at most 7.1 from (0, 0)."""
    style = MarkerStyle(look.marker)
    size = Affine2D().scale(10, -10)
    outline = style.get_path().transformed(style.get_transform() + size).to_polygons()[0]
    corners = np.asarray(outline, dtype=np.float64).round(1).tolist()
    return {
        "colour": to_hex(look.colour),
        "marker": "M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "z",
    }


def _choose(cases: Cases) -> list[int]:
    """Where in the lists the cases stand that are shown, ascending."""
    disagreement = [-1.0 if value is None else value for value in cases.disagreement]
    by_disagreement = sorted(range(len(cases.ids)), key=lambda index: -disagreement[index])
    return sorted(by_disagreement[:MOST_CASES])


def _percent(share: float) -> float:
    """As it is shown: whoever filters by what stands there finds it."""
    return float(percent(100 * share).removesuffix(" %"))


def _rounded(values: Iterable[float | None], digits: int = 3) -> list[float | None]:
    """Python's round, as of printing: numpy's goes by way of a product, which is rounded too."""
    return [
        None if value is None or np.isnan(value) else round(float(value), digits)
        for value in values
    ]


def webp(image: NDArray[np.uint8], proportion: float, side: int) -> str:
    """image (height, width, 3) as base64 of a WebP, `proportion` times as wide as high, its longer
    side `side` pixels or what the image has."""
    side = min(side, max(image.shape[:2]))
    width, height = (side, side / proportion) if proportion > 1 else (side * proportion, side)
    size = max(1, round(width)), max(1, round(height))
    file = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.LANCZOS).save(
        file, "WEBP", quality=QUALITY, method=6
    )
    return base64.b64encode(file.getvalue()).decode()


def border(mask: NDArray[np.uint8], tolerance: float = 1.0) -> str:
    """The border of mask (height, width) in {0, 1} as an SVG path through its outermost pixels,
    simplified by at most `tolerance` pixels, the LARGEST contours alone; "" for an empty mask.

    In whole units of `tolerance`, or of pixels where it is less; a unit's centre is at whole
    numbers.
    """
    contours, _ = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    largest = sorted(contours, key=cv2.contourArea, reverse=True)[:LARGEST]
    lines = (cv2.approxPolyDP(line, tolerance, True)[:, 0] for line in largest)
    return "".join(_path(((line + 0.5) // max(1.0, tolerance)).astype(int)) for line in lines)


def _path(points: NDArray[Any]) -> str:
    """A closed polygon (points, 2) as an SVG path with relative steps."""
    start, steps = points[0], np.diff(points, axis=0)
    text = f"M{start[0]} {start[1]}"
    if len(steps):
        text += "l" + " ".join(f"{x} {y}" for x, y in steps)
    return text.replace(" -", "-") + "z"

"""The case explorer of the report's page: the test cases to sort, filter and look at.

An HTML fragment with its own style, script (explorer.js) and data; it needs no network. Images are
small WebPs, masks are their borders as SVG paths: 1,000 cases of seven variants take some 5 MB.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.style import proportions
from pipeline.statistics.results import Cases, Results
from pipeline.study.values import Resize, quantity

MOST_CASES = 1000  # that one page holds, in some 5 MB
FEW_CASES = 250  # up to here images may be larger
SIDE, FEW_SIDE = 160, 256  # pixels of an image's longer side
QUALITY = 60  # of WebP
LARGEST = 30  # contours of a mask: an untrained network's can be specks by the thousand
TOLERANCE = 0.004  # of the mask's longer side that a border may be simplified by: 1 in 256


def templates() -> Environment:
    """The templates beside this module; text put into one is escaped, a missing name an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quantity"] = quantity
    return environment


def explorer(
    results: Results,
    cases: PreparedCases,
    predictions: Mapping[str, NDArray[np.uint8]],
    seed: int,
    resize: Resize,
) -> str:
    """The section `explorer` of the page: HTML with all text from data escaped, so that a template
    takes it in as it is (`| safe`).

    predictions: variant -> the masks that `seed` predicted for results.cases.ids, in their order,
    as read_predictions reads them. Of more than MOST_CASES cases those
    are shown that variants disagree on most.
    """
    script = Path(__file__).with_name("explorer.js").read_text(encoding="utf-8")
    data = collect(results, cases, predictions, seed, resize)
    return (
        templates()
        .get_template("explorer.html")
        .render(data=data, script=script, total=len(results.cases.ids))
    )


def collect(
    results: Results,
    cases: PreparedCases,
    predictions: Mapping[str, NDArray[np.uint8]],
    seed: int,
    resize: Resize,
) -> dict[str, Any]:
    """What the script shows: lists in the order of `variants` and of `ids`."""
    chosen = _choose(results.cases)
    ids = [results.cases.ids[index] for index in chosen]
    position = {id: place for place, id in enumerate(cases.table["id"])}
    places = [position[id] for id in ids]
    shown = proportions(cases, resize)[places]
    _, height, width = cases.masks.shape
    side = FEW_SIDE if len(ids) <= FEW_CASES else SIDE
    variants = list(predictions)

    def of_chosen(values: list[float | None]) -> list[float | None]:
        return [_rounded(values[index]) for index in chosen]

    failed = {found.variant: seed in found.failed for found in results.failures}
    return {
        "seed": seed,
        "seeds": len(results.study.seeds),
        "width": width,
        "height": height,
        "variants": variants,
        "failed": [failed.get(name, False) for name in variants],  # the run of that seed
        "ids": ids,
        "lesion": of_chosen(list(results.cases.lesion_share)),
        "disagreement": of_chosen(results.cases.disagreement),
        "dice": [of_chosen(_mean_over_seeds(results.cases.dice[name])) for name in variants],
        "diceOfSeed": [of_chosen(results.cases.dice[name][str(seed)]) for name in variants],
        "proportions": shown.round(4).tolist(),
        "images": [
            webp(cases.images[place], float(proportion), side)
            for place, proportion in zip(places, shown, strict=True)
        ],
        "truth": [border(cases.masks[place]) for place in places],
        "predicted": [
            [border(np.unpackbits(predictions[name][index], axis=-1)) for index in chosen]
            for name in variants
        ],
    }


def _choose(cases: Cases) -> list[int]:
    """Where in the lists the cases stand that are shown, ascending."""
    disagreement = [-1.0 if value is None else value for value in cases.disagreement]
    by_disagreement = sorted(range(len(cases.ids)), key=lambda index: -disagreement[index])
    return sorted(by_disagreement[:MOST_CASES])


def _mean_over_seeds(dice: Mapping[str, list[float | None]]) -> list[float | None]:
    """A case without a value with some seed has no mean."""
    means = np.array(list(dice.values()), dtype=np.float64).mean(axis=0)
    return [None if np.isnan(mean) else float(mean) for mean in means]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


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


def border(mask: NDArray[np.uint8]) -> str:
    """The border of mask (height, width) in {0, 1} as an SVG path through its outermost pixels, in
    whole pixels, their centres at whole numbers; simplified by at most TOLERANCE, the LARGEST
    contours alone; "" for an empty mask."""
    contours, _ = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    largest = sorted(contours, key=cv2.contourArea, reverse=True)[:LARGEST]
    tolerance = TOLERANCE * max(mask.shape)
    return "".join(_path(cv2.approxPolyDP(line, tolerance, True)[:, 0]) for line in largest)


def _path(points: NDArray[Any]) -> str:
    """A closed polygon (points, 2) as an SVG path with relative steps."""
    start, steps = points[0], np.diff(points, axis=0)
    text = f"M{start[0]} {start[1]}"
    if len(steps):
        text += "l" + " ".join(f"{x} {y}" for x, y in steps)
    return text.replace(" -", "-") + "z"

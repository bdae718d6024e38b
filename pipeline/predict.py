"""Segment images with a trained network:

    python -m pipeline.predict <run folder or MLflow URI> <images or folders> --out <folder>

It needs the run folder alone: no study, no data. In the folder of the results:

    masks/<image>.png          0 and 255, at the image's size
    overlays/<image>.jpg       the lesion's border on the image, as small as it is decoded
    probabilities/<image>.png  with --probabilities: 16 bits, p = value / 65535, at the image's size
    attention/<image>/         with --attention: a heat map an attention stage; scales.png explains
    lesions.csv                a row an image (see COLUMNS)
    skipped.csv                what could not be segmented, and why; the rest is done all the same
    predict.json               what the results were made with

Interrupted, or more images in the folders: run it again, what is done stays. Exit status 0: every
image is segmented; 1: some are in skipped.csv, or nothing could be done.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from tqdm import tqdm

from models.attenresunet.attention import attention_modules
from pipeline.data.geometry import Size, lay_image, place
from pipeline.data.integrity import UnusableError, read_image
from pipeline.deployment.ensemble import Averaged
from pipeline.deployment.loading import Seeds, TrainedRun, opened
from pipeline.deployment.outputs import COLUMNS, Row, begin, check_out, encode, encode_mask, save
from pipeline.deployment.pictures import Found, Picture, Skipped, find_pictures
from pipeline.engine.compute import choose_device, make_deterministic, to_input
from pipeline.evaluation.native import TooLongError, lay_back
from pipeline.reporting.heatmaps import AttentionStage
from pipeline.reporting.overlays import LONGEST, file_name, heat_map, overlay, save_scales
from pipeline.reporting.stage_maps import attention_stages
from pipeline.study.blocks import OfficialSplit, Prepare
from pipeline.study.errors import UserError, run_command, warn
from pipeline.study.files import replacing
from pipeline.study.values import Count, Fraction, Resize, option

TOLD = 20  # skipped images that are named on the screen; skipped.csv has all


@dataclass(frozen=True)
class Wanted:
    """How images become results.

    size, resize: of the pictures that the network knows. threshold: a pixel is lesion where p is
    above. probabilities, attention: whether they are written; attention is that of `attention`.
    """

    size: Size
    resize: Resize
    threshold: float = 0.5
    batch_size: int = 16
    probabilities: bool = False
    attention: nn.Module | None = None


@dataclass(frozen=True)
class Read:
    """A picture as the network takes it, (h, w, 3) uint8, and to be looked at; size: its own."""

    picture: Picture
    input: NDArray[np.uint8]
    shown: Image.Image
    size: Size


def predict(
    model: nn.Module, pictures: Sequence[Picture], wanted: Wanted, out: Path
) -> Iterator[Row | Skipped]:
    """Segment `pictures` and write their files below `out`; a row, or why there is none, for each.

    Decoding and writing go on in threads while the network computes. Raises UserError where the
    disk refuses or a GPU's memory is too small.
    """
    device = next(model.parameters()).device
    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        batches = _ahead(
            readers, lambda picture: read(picture, wanted), pictures, wanted.batch_size
        )
        written: deque[list[Future[Row | Skipped]]] = deque()
        try:
            for batch in batches:
                yield from (outcome for outcome in batch if isinstance(outcome, Skipped))
                usable = [outcome for outcome in batch if isinstance(outcome, Read)]
                if usable:
                    images = np.stack([one.input for one in usable])
                    with _within_memory(len(images)):
                        probabilities = _probabilities(model, images, device)
                        stages = (
                            []
                            if wanted.attention is None
                            else attention_stages(wanted.attention, images)
                        )
                    written.append(
                        [
                            writers.submit(
                                write, one, probabilities[number], stages, number, wanted, out
                            )
                            for number, one in enumerate(usable)
                        ]
                    )
                if len(written) > 2:  # no more is held in memory than two batches
                    yield from (future.result() for future in written.popleft())
            while written:
                yield from (future.result() for future in written.popleft())
        finally:
            for pool in (readers, writers):
                pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[Picture], Read | Skipped],
    pictures: Sequence[Picture],
    batch_size: int,
) -> Iterator[list[Read | Skipped]]:
    """The work's results in batches, in order; while one is used the next two are made."""
    waiting = iter(pictures)
    begun = deque(pool.submit(work, picture) for picture in islice(waiting, 2 * batch_size))
    while begun:
        batch = [begun.popleft().result() for _ in range(min(batch_size, len(begun)))]
        begun.extend(pool.submit(work, picture) for picture in islice(waiting, len(batch)))
        yield batch


def read(picture: Picture, wanted: Wanted) -> Read | Skipped:
    """Decode a picture as preprocess decodes a case's image."""
    prepare = Prepare(
        height=wanted.size[0],
        width=wanted.size[1],
        resize=wanted.resize,
        near_duplicates=None,
        split=OfficialSplit(method="official"),
    )
    try:
        image, size, shrunk = read_image("", picture.path, prepare, {}, [])
    except UnusableError as problem:
        reason = str(problem)
        if problem.defect == "EXIF-rotated":  # a case's reason is its mask, which may be turned
            reason = "is to be turned before it is shown (EXIF orientation): save it upright"
        return Skipped(picture.shown, reason)
    laid = lay_image(image, place(size, wanted.size, wanted.resize), shrunk)
    image.thumbnail((LONGEST, LONGEST))
    return Read(picture, laid, image, size)


@torch.no_grad()
def _probabilities(
    model: nn.Module, images: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float32]:
    """(N, h, w, 3) uint8 -> (N, h, w)."""
    logits = model(to_input(torch.from_numpy(images), device))
    probabilities: NDArray[np.float32] = logits.squeeze(1).float().sigmoid().cpu().numpy()
    return probabilities


@contextmanager
def _within_memory(images: int) -> Iterator[None]:
    """Raise UserError where a GPU's memory is too small for so many at once."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU's memory ran out with {images} images at once: set a smaller --batch-size"
        ) from None


def write(
    one: Read,
    probabilities: NDArray[np.float32],
    stages: Sequence[AttentionStage],
    number: int,
    wanted: Wanted,
    out: Path,
) -> Row | Skipped:
    """Write a picture's files; `number` is its place in the stages' maps."""
    name = one.picture.name
    try:
        laid = lay_back(probabilities, one.size, wanted.resize)
    except TooLongError as problem:
        return Skipped(one.picture.shown, str(problem))
    mask = laid > wanted.threshold
    save(out / "masks" / f"{name}.png", encode_mask(mask))
    if wanted.probabilities:
        sixteen = np.rint(laid * 65535).astype(np.uint16)
        save(out / "probabilities" / f"{name}.png", cv2.imencode(".png", sixteen)[1].tobytes())
    drawn = overlay(one.shown, probabilities, wanted.threshold, wanted.resize)
    save(out / "overlays" / f"{name}.jpg", encode(drawn, "JPEG"))
    for order, stage in enumerate(stages, start=1):
        shown = (one.shown.height, one.shown.width)
        drawn = heat_map(stage, number, shown, probabilities, wanted.threshold, wanted.resize)
        save(out / "attention" / name / file_name(order, stage), encode(drawn, "PNG"))
    at = place(one.size, wanted.size, wanted.resize)
    seen = probabilities[at.top : at.top + at.height, at.left : at.left + at.width]
    pixels = int(np.count_nonzero(mask))
    return {
        "image": one.picture.shown,
        "width": one.size[1],
        "height": one.size[0],
        "lesion_area": round(pixels / mask.size, 6),
        "lesion_pixels": pixels,
        "confidence": round(float(np.maximum(seen, 1 - seen).mean()), 6),
    }


def main() -> None:
    arguments = parse()
    make_deterministic()
    with opened(arguments.run, arguments.ensemble) as runs:
        first = runs[0]
        found = find_pictures(arguments.images)
        made_with = {
            "networks": [
                {
                    "source": run.source,
                    "variant": run.variant,
                    "seed": run.seed,
                    "fold": run.fold,
                    "weights_sha256": run.record["weights_sha256"],
                }
                for run in runs
            ],
            "size": list(first.size),
            "resize": first.resize,
            "threshold": arguments.threshold,
            "test_time_augmentation": arguments.tta,
            "probabilities": arguments.probabilities,
            "attention": arguments.attention,
            "images": [str(source.absolute()) for source in arguments.images],
            "named_below": sorted({str(one.path)[: -len(one.shown)] for one in found.pictures}),
            "endings_kept": any(one.name == one.shown for one in found.pictures),
            "columns": COLUMNS,
        }
        check_out(arguments.out, arguments.images)
        device = choose_device()
        networks = [run.load(device) for run in runs]
        skipped = segment(networks, found, first, arguments, made_with)
    sys.exit(1 if skipped else 0)


def segment(
    networks: Sequence[nn.Module],
    found: Found,
    run: TrainedRun,
    arguments: argparse.Namespace,
    made_with: dict[str, Any],
) -> list[Skipped]:
    """Segment what was found, with networks of the kind of `run`'s; returns what was skipped."""
    out: Path = arguments.out
    if not found.pictures:
        told = "; ".join(f"{image} {reason}" for image, reason in found.skipped)
        raise UserError(f"there is no image to segment: {told}")
    lesions = begin(out, made_with)
    attention = networks[0] if arguments.attention else None
    if attention is not None:
        if not any(attention_modules(attention)):
            warn(f"{run.variant} has no attention: no heat maps are written")
            attention = None
        else:
            save_scales(out / "attention" / "scales.png")
    wanted = Wanted(
        size=run.size,
        resize=run.resize,
        threshold=arguments.threshold,
        batch_size=arguments.batch_size,
        probabilities=arguments.probabilities,
        attention=attention,
    )
    todo = [picture for picture in found.pictures if picture.shown not in lesions.done]
    skipped = list(found.skipped)
    start = time.perf_counter()
    model = Averaged(networks, flips=arguments.tta)
    with tqdm(total=len(todo), desc="predict", unit="image") as bar:
        for outcome in predict(model, todo, wanted, out):
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
            else:
                lesions.add(outcome)
            bar.update()
    with replacing(out / "skipped.csv") as temporary, temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([Skipped._fields, *skipped])
    tell(found, todo, skipped, out, time.perf_counter() - start)
    return skipped


def tell(
    found: Found, todo: Sequence[Picture], skipped: Sequence[Skipped], out: Path, seconds: float
) -> None:
    for image, reason in skipped[:TOLD]:
        warn(f"skipped {image}: {reason}")
    if len(skipped) > TOLD:
        warn(f"skipped {len(skipped) - TOLD} more: see {out / 'skipped.csv'}")
    bad = len(skipped) - len(found.skipped)
    done = len(todo) - bad
    before = len(found.pictures) - len(todo)
    print(
        f"predict: {done} images segmented in {out}, {done / seconds:.1f} images/s"
        + (f", {before} were there" if before else "")
        + (f", {len(skipped)} skipped (skipped.csv)" if skipped else "")
        + (f", {found.passed_over} other files passed over" if found.passed_over else "")
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        description="Segment images with a trained network. "
        "Exit status 0: every image is segmented; 1: some were skipped (skipped.csv says why).",
        epilog="lesions.csv: " + "; ".join(f"{name}: {what}" for name, what in COLUMNS.items()),
    )
    parser.add_argument(
        "run",
        help="a run folder, runs/<variant>/<seed>/<fold>, or runs:/... or models:/... of MLflow",
    )
    parser.add_argument("images", nargs="+", type=Path, help="JPEG and PNG files, and folders")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument(
        "--probabilities", action="store_true", help="write p as 16-bit PNGs: p = value / 65535"
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="write the first network's attention maps as heat maps",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="mean probability over the image's four flips: 4 times the work",
    )
    parser.add_argument(
        "--ensemble",
        type=_seeds,
        metavar="SEEDS",
        help="mean probability over the networks of these seeds, 0,1,2 or all, of the run's "
        "variant and fold",
    )
    parser.add_argument(
        "--threshold",
        type=option(Fraction),
        default=0.5,
        help="a pixel is lesion where p is above; default: %(default)s",
    )
    parser.add_argument(
        "--batch-size", type=option(Count), default=16, help="images at once; default: %(default)s"
    )
    return parser.parse_args(arguments)


def _seeds(text: str) -> Seeds:
    if text == "all":
        return "all"
    seeds = text.split(",")
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(
            f"must be seeds, each once, such as 0,1,2, or all, got {text!r}"
        )
    return [int(seed) for seed in seeds]


if __name__ == "__main__":
    run_command(main)

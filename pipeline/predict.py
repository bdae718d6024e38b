"""Segment images with a trained network:

    python -m pipeline.predict <run folder or MLflow URI> <images or folders> --out <folder>

It needs the run folder alone: no study, no data. Where the run was trained on volumes the images
are NIfTI files, and so are masks and probabilities (float32). In the folder of the results:

    masks/<image>.png          0 and 255, at the image's size
    overlays/<image>.jpg       the lesion's border on the image, as small as it is decoded
    probabilities/<image>.png  with --probabilities: 16 bits, p = value / 65535, at the image's size
    attention/<image>/         with --attention: a heat map an attention stage; scales.png explains
    lesions.csv                a row an image (see COLUMNS; of volumes COLUMNS_OF_VOLUMES)
    skipped.csv                what could not be segmented, and why; the rest is done all the same
    predict.json               what the results were made with

Interrupted, or other images in the folders: run it again. What is done stays, but for the results
of images that are gone: these are removed. Exit status 0: every image is segmented; 1: some are in
skipped.csv, or nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
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
from models.config import CHANNELS
from pipeline.data import nifti, slices
from pipeline.data.geometry import Size, lay_image, place
from pipeline.data.integrity import Checksum, UnusableError, read_content, read_image
from pipeline.data.nifti import Volume
from pipeline.data.raw import IMAGE_SUFFIXES, VOLUME_SUFFIXES, Finding
from pipeline.deployment.ensemble import Averaged
from pipeline.deployment.loading import Seeds, TrainedRun, opened
from pipeline.deployment.outputs import (
    COLUMNS,
    COLUMNS_OF_VOLUMES,
    Lesions,
    Row,
    UnnamableError,
    check_out,
    encode,
    encode_mask,
    owned,
    remove,
    save,
    write_table,
)
from pipeline.deployment.pictures import Found, Picture, Skipped, find_pictures
from pipeline.engine.compute import choose_device, make_deterministic, to_input
from pipeline.evaluation.native import TooLongError, lay_back, lay_back_volume
from pipeline.reporting.heatmaps import AttentionStage
from pipeline.reporting.overlays import LONGEST, draw_scales, file_name, heat_map, overlay
from pipeline.reporting.stage_maps import attention_stages
from pipeline.study.cores import usable_cores
from pipeline.study.errors import UserError, run_command, warn
from pipeline.study.values import Count, Fraction, Resize, cell, option, quantity

BATCH, BATCH_OF_VOLUMES = 16, 1  # a volume may be as large as all pictures of a batch
PLANE = 512  # pixels of the longer side of a volume's slice
TOLD = 20  # skipped images that are named on the screen; skipped.csv has all


@dataclass(frozen=True)
class Wanted:
    """How images become results.

    size, resize: of the pictures, or volumes, that the network knows. threshold: a pixel is lesion
    where p is above. probabilities: whether they are written. attention: the network whose
    attention is, None for no heat maps; heat_maps: their files' names, a stage each.
    """

    size: tuple[int, ...]
    resize: Resize
    threshold: float = 0.5
    batch_size: int = BATCH
    probabilities: bool = False
    attention: nn.Module | None = None
    heat_maps: Sequence[str] = ()

    @property
    def volumes(self) -> bool:
        return len(self.size) == 3


@dataclass(frozen=True)
class ReadVolume:
    """A volume as the network takes it, (d, h, w, 1) uint8, and to be looked at, with voxels
    (D, H, W) uint8.

    file: the columns of lesions.csv that tell of its file.
    """

    picture: Picture
    input: NDArray[np.uint8]
    volume: Volume
    file: Row


@dataclass(frozen=True)
class Read:
    """A picture as the network takes it, (h, w, 3) uint8, and to be looked at; size: its own.

    file: the columns of lesions.csv that tell of its file.
    """

    picture: Picture
    input: NDArray[np.uint8]
    shown: Image.Image
    size: Size
    file: Row


Outcome = Read | ReadVolume | Skipped


def predict(
    model: nn.Module,
    pictures: Sequence[Picture],
    wanted: Wanted,
    out: Path,
    done: Container[str] = (),
) -> Iterator[Row | Skipped]:
    """Segment `pictures` and write their files below `out`; a row, or why there is none, for each.
    Those whose `shown` is `done` have these. They are computed with others of their batch that have
    not: the last bits of a result depend on its batch.

    Decoding and writing go on in threads while the network computes. Raises UserError where the
    disk refuses or a GPU's memory is too small.
    """
    device = next(model.parameters()).device
    threads = min(8, usable_cores())
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        size = wanted.batch_size
        whole = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        chosen = [batch for batch in whole if any(one.shown not in done for one in batch)]
        begin = read_volume if wanted.volumes else read
        batches = _ahead(readers, lambda picture: begin(picture, wanted), chosen, done)
        written: deque[list[Future[Row | Skipped]]] = deque()
        try:
            for batch in batches:
                yield from (
                    one for one in batch if isinstance(one, Skipped) and one.image not in done
                )
                usable = [outcome for outcome in batch if not isinstance(outcome, Skipped)]
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
                            if one.picture.shown not in done
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
    work: Callable[[Picture], Outcome],
    batches: Sequence[Sequence[Picture]],
    done: Container[str],
) -> Iterator[list[Outcome]]:
    """The work's results in batches, in order; while one is used the next two are made. Those of
    pictures that are done are made only where another of their batch can be read."""
    waiting = iter(batches)
    begun: deque[tuple[Sequence[Picture], dict[Picture, Future[Outcome]]]] = deque()

    def begin(number: int) -> None:
        for batch in islice(waiting, number):
            begun.append((batch, {x: pool.submit(work, x) for x in batch if x.shown not in done}))

    begin(2)
    while begun:
        batch, futures = begun.popleft()
        outcomes = {picture: future.result() for picture, future in futures.items()}
        begin(1)
        if not all(isinstance(outcome, Skipped) for outcome in outcomes.values()):
            rest = [picture for picture in batch if picture not in outcomes]
            outcomes |= zip(rest, pool.map(work, rest), strict=True)
        yield [outcomes[picture] for picture in batch if picture in outcomes]


def read(picture: Picture, wanted: Wanted) -> Read | Skipped:
    """Decode a picture as preprocess decodes a case's image, and turn it upright if need be."""
    checksums: dict[Path, Checksum] = {}
    findings: list[Finding] = []
    path, inner = picture.path, (wanted.size[0], wanted.size[1])
    try:
        image, size, shrunk = read_image(
            "", path, inner, wanted.resize, checksums, findings, turn=True
        )
    except UnusableError as problem:
        return Skipped(picture.shown, str(problem))
    laid = lay_image(image, place(size, inner, wanted.resize), shrunk)
    image.thumbnail((LONGEST, LONGEST))
    turned = any(finding.defect == "EXIF-rotated" for finding in findings)
    file = {"turned": int(turned), "sha256": checksums[path].sha256}
    return Read(picture, laid, image, size, file)


def read_volume(picture: Picture, wanted: Wanted) -> ReadVolume | Skipped:
    """Decode a volume as preprocess decodes a case's."""
    checksums: dict[Path, Checksum] = {}
    try:
        volume = nifti.decode_volume(read_content(picture.path, checksums))
        grey = nifti.to_grey(volume)
    except UnusableError as problem:
        return Skipped(picture.shown, str(problem))
    laid = nifti.lay_grey(grey, wanted.size)[..., None]
    file = {"sha256": checksums[picture.path].sha256}
    shown = replace(volume, voxels=np.rint(grey).astype(np.uint8))
    return ReadVolume(picture, laid, shown, file)


@torch.no_grad()
def _probabilities(
    model: nn.Module, images: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float32]:
    """(N, h, w, 3) uint8 -> (N, h, w), or (N, d, h, w, 1) -> (N, d, h, w)."""
    logits = model(to_input(torch.from_numpy(images), device))
    probabilities: NDArray[np.float32] = logits.squeeze(1).float().sigmoid().cpu().numpy()
    return probabilities


@contextmanager
def _within_memory(images: int) -> Iterator[None]:
    """Raise UserError where a GPU's memory is too small for so many at once."""
    try:
        yield
    except torch.OutOfMemoryError:
        advice = (
            "set a smaller --batch-size"
            if images > 1
            else "set CUDA_VISIBLE_DEVICES= to compute on the processor"
        )
        raise UserError(
            f"the GPU's memory ran out with {quantity(images, 'image')} at once: {advice}"
        ) from None


def result_files(name: str, wanted: Wanted, out: Path) -> dict[str, Path]:
    """The files that a picture's results are, the mask first."""
    kind = "nii.gz" if wanted.volumes else "png"
    files = {"mask": out / "masks" / f"{name}.{kind}", "overlay": out / "overlays" / f"{name}.jpg"}
    if wanted.probabilities:
        files["probabilities"] = out / "probabilities" / f"{name}.{kind}"
    return files | {file: out / "attention" / name / file for file in wanted.heat_maps}


def write(
    one: Read | ReadVolume,
    probabilities: NDArray[np.float32],
    stages: Sequence[AttentionStage],
    number: int,
    wanted: Wanted,
    out: Path,
) -> Row | Skipped:
    """Write a picture's files; `number` is its place in the stages' maps."""
    if not np.isfinite(probabilities).all():
        return Skipped(one.picture.shown, "gets no finite probabilities from the network")
    files = result_files(one.picture.name, wanted, out)
    if isinstance(one, ReadVolume):
        return _write_volume(one, probabilities, stages, number, wanted, files)
    try:
        laid = lay_back(probabilities, one.size, wanted.resize)
        mask = laid > wanted.threshold
        save(files["mask"], encode_mask(mask))
        if wanted.probabilities:
            sixteen = np.rint(laid * 65535).astype(np.uint16)
            save(files["probabilities"], cv2.imencode(".png", sixteen)[1].tobytes())
        drawn = overlay(one.shown, probabilities, wanted.threshold, wanted.resize)
        save(files["overlay"], encode(drawn, "JPEG"))
        for file, stage in zip(wanted.heat_maps, stages, strict=True):
            shown = (one.shown.height, one.shown.width)
            inner = stage.maps[number]
            drawn = heat_map(stage, inner, shown, probabilities, wanted.threshold, wanted.resize)
            save(files[file], encode(drawn, "PNG"))
    except TooLongError as problem:
        return Skipped(one.picture.shown, str(problem))
    except UnnamableError as problem:
        return Skipped(one.picture.shown, f"has a name that no result can have ({problem})")
    at = place(one.size, probabilities.shape, wanted.resize)
    seen = probabilities[at.top : at.top + at.height, at.left : at.left + at.width]
    pixels = int(np.count_nonzero(mask))
    return {
        "image": one.picture.shown,
        "results": one.picture.name,
        "width": one.size[1],
        "height": one.size[0],
        "lesion_area": round(pixels / mask.size, 6),
        "lesion_pixels": pixels,
        "confidence": round(float(np.maximum(seen, 1 - seen).mean()), 6),
        **one.file,
    }


def _write_volume(
    one: ReadVolume,
    probabilities: NDArray[np.float32],
    stages: Sequence[AttentionStage],
    number: int,
    wanted: Wanted,
    files: dict[str, Path],
) -> Row | Skipped:
    """The pictures are of the slice with the largest lesion found, in its proportions."""
    laid = lay_back_volume(probabilities, one.volume.voxels.shape)
    mask = laid > wanted.threshold
    at = slices.largest(mask)
    _, height, width = np.multiply(mask.shape, one.volume.spacing)
    scale = PLANE / max(height, width)
    shown = (max(1, round(scale * height)), max(1, round(scale * width)))
    plane = np.ascontiguousarray(slices.cut(laid, at))
    try:
        save(files["mask"], nifti.encode(one.volume, mask.astype(np.uint8)))
        if wanted.probabilities:
            save(files["probabilities"], nifti.encode(one.volume, laid))
        picture = (
            Image.fromarray(slices.cut(one.volume.voxels, at)).convert("RGB").resize(shown[::-1])
        )
        drawn = overlay(picture, plane, wanted.threshold, wanted.resize)
        save(files["overlay"], encode(drawn, "JPEG"))
        for file, stage in zip(wanted.heat_maps, stages, strict=True):
            depth = stage.maps.shape[1]
            inner = slices.cut(stage.maps[number], at * depth // len(mask))
            drawn = heat_map(stage, inner, shown, plane, wanted.threshold, wanted.resize)
            save(files[file], encode(drawn, "PNG"))
    except UnnamableError as problem:
        return Skipped(one.picture.shown, f"has a name that no result can have ({problem})")
    voxels = int(np.count_nonzero(mask))
    return {
        "image": one.picture.shown,
        "results": one.picture.name,
        **dict(zip(slices.AXES, mask.shape, strict=True)),
        "lesion_ml": nifti.to_millilitres(mask, one.volume),
        "lesion_voxels": voxels,
        "confidence": round(float(np.maximum(probabilities, 1 - probabilities).mean()), 6),
        **one.file,
    }


def main() -> None:
    arguments = parse()
    make_deterministic()
    with opened(arguments.run, arguments.ensemble) as runs:
        first = runs[0]
        volumes = len(first.size) == 3
        found = find_pictures(arguments.images, VOLUME_SUFFIXES if volumes else IMAGE_SUFFIXES)
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
            "columns": COLUMNS_OF_VOLUMES if volumes else COLUMNS,
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
        told = "; ".join(f"{image} {reason}" for image, reason in found.skipped[:TOLD])
        raise UserError(f"there is no image to segment: {told}")
    attention = networks[0] if arguments.attention else None
    if attention is not None and not any(attention_modules(attention)):
        warn(f"{run.variant} has no attention: no heat maps are written")
        attention = None
    wanted = Wanted(
        size=run.size,
        resize=run.resize,
        threshold=arguments.threshold,
        batch_size=arguments.batch_size or (BATCH_OF_VOLUMES if len(run.size) == 3 else BATCH),
        probabilities=arguments.probabilities,
        attention=attention,
        heat_maps=() if attention is None else _heat_maps(attention, run.size),
    )
    model = Averaged(networks, flips=arguments.tta)
    with owned(out, made_with) as lesions:
        if attention is not None:
            save(out / "attention" / "scales.png", draw_scales())
        names = {picture.shown: picture.name for picture in found.pictures}
        for gone in lesions.forget_others(names):
            remove(result_files(gone, wanted, out).values(), out)
        done = _done(found.pictures, lesions, wanted, out)
        lesions.keep(map(cell, done))
        start = time.perf_counter()
        skipped = list(found.skipped)
        turned = 0
        with tqdm(total=len(names) - len(done), desc="predict", unit="image") as bar:
            for outcome in predict(model, found.pictures, wanted, out, done):
                if isinstance(outcome, Skipped):
                    skipped.append(outcome)
                    for path in result_files(names[outcome.image], wanted, out).values():
                        with suppress(OSError):  # of the file that was in its place before
                            path.unlink()
                else:
                    lesions.add(outcome)
                    turned += outcome.get("turned", 0)
                bar.update()
        seconds = time.perf_counter() - start
        lesions.keep(map(cell, names))
        write_table(out / "skipped.csv", Skipped._fields, (map(cell, one) for one in skipped))
    tell(found, len(done), skipped, turned, out, seconds)
    return skipped


def _done(
    pictures: Sequence[Picture], lesions: Lesions, wanted: Wanted, out: Path
) -> dict[str, None]:
    """Of the pictures, in their order, the `shown` of those that have their results, all of them
    and of the file as it is."""

    def is_done(picture: Picture) -> bool:
        files = result_files(picture.name, wanted, out)
        return lesions.is_done(picture.shown, picture.path, list(files.values()))

    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        there = tqdm(pool.map(is_done, pictures), "resume", len(pictures), unit="image", delay=2)
        return {one.shown: None for one, done in zip(pictures, there, strict=True) if done}


def _heat_maps(network: nn.Module, size: tuple[int, ...]) -> list[str]:
    """The names of an image's heat maps."""
    with _within_memory(1):
        stages = attention_stages(network, np.zeros((1, *size, CHANNELS[len(size)]), np.uint8))
    return [file_name(number, stage) for number, stage in enumerate(stages, start=1)]


def tell(
    found: Found,
    before: int,
    skipped: Sequence[Skipped],
    turned: int,
    out: Path,
    seconds: float,
) -> None:
    for image, reason in skipped[:TOLD]:
        warn(f"skipped {image}: {reason}")
    if len(skipped) > TOLD:
        warn(f"skipped {len(skipped) - TOLD} more: see {out / 'skipped.csv'}")
    done = len(found.pictures) - before - (len(skipped) - len(found.skipped))
    print(
        f"predict: {quantity(done, 'image')} segmented in {out}"
        + (f", {done / seconds:.1f} images/s" if done else "")
        + (f", {turned} of them turned upright (EXIF)" if turned else "")
        + (f", {before} done before" if before else "")
        + (f", {len(skipped)} skipped (skipped.csv)" if skipped else "")
        + (
            f", {quantity(found.passed_over, 'other file')} passed over"
            if found.passed_over
            else ""
        )
        + (
            f", {quantity(found.results, 'folder')} of earlier results passed over"
            if found.results
            else ""
        )
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    def told(columns: Mapping[str, str]) -> str:
        return "; ".join(f"{name}: {what}" for name, what in columns.items())

    own = {name: what for name, what in COLUMNS_OF_VOLUMES.items() if COLUMNS.get(name) != what}
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        description="Segment images with a trained network. "
        "Exit status 0: every image is segmented; 1: some were skipped (skipped.csv says why).",
        epilog=f"lesions.csv: {told(COLUMNS)}. Of volumes otherwise: {told(own)}.",
    )
    parser.add_argument(
        "run",
        help="a run folder, runs/<variant>/<seed>/<fold>, or runs:/... or models:/... of MLflow",
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        help="JPEG and PNG files, and folders; NIfTI files for a network of volumes",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="write p as 16-bit PNGs, p = value / 65535; of volumes as NIfTI files",
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
        "--batch-size",
        type=option(Count),
        help=f"images at once; default: {BATCH}, of volumes {BATCH_OF_VOLUMES}",
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

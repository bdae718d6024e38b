"""Stage 2: check, split and resize the raw cases into arrays (see pipeline/prepared.py)."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from pipeline.errors import UserError, run_command
from pipeline.files import replacing, sha256
from pipeline.params import (
    SPLITS,
    OfficialSplit,
    Prepare,
    RandomSplit,
    Split,
    Study,
    load_study,
)
from pipeline.prepared import seal
from pipeline.raw import RawCase, find_cases


@dataclass(frozen=True)
class Decoded:
    """A case at the prepared size, or the problems that keep it from being one."""

    image: NDArray[np.uint8]  # (height, width, 3) RGB
    mask: NDArray[np.uint8]  # (height, width) in {0, 1}
    original_size: tuple[int, int]  # height, width
    image_sha256: str
    mask_sha256: str
    problems: list[str]


def decode_case(case: RawCase, *, height: int, width: int) -> Decoded:
    """Decode and stretch one case. Never raises for a bad file: the problems tell."""
    problems: list[str] = []
    image = _decode(case.image, "RGB", (width, height), problems)
    mask = _decode(case.mask, "L", None, problems)
    small = np.zeros((height, width), np.uint8)
    original_size = (0, 0)
    if image is not None:
        pixels, original_size = image
    if mask is not None:
        values, mask_size = mask
        if image is not None and original_size != mask_size:
            problems.append(
                f"{case.mask}: must have its image's size, {_size(original_size)}, "
                f"got {_size(mask_size)}"
            )
        found = np.unique(values)
        if not (np.isin(found, (0, 255)).all() or np.isin(found, (0, 1)).all()):
            problems.append(
                f"{case.mask}: must hold 0 and 255 alone, got {len(found)} values "
                f"such as {', '.join(map(str, found[(found > 0) & (found < 255)][:3]))}"
            )
        small = shrink_mask(values > 0, height=height, width=width)
    return Decoded(
        pixels if not problems else np.zeros((height, width, 3), np.uint8),
        small,
        original_size,
        sha256(case.image) if not problems else "",
        sha256(case.mask) if not problems else "",
        problems,
    )


def shrink_mask(mask: NDArray[np.bool_], *, height: int, width: int) -> NDArray[np.uint8]:
    """The mask at (height, width): lesion where at least half of the pixel's area is.

    Pillow's BOX filter averages the area from whole original pixels, taken by their centres: that
    is exact where the size divides the original's; else 1 pixel in 5,000 of ISIC's masks differs.
    """
    area = Image.fromarray(mask.astype(np.uint8) * 255).resize(
        (width, height), Image.Resampling.BOX
    )
    return (np.asarray(area) >= 128).astype(np.uint8)


def _decode(
    path: Path, mode: str, size: tuple[int, int] | None, problems: list[str]
) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
    """The pixels of `path`, stretched to `size` (width, height) if given, and the original height
    and width; None and a line in `problems` if it cannot be decoded."""
    try:
        with Image.open(path) as file:
            original_size = (file.height, file.width)
            if size is not None:
                # The decoder's own scaling of JPEGs, to no less than twice the size asked for, so
                # that the filter below still decides: 2 times faster on 14 of ISIC's originals
                # (1024x768 to 4288x2848) at 256x256, 0.1 grey levels off.
                file.draft(mode, (2 * size[0], 2 * size[1]))
            image = file.convert(mode)
    except UnidentifiedImageError:
        problems.append(f"{path}: is no image that can be read")
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        problems.append(f"{path}: cannot be decoded: {error}")
        return None
    if size is not None:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image), original_size


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def decode_all(cases: list[RawCase], prepare: Prepare) -> Iterator[Decoded]:
    """Decode every case, in order, on every core this process may use."""
    decode = partial(decode_case, height=prepare.height, width=prepare.width)
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        yield from pool.imap(decode, cases, chunksize=8)


def assign_splits(
    cases: list[RawCase], groups: list[str], split: OfficialSplit | RandomSplit
) -> list[Split]:
    """The split of each case.

    Random: whole groups, shuffled, fill training, then validation, then test, to the fractions.
    Raises UserError when a split would be empty, or a case of an official one in none.
    """
    if isinstance(split, OfficialSplit):
        assigned = [case.split for case in cases]
        told = "official needs every case in one of the Training, Validation and Test folders"
    else:
        order = np.random.default_rng(split.seed).permutation(np.unique(groups))
        sizes = pd.Series(groups).value_counts()
        # A group goes where its middle falls on the way from the first case to the last.
        ends = sizes.loc[order].cumsum().to_numpy()
        middles = (ends - sizes.loc[order].to_numpy() / 2) / len(cases)
        bounds = np.cumsum([split.training, split.validation])
        of_group = dict(zip(order, np.searchsorted(bounds, middles), strict=True))
        assigned = [SPLITS[of_group[group]] for group in groups]
        told = "random needs fractions that give each split a case"
    if set(assigned) != set(SPLITS):
        counts = [f"{assigned.count(name)} {name}" for name in SPLITS]
        if None in assigned:
            counts.append(f"{assigned.count(None)} elsewhere")
        raise UserError(f"params.yaml: prepare.split.method {told}, got cases: {', '.join(counts)}")
    return [name for name in assigned if name is not None]


def prepare_cases(study: Study, folder: Path) -> pd.DataFrame:
    """Write images.npy, masks.npy, cases.csv and prepared.json into `folder`; return the table.

    Raises UserError listing every raw file that is missing or cannot be used.
    """
    cases, problems = find_cases(study.raw_dir)
    if not cases and not problems:
        raise UserError(
            f"{study.raw_dir} holds no cases: expected the folders of the official archives, or "
            "images/ and masks/"
        )
    groups = [case.id for case in cases]
    splits = assign_splits(cases, groups, study.prepare.split) if not problems else []
    shape = (len(cases), study.prepare.height, study.prepare.width)
    rows = []
    if cases:
        folder.mkdir()
        images = np.lib.format.open_memmap(
            folder / "images.npy", mode="w+", dtype=np.uint8, shape=(*shape, 3)
        )
        masks = np.lib.format.open_memmap(
            folder / "masks.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        decoded = decode_all(cases, study.prepare)
        for index, case in enumerate(tqdm(decoded, "preprocess", len(cases), unit="case")):
            problems += case.problems
            images[index], masks[index] = case.image, case.mask
            rows.append((*case.original_size, case.image_sha256, case.mask_sha256))
    if problems:
        shown = "\n       ".join(problems)
        raise UserError(f"{len(problems)} files cannot be used:\n       {shown}")
    images.flush()
    masks.flush()
    table = pd.DataFrame(rows, columns=["height", "width", "image_sha256", "mask_sha256"])
    table.insert(0, "id", [case.id for case in cases])
    table.insert(1, "split", splits)
    table["group"] = groups
    table.to_csv(folder / "cases.csv", index=False)
    seal(folder)
    return table


def main() -> None:
    study = load_study()
    study.check_inputs()
    with replacing(study.prepared_dir) as folder:
        table = prepare_cases(study, folder)
    counts = ", ".join(f"{(table['split'] == split).sum()} {split}" for split in SPLITS)
    print(f"preprocess: {len(table)} cases ({counts}) in {study.prepared_dir}")


if __name__ == "__main__":
    run_command(main)

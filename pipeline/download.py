"""Stage 1: put the raw cases in place, in the official folder layout.

`isic2018` fetches the official archives, `synthetic` draws lesions, `directory` reads what the user
has. Writes data/source.json: what the source was and what was verified.
"""

from __future__ import annotations

import shutil
import urllib.request
import zipfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from pipeline.errors import UserError, run_command
from pipeline.files import replacing, sha256, write_json
from pipeline.params import Split, Study, Synthetic, load_study
from pipeline.raw import IMAGE_FOLDERS, MASK_ENDING, MASK_FOLDERS, find_cases
from pipeline.synthetic import draw_case


@dataclass(frozen=True)
class Archive:
    """An official archive: it holds one folder of its own name. `sha256` as quoted by torch-em."""

    name: str
    bytes: int
    sha256: str


BASE_URL = "https://isic-challenge-data.s3.amazonaws.com/2018/"
ARCHIVES = [
    Archive(
        "ISIC2018_Task1-2_Training_Input",
        11165358566,
        "80f98572347a2d7a376227fa9eb2e4f7459d317cb619865b8b9910c81446675f",
    ),
    Archive(
        "ISIC2018_Task1-2_Validation_Input",
        239231159,
        "0ea920fcfe512d12a6e620b50b50233c059f67b10146e1479c82be58ff15a797",
    ),
    Archive(
        "ISIC2018_Task1-2_Test_Input",
        2370457338,
        "e59ae1f69f4ed16f09db2cb1d76c2a828487b63d28f6ab85997f5616869b127d",
    ),
    Archive(
        "ISIC2018_Task1_Training_GroundTruth",
        27402895,
        "99f8b2bb3c4d6af483362010715f7e7d5d122d9f6c02cac0e0d15bef77c7604c",
    ),
    Archive(
        "ISIC2018_Task1_Validation_GroundTruth",
        759706,
        "f6911e9c0a64e6d687dd3ca466ca927dd5e82145cb2163b7a1e5b37d7a716285",
    ),
    Archive(
        "ISIC2018_Task1_Test_GroundTruth",
        9680101,
        "2e8f6edce454a5bdee52485e39f92bd6eddf357e81f39018d05512175238ef82",
    ),
]
DRAWN = "SYNTHETIC_"  # the ids of drawn cases begin with it
LICENCES = {
    "isic2018": "see LICENSE.txt in each archive's folder (the challenge's data page says CC-0)",
    "directory": "as the owner of the folder states",
    "synthetic": "drawn by this project, MIT",
}


def fetch_isic2018(raw_dir: Path) -> None:
    """Download, verify and unpack the six archives; one that is already unpacked is left alone."""
    for archive in ARCHIVES:
        folder = raw_dir / archive.name
        if folder.is_dir():
            continue
        with replacing(raw_dir / f"{archive.name}.zip") as partial:
            _download(BASE_URL + f"{archive.name}.zip", partial, archive)
            with replacing(folder) as unpacked:
                _unpack(partial, unpacked)
        (raw_dir / f"{archive.name}.zip").unlink()


def _download(url: str, path: Path, archive: Archive) -> None:
    try:
        with (
            urllib.request.urlopen(url, timeout=60) as response,
            path.open("wb") as file,
            tqdm.wrapattr(file, "write", total=archive.bytes, desc=archive.name) as written,
        ):
            shutil.copyfileobj(response, written, 1 << 20)
    except (OSError, HTTPException) as error:
        raise UserError(f"{url} could not be downloaded: {error}; run again to retry") from None
    found = sha256(path)
    if found != archive.sha256:
        raise UserError(
            f"{url} is not the official archive: its sha256 must be {archive.sha256}, got {found} "
            f"in {path.stat().st_size} bytes of {archive.bytes}; run again to fetch it anew"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Write the archive's files, which lie in one folder, flat into `folder`."""
    folder.mkdir()
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            # The bare name: no path in an archive can leave the folder.
            if not member.is_dir():
                with (
                    content.open(member) as source,
                    (folder / Path(member.filename).name).open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)


def draw_cases(data: Synthetic, raw_dir: Path) -> None:
    """Draw the synthetic cases as JPEG images and PNG masks in {0, 255}, replacing `raw_dir`.

    Raises UserError, and deletes nothing, when `raw_dir` holds a file that was not drawn here.
    """
    for path in raw_dir.rglob("*"):
        if path.is_file() and not path.name.startswith(DRAWN):
            raise UserError(
                f"params.yaml: data.raw must be a folder of drawn cases alone or a new one, it "
                f"would be replaced; got {path}; name another folder or remove this one yourself"
            )
    counts: dict[Split, int] = {
        "training": data.training,
        "validation": data.validation,
        "test": data.test,
    }
    if raw_dir.exists() and not raw_dir.is_dir():
        raise UserError(f"params.yaml: data.raw must name a folder, got the file {raw_dir}")
    index = 0
    with replacing(raw_dir) as folder:
        for split, count in counts.items():
            images, masks = folder / IMAGE_FOLDERS[split], folder / MASK_FOLDERS[split]
            images.mkdir(parents=True)
            masks.mkdir()
            for _ in range(count):
                image, mask = draw_case(data.seed, index, height=data.height, width=data.width)
                id = f"{DRAWN}{index:07d}"
                Image.fromarray(image).save(images / f"{id}.jpg", quality=95)
                Image.fromarray(mask * 255).save(masks / f"{id}{MASK_ENDING}.png")
                index += 1


def main() -> None:
    study = load_study()
    study.check_inputs()
    if study.data.source == "isic2018":
        fetch_isic2018(study.raw_dir)
    elif study.data.source == "synthetic":
        draw_cases(study.data, study.raw_dir)
    summary = describe(study)
    write_json(study.source_file, summary)
    print(f"download: {summary['cases']} cases from {study.data.source} in {study.raw_dir}")


def describe(study: Study) -> dict[str, Any]:
    """What data/source.json holds."""
    cases, _ = find_cases(study.raw_dir)
    source = study.data.source
    return {
        "source": source,
        "licence": LICENCES[source],
        "cases": len(cases),
        "archives": {archive.name: archive.sha256 for archive in ARCHIVES}
        if source == "isic2018"
        else {},
    }


if __name__ == "__main__":
    run_command(main)

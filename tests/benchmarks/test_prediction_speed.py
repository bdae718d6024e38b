"""Prediction from photographs to files against its pure forward passes, as a ratio."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import interleaved, write_photographs

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline.deployment.ensemble import Averaged
from pipeline.deployment.pictures import Picture
from pipeline.engine.compute import to_input
from pipeline.predict import Wanted, predict, read

CPU = torch.device("cpu")
long = pytest.mark.skipif(
    "LESION_LONG_BENCHMARKS" not in os.environ,
    reason="takes minutes: set LESION_LONG_BENCHMARKS=1 to run it",
)


def photographs(folder: Path, count: int) -> list[Picture]:
    """JPEGs of 6 megapixels; from the ninth on they are copies."""
    folder.mkdir()
    drawn = [image for image, _ in write_photographs(folder, min(count, 8))]
    pictures = []
    for number in range(count):
        path = folder / f"{number}.jpg"
        if number >= len(drawn):
            shutil.copy(drawn[number % len(drawn)], path)
        pictures.append(Picture(path, path.name, path.stem))
    return pictures


@pytest.mark.parametrize(("count", "repeats"), [(8, 2), pytest.param(500, 1, marks=long)])
def test_prediction_is_little_slower_than_its_forward_passes(count, repeats, tmp_path, benchmark):
    """The paper's resunet at 256x256: decoded and checked, masks and overlays written."""
    pictures = photographs(tmp_path / "photographs", count)
    wanted = Wanted(size=(256, 256), resize="stretch", batch_size=8)
    torch.manual_seed(0)
    model = build_model(AttenResUNetConfig()).to(memory_format=torch.channels_last).eval()
    images = torch.from_numpy(np.stack([read(picture, wanted).input for picture in pictures[:8]]))

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, count, wanted.batch_size):
            model(to_input(images[: min(wanted.batch_size, count - start)], CPU))

    def whole() -> None:
        rows = list(predict(Averaged([model]), pictures, wanted, tmp_path / "out"))
        assert [row["width"] for row in rows] == [3008] * count

    wall, processor = benchmark.pedantic(
        interleaved, args=(whole, forward), kwargs={"repeats": repeats}, rounds=1
    )
    ratio = processor[1] / processor[0]
    benchmark.extra_info |= {"ratio": ratio, "ratio_by_the_clock": wall[1] / wall[0]}
    print(
        f"\nprediction of {count}: {count / wall[0]:.2f} against {count / wall[1]:.2f} images/s by "
        f"the clock, ratio {wall[1] / wall[0]:.2f}; in processor time {ratio:.2f}"
    )
    assert ratio > 0.8

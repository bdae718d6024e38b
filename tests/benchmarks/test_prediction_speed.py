"""Prediction from photographs to files against a plain loop, as a ratio."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import interleaved, write_photographs
from torch.nn import functional as F

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
def test_prediction_is_faster_than_a_plain_loop(count, repeats, tmp_path, benchmark):
    """The paper's resunet at 256x256: decoded and checked, masks and overlays written.

    What surrounds the forward passes is compared: their share of the whole is the processor's
    (0.8 to 0.95), for one with AMX computes them several times as fast and decodes no faster.
    """
    pictures = photographs(tmp_path / "photographs", count)
    wanted = Wanted(size=(256, 256), resize="stretch", batch_size=8)
    torch.manual_seed(0)
    model = build_model(AttenResUNetConfig()).to(memory_format=torch.channels_last).eval()
    images = torch.from_numpy(np.stack([read(picture, wanted).input for picture in pictures[:8]]))
    (tmp_path / "plain").mkdir()

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, count, wanted.batch_size):
            model(to_input(images[: min(wanted.batch_size, count - start)], CPU))

    def whole() -> None:
        rows = list(predict(Averaged([model]), pictures, wanted, tmp_path / "out"))
        assert [row["width"] for row in rows] == [3008] * count

    @torch.no_grad()
    def plain() -> None:
        """One after another: the same network, a mask and an overlay at the photograph's size."""
        for picture in pictures:
            photograph = Image.open(picture.path).convert("RGB")
            small = np.asarray(photograph.resize((256, 256), Image.Resampling.BILINEAR))
            logits = model(to_input(torch.from_numpy(small.copy())[None], CPU))
            mask = F.interpolate(logits.float(), photograph.size[::-1], mode="bilinear") > 0
            drawn = Image.fromarray(mask[0, 0].numpy())
            drawn.save(tmp_path / "plain" / f"{picture.name}.png")
            red = Image.new("RGB", photograph.size, "red")
            shown = Image.composite(Image.blend(photograph, red, 0.4), photograph, drawn)
            shown.save(tmp_path / "plain" / f"{picture.name}.jpg")

    wall, processor = benchmark.pedantic(
        interleaved, args=(whole, forward, plain), kwargs={"repeats": repeats}, rounds=1
    )
    whole_time, passes, plain_time = processor
    ratio = (plain_time - passes) / (whole_time - passes)
    benchmark.extra_info |= {
        "ratio": ratio,
        "ratio_by_the_clock": (wall[2] - wall[1]) / (wall[0] - wall[1]),
        "whole_of_plain": plain_time / whole_time,
        "of_forward_passes": passes / whole_time,
    }
    print(
        f"\nprediction of {count}: {count / wall[0]:.2f} against the plain loop's "
        f"{count / wall[2]:.2f} and the forward passes' {count / wall[1]:.2f} images/s by the "
        f"clock; in processor time {plain_time / whole_time:.2f} and {passes / whole_time:.2f} "
        f"times as fast; what surrounds the passes {ratio:.1f} times as fast as the plain loop's"
    )
    assert ratio > 2  # 3.6 to 4.1 measured

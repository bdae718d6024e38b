"""What surface metrics and evaluation at the originals' size cost.

`pytest tests/benchmarks/test_evaluation_speed.py -s` prints the figures.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from scipy.ndimage import gaussian_filter

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline.engine.prepared import NATIVE_MASKS, PreparedCases
from pipeline.evaluate import evaluate
from pipeline.evaluation.surface import score_surfaces
from pipeline.study.params import Study
from pipeline.study.reading import load_study

SIDE = 256
ORIGINAL = (767, 1022)  # the commonest of ISIC's


def blob(seed: int) -> np.ndarray:
    """A lesion's mask with a rough outline, 30 % of the picture."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 6)
    return np.hypot(x, y) + 4 * noise < 0.62


def test_surface_metrics_of_1000_cases_take_less_than_a_minute_on_one_core(benchmark):
    masks = np.stack([blob(seed) for seed in range(32)])
    predicted = np.stack([blob(seed + 100) for seed in range(32)])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        score_surfaces(predicted[:1], masks[:1], tolerance=2)  # MONAI's import is paid once a run
        start = time.process_time()
        benchmark.pedantic(lambda: score_surfaces(predicted, masks, tolerance=2), rounds=2)
        seconds = (time.process_time() - start) / (2 * len(masks)) * 1000
    finally:
        torch.set_num_threads(threads)
    benchmark.extra_info["seconds_for_1000"] = seconds
    print(f"\nsurface metrics of 1,000 cases at 256x256: {seconds:.1f} s on one core")
    assert seconds < 60


@pytest.fixture
def large_cases(tmp_path: Path) -> tuple[Study, PreparedCases]:
    """6 test cases at 256x256 whose raw masks are of 767x1022 pixels."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    study = load_study(tmp_path)
    study.prepared_dir.mkdir(parents=True)
    rows, masks = [], [blob(seed).astype(np.uint8) for seed in range(6)]
    with ZipFile(study.prepared_dir / NATIVE_MASKS, "w") as native_masks:
        for number, mask in enumerate(masks):
            large = Image.fromarray(mask * 255).resize(ORIGINAL[::-1], Image.Resampling.NEAREST)
            file = BytesIO()
            large.save(file, "PNG")
            native_masks.writestr(f"case-{number}", file.getvalue())
            digest = hashlib.sha256(file.getvalue()).hexdigest()
            rows.append((f"case-{number}", "test", *ORIGINAL, digest))
    table = pd.DataFrame(rows, columns=["id", "split", "height", "width", "mask_sha256"])
    images = np.random.default_rng(0).integers(0, 255, (6, SIDE, SIDE, 3), dtype=np.uint8)
    return study, PreparedCases(images, np.stack(masks), table, fingerprint="")


def test_the_originals_size_adds_less_than_half_to_evaluation(benchmark, large_cases):
    study, cases = large_cases
    model = build_model(AttenResUNetConfig()).to(memory_format=torch.channels_last).eval()
    seconds: dict[str, list[float]] = {"network": [], "native": []}

    def run(resolution: str) -> None:
        settings = study.evaluate.model_copy(update={"resolution": resolution, "batch_size": 3})
        start = time.perf_counter()
        evaluate(model, cases, study.model_copy(update={"evaluate": settings}))
        seconds[resolution].append(time.perf_counter() - start)

    def both() -> None:
        for resolution in seconds:
            run(resolution)

    run("native")  # imports, first allocations
    seconds["native"].clear()
    benchmark.pedantic(both, rounds=2)
    network, native = (min(seconds[resolution]) for resolution in ("network", "native"))
    benchmark.extra_info |= {"network": network, "native": native}
    print(f"\nevaluation at 256x256: {network:.2f} s, with 767x1022 beside it {native:.2f} s")
    assert native < 1.5 * network

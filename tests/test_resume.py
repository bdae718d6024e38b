"""pipeline/resume.py: an interrupted training ends as one that was not, to the bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import killed_stage
import pandas as pd
import pytest
from conftest import change_params

from pipeline.files import sha256
from pipeline.params import Study, load_study

VARIANT = "gated_attention"
KILLS = int(os.environ.get("LESION_KILLS", "8"))  # more of them take longer and prove more
SEEN_ONCE = ["seconds", "images_per_second"]


@pytest.fixture
def quick_study(tiny_study) -> Study:
    """A variant that trains six epochs in a second or two; nothing goes to MLflow."""
    network = {"encoder": "plain", "plain_width": 2, "decoder_gates": True}
    return change_params(
        train={
            "epochs": 6,
            "select": "best_validation_dice",
            "schedule": {"method": "cosine", "warmup_epochs": 1},
        },
        models={VARIANT: network},
        variants=[VARIANT],
        tracking={"live": False},
    )


def run_stages(folder: Path) -> None:
    for stage in ("train", "evaluate"):
        process = killed_stage.start(stage, folder, VARIANT, "0")
        process.join(120)
        assert process.exitcode == 0, (folder / "printed").read_text()


def copy_of(study: Study, name: str) -> Path:
    """Another study's folder with the same params and data, nothing trained."""
    folder = study.folder.resolve().parent / name
    folder.mkdir()
    shutil.copy("params.yaml", folder)
    (folder / "data").symlink_to(Path("data").resolve())
    return folder


def results(folder: Path) -> tuple[str, str, str]:
    """What two equal trainings have in common: weights, history, metrics."""
    run_dir = load_study(folder).run_dir(VARIANT, 0)
    history = pd.read_csv(run_dir / "history.csv").drop(columns=SEEN_ONCE)
    metrics = (run_dir / "evaluation" / "metrics.json").read_text()
    return sha256(run_dir / "weights.safetensors"), history.to_csv(), metrics


def record_of(folder: Path) -> dict:
    return json.loads((load_study(folder).run_dir(VARIANT, 0) / "run.json").read_text())


def test_kills_at_random_moments_change_no_bit(quick_study):
    whole = copy_of(quick_study, "whole")
    start = time.perf_counter()
    run_stages(whole)
    seconds = (time.perf_counter() - start) * 0.7  # without the evaluation
    moments = random.Random(os.environ.get("LESION_KILL_SEED", "0"))
    kills = runs = 0
    while kills < KILLS:
        folder = copy_of(quick_study, f"killed-{runs}")
        killed: list[str] = []
        while True:
            process = killed_stage.start("train", folder, VARIANT, "0")
            process.join(moments.uniform(0.1, seconds) if kills < KILLS else 120)
            if process.exitcode is not None:
                assert process.exitcode == 0, (folder / "printed").read_text()
                break
            process.kill()
            process.join()
            kills += 1
            state = load_study(folder).resume_file(VARIANT, 0)
            killed.append("saved" if state.exists() else "nothing saved")
        run_stages(folder) if not record_of(folder) else evaluate(folder)
        assert results(folder) == results(whole)
        resumed = record_of(folder)["resumed_epochs"]
        print(f"run {runs}: {len(killed)} kills, resumed after {resumed}, sha256 equal")
        runs += 1


def evaluate(folder: Path) -> None:
    process = killed_stage.start("evaluate", folder, VARIANT, "0")
    process.join(120)
    assert process.exitcode == 0

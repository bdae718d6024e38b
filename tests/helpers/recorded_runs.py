"""Runs recorded in MLflow's store, made without training."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd
from conftest import change_params
from run_folders import GATED, make_run

from pipeline.study.params import Study
from pipeline.tracking.sync import sync

VARIANT = "gated_attention"


def make_recorded() -> Study:
    """The working folder's study as one of a variant and two seeds, made and recorded in MLflow's
    store."""
    study = change_params(variants=[VARIANT], seeds=[0, 1], models={VARIANT: asdict(GATED)})
    for seed in study.seeds:
        folder, _ = make_run(study.folder, seed, variant=VARIANT)
        record = json.loads((folder / "run.json").read_text()) | {
            "dirty": False,
            "data_fingerprint": "0" * 64,
            "started": 1.7e9,
            "wall_seconds": 1.0,
            "peak_memory_bytes": 1,
            "parameters": 1,
            "epochs_trained": 1,
            "selected_epoch": 1,
        }
        (folder / "run.json").write_text(json.dumps(record))
        pd.DataFrame({"epoch": [1], "train_loss": [0.5]}).to_csv(
            folder / "history.csv", index=False
        )
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "metrics.json").write_text(json.dumps({"dice": 0.5 + seed / 10}))
    sync(study)
    return study

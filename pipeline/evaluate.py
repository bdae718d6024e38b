"""Stage 4: score one trained network on every test case.

`python -m pipeline.evaluate <variant> <seed> [fold]`
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline import losses
from pipeline.compute import (
    autocast,
    choose_device,
    choose_dtype,
    make_deterministic,
    to_input,
    to_target,
)
from pipeline.dataset import split_batches
from pipeline.errors import run_command
from pipeline.files import replacing, write_json
from pipeline.metrics import METRICS, score_cases, summarise
from pipeline.overlap import COUNTS, confusion
from pipeline.params import Study, load_study, parse_run
from pipeline.prepared import PreparedCases
from pipeline.weights import load_model


@torch.no_grad()
def evaluate(
    model: nn.Module, cases: PreparedCases, study: Study
) -> tuple[pd.DataFrame, NDArray[np.uint8]]:
    """Score every test case.

    Returns evaluation/cases.csv (id, the columns of metrics.METRICS, the counts) and the predicted
    masks, bits packed along the width: (test cases, height, width / 8) uint8.
    """
    evaluation = study.evaluate
    device = next(model.parameters()).device
    dtype = choose_dtype(device, evaluation.precision)
    counts, focal, bce, predictions = [], [], [], []
    for images, masks in split_batches(cases, "test", evaluation.batch_size):
        targets = to_target(masks, device)
        with autocast(device, dtype):
            logits = model(to_input(images, device)).float()
        predicted = logits.sigmoid() > evaluation.threshold
        counts.append(confusion(predicted, targets > 0))
        focal.append(losses.focal_loss(logits, targets, study.focal))
        bce.append(losses.bce(logits, targets))
        predictions.append(np.packbits(predicted.squeeze(1).cpu().numpy(), axis=-1))
    table = score_cases(np.concatenate(counts), jaccard_threshold=evaluation.jaccard_threshold)
    table["focal_loss"] = torch.cat(focal).cpu().numpy()
    table["bce"] = torch.cat(bce).cpu().numpy()
    table["id"] = cases.table["id"].iloc[cases.indices("test")].to_numpy()
    return table[["id", *METRICS, *COUNTS]], np.concatenate(predictions)


def main() -> None:
    study = load_study()
    run = parse_run(study)
    cases = PreparedCases.open(study.prepared_dir, run.fold)
    make_deterministic()
    model = load_model(
        study.models[run.variant],
        study.run_dir(*run) / "weights.safetensors",
        choose_device(),
    )
    table, predictions = evaluate(model, cases, study)
    folder = study.evaluation_dir(*run)
    with replacing(folder / "cases.csv") as temporary:
        table.to_csv(temporary, index=False)
    with replacing(folder / "predictions.npy") as temporary, temporary.open("wb") as file:
        np.save(file, predictions, allow_pickle=False)
    metrics = summarise(table)
    write_json(folder / "metrics.json", metrics)
    print(
        f"evaluate: {study.label(run)}: Dice {metrics['dice']:.4f}, IoU {metrics['iou']:.4f}, "
        f"mean over {metrics['cases']} test cases"
    )


if __name__ == "__main__":
    run_command(main)

"""pipeline/evaluate.py: every test case scored once, from the saved weights."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from models import build_model
from pipeline import evaluate
from pipeline.compute import to_input
from pipeline.errors import UserError
from pipeline.metrics import METRICS
from pipeline.overlap import COUNTS
from pipeline.prepared import PreparedCases
from pipeline.weights import save_weights

VARIANT = "gated_attention"


@pytest.fixture
def evaluated(tiny_study, monkeypatch):
    """The study with an untrained network's evaluation."""
    torch.manual_seed(0)
    model = build_model(tiny_study.models[VARIANT])
    save_weights(model, tiny_study.run_dir(VARIANT, 0) / "weights.safetensors")
    monkeypatch.setattr(sys, "argv", ["evaluate", VARIANT, "0"])
    evaluate.main()
    return tiny_study, model.eval()


def test_a_row_a_test_case_with_the_scores_of_its_prediction(evaluated):
    study, model = evaluated
    folder = study.evaluation_dir(VARIANT, 0)
    cases = PreparedCases.open(study.prepared_dir)
    test = cases.indices("test")
    table = pd.read_csv(folder / "cases.csv")
    assert list(table.columns) == ["id", *METRICS, *COUNTS]
    assert table["id"].tolist() == cases.table["id"].iloc[test].tolist()

    with torch.no_grad():
        logits = model(to_input(torch.from_numpy(cases.images[test]), torch.device("cpu")))
    predicted, truth = (logits[:, 0] > 0).numpy(), cases.masks[test] > 0
    both = (predicted & truth).sum(axis=(1, 2))
    dice = 2 * both / (predicted.sum(axis=(1, 2)) + truth.sum(axis=(1, 2)))
    np.testing.assert_allclose(table["dice"], dice, atol=1e-9)
    packed = np.load(folder / "predictions.npy", allow_pickle=False)
    np.testing.assert_array_equal(np.unpackbits(packed, axis=-1).astype(bool), predicted)


def test_metrics_are_the_means_of_the_cases(evaluated):
    study, _ = evaluated
    folder = study.evaluation_dir(VARIANT, 0)
    metrics = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "cases.csv")
    for name in METRICS:
        assert metrics[name] == pytest.approx(table[name].mean())
    assert metrics["cases"] == 6


def test_the_threshold_of_params_decides(evaluated):
    study, model = evaluated
    cases = PreparedCases.open(study.prepared_dir)
    low = study.model_copy(
        update={"evaluate": study.evaluate.model_copy(update={"threshold": 0.01})}
    )
    table, _ = evaluate.evaluate(model, cases, low)
    usual, _ = evaluate.evaluate(model, cases, study)
    assert table["sensitivity"].mean() > usual["sensitivity"].mean()
    assert (table["false_positives"] >= usual["false_positives"]).all()


def test_evaluation_without_weights_names_the_stage_to_run(tiny_study, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate", VARIANT, "0"])
    with pytest.raises(UserError, match="run the stage train"):
        evaluate.main()
    assert not tiny_study.evaluation_dir(VARIANT, 0).exists()

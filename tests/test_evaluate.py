"""pipeline/evaluate.py: every test case scored once, from the saved weights."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from models import build_model
from pipeline import evaluate
from pipeline.engine import overlap
from pipeline.engine.compute import to_input
from pipeline.engine.overlap import COUNTS
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import save_weights
from pipeline.evaluation import inference
from pipeline.evaluation.metrics import METRICS, OVERLAP
from pipeline.evaluation.surface import score_surfaces
from pipeline.study.errors import UserError

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


@pytest.mark.slow
def test_a_row_a_test_case_with_the_scores_of_its_prediction(evaluated):
    study, model = evaluated
    folder = study.evaluation_dir(VARIANT, 0)
    cases = PreparedCases.open(study.prepared_dir)
    test = cases.indices("test")
    table = pd.read_csv(folder / "cases.csv")
    native = [f"native_{name}" for name in (*OVERLAP, *COUNTS)]
    assert list(table.columns) == ["id", *METRICS, *COUNTS, *native]
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
    for name in (*METRICS, *(f"native_{name}" for name in OVERLAP)):
        assert metrics[name] == pytest.approx(table[name].mean())
    assert metrics["cases"] == 6


@pytest.mark.slow
def test_the_threshold_of_params_decides(evaluated):
    study, model = evaluated
    cases = PreparedCases.open(study.prepared_dir)
    low = study.model_copy(
        update={"evaluate": study.evaluate.model_copy(update={"threshold": 0.01})}
    )
    table = evaluate.evaluate(model, cases, low).table
    usual = evaluate.evaluate(model, cases, study).table
    assert table["sensitivity"].mean() > usual["sensitivity"].mean()
    assert (table["false_positives"] >= usual["false_positives"]).all()


def probabilities(model, cases, split):
    images = torch.from_numpy(cases.images[cases.indices(split)])
    with torch.no_grad():
        return model(to_input(images, torch.device("cpu")))[:, 0].sigmoid().numpy()


def test_surface_and_brier_scores_are_of_the_prediction_and_the_params_tolerance(evaluated):
    study, model = evaluated
    cases = PreparedCases.open(study.prepared_dir)
    p, truth = probabilities(model, cases, "test"), cases.masks[cases.indices("test")] > 0
    expected = score_surfaces(p > 0.5, truth, tolerance=study.evaluate.surface_tolerance)
    table = pd.read_csv(study.evaluation_dir(VARIANT, 0) / "cases.csv")
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, rtol=1e-6)
    np.testing.assert_allclose(table["brier"], ((p - truth) ** 2).mean(axis=(1, 2)), rtol=1e-4)


def test_calibration_is_kept_in_bins_of_each_case_and_its_error_is_of_all_pixels(evaluated):
    study, model = evaluated
    cases = PreparedCases.open(study.prepared_dir)
    p, truth = probabilities(model, cases, "test"), cases.masks[cases.indices("test")] > 0
    folder = study.evaluation_dir(VARIANT, 0)
    binned = np.load(folder / "calibration.npy", allow_pickle=False)
    assert binned.shape == (6, study.evaluate.calibration_bins, 3)
    np.testing.assert_allclose(binned.sum(axis=1)[:, 1], p.sum(axis=(1, 2)), rtol=1e-4)
    np.testing.assert_array_equal(binned.sum(axis=1)[:, 2], truth.sum(axis=(1, 2)))
    error = json.loads((folder / "metrics.json").read_text())["expected_calibration_error"]
    expected = binary_calibration_error(
        torch.from_numpy(p).flatten(), torch.from_numpy(truth).flatten().int(), n_bins=15
    )
    assert error == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.slow
def test_the_threshold_is_swept_over_validation_cases_and_no_test_case(evaluated):
    study, model = evaluated
    cases = PreparedCases.open(study.prepared_dir)
    table = pd.read_csv(study.evaluation_dir(VARIANT, 0) / "thresholds.csv")
    p = probabilities(model, cases, "validation")
    truth = cases.masks[cases.indices("validation")] > 0
    for threshold, dice in table.itertuples(index=False):
        predicted = torch.from_numpy(p > np.float32(threshold))
        expected = overlap.dice(overlap.confusion(predicted, torch.from_numpy(truth))).mean()
        assert dice == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_too_little_memory_says_what_to_set(evaluated, monkeypatch):
    def too_large(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(inference, "to_input", too_large)
    with pytest.raises(UserError, match=r"memory ran out with \d cases .*evaluate\.batch_size"):
        evaluate.main()


def test_logits_that_are_not_finite_are_told(tiny_study):
    class Overflowing(torch.nn.Conv2d):
        def forward(self, images):
            logits = super().forward(images)
            logits[-1, 0, 0, 0] = torch.inf
            return logits

    cases = PreparedCases.open(tiny_study.prepared_dir)
    with pytest.raises(UserError, match="logits of a test case must be finite"):
        list(inference.forward(Overflowing(3, 1, 1), cases, "test", tiny_study.evaluate))


def test_evaluation_without_weights_names_the_stage_to_run(tiny_study, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate", VARIANT, "0"])
    with pytest.raises(UserError, match="run the stage train"):
        evaluate.main()
    assert not tiny_study.evaluation_dir(VARIANT, 0).exists()

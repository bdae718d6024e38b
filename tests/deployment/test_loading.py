"""deployment/loading.py: runs opened from MLflow as from their folders."""

from __future__ import annotations

import shutil
import sys

import mlflow
import numpy as np
import pytest
from PIL import Image
from recorded_runs import VARIANT, make_recorded
from run_folders import GATED, make_run

from pipeline import predict
from pipeline.deployment.loading import open_run, opened
from pipeline.study.errors import UserError


@pytest.mark.slow
def test_a_run_in_mlflow_predicts_as_its_folder_does(tiny_study, tmp_path, monkeypatch):
    study = make_recorded()
    folder = study.run_dir(VARIANT, 0)
    image = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    runs = mlflow.search_runs(experiment_names=[study.name], filter_string="tags.seed = '0'")
    run_id = runs["run_id"].item()
    (model,) = mlflow.MlflowClient().get_run(run_id).outputs.model_outputs
    mlflow.register_model(f"models:/{model.model_id}", "lesions")

    def predicted(number: int, source: str, *options: str) -> np.ndarray:
        out = tmp_path / str(number)
        arguments = [source, str(image), "--out", str(out), "--probabilities", *options]
        monkeypatch.setattr(sys, "argv", ["predict", *arguments])
        with pytest.raises(SystemExit) as ended:
            predict.main()
        assert ended.value.code == 0
        return np.asarray(Image.open(out / "probabilities" / "image.png"))

    alone = predicted(0, str(folder))
    both = predicted(1, str(folder), "--ensemble=all")
    assert (alone != both).any()
    shutil.rmtree(study.folder / "runs")  # what follows is from the store
    for number, source in enumerate(
        (
            f"runs:/{run_id}",
            f"runs:/{run_id}/model",
            f"models:/{model.model_id}",
            "models:/lesions/1",
        )
    ):
        np.testing.assert_array_equal(predicted(2 + number, source), alone)
    np.testing.assert_array_equal(predicted(6, f"runs:/{run_id}", "--ensemble=0,1"), both)
    np.testing.assert_array_equal(predicted(7, "models:/lesions/1", "--ensemble=all"), both)
    with opened(f"runs:/{run_id}", "all") as trained:
        assert [run.metrics for run in trained] == [{"dice": 0.5}, {"dice": 0.6}]
    assert not trained[0].weights.exists()
    with pytest.raises(
        UserError, match="no run of gated_attention fold 0 with seed 7; it has 0, 1"
    ):
        opened(f"runs:/{run_id}", [0, 7]).__enter__()
    for gone in ("runs:/0123456789abcdef", "models:/unknown/1"):
        with pytest.raises(UserError, match=f"{gone}.*cannot be downloaded from MLflow's store"):
            opened(gone).__enter__()


def test_a_run_folder_says_what_its_network_is(tmp_path):
    folder, _ = make_run(tmp_path, 3)
    run = open_run(folder)
    assert (run.variant, run.seed, run.fold, run.config) == ("gated", 3, 0, GATED)
    assert (run.size, run.resize, run.metrics) == ((32, 64), "stretch", None)
    assert run.label == "gated seed 3"

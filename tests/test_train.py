"""pipeline/train.py: the loop is the paper's, repeats to the bit, and records what it did."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, change_params

from models import build_model
from pipeline import compute, losses, train
from pipeline.errors import UserError
from pipeline.files import sha256
from pipeline.prepared import PreparedCases

HISTORY = [
    "epoch",
    "learning_rate",
    "train_bce",
    "train_dice_loss",
    "train_focal_loss",
    "validation_bce",
    "validation_dice_loss",
    "validation_focal_loss",
    "validation_dice",
    "validation_iou",
    "seconds",
    "images_per_second",
]


def run_train(variant: str = "gated_attention", seed: str = "0") -> None:
    """The stage as DVC starts it, in the working folder."""
    subprocess.run(
        [sys.executable, "-m", "pipeline.train", variant, seed],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
    )


def test_two_runs_of_one_seed_give_the_same_weights_and_history_to_the_bit(tiny_study):
    sums, histories = [], []
    for _ in range(2):
        run_train()
        folder = tiny_study.run_dir("gated_attention", 0)
        sums.append(sha256(folder / "weights.safetensors"))
        history = pd.read_csv(folder / "history.csv")
        histories.append(history.drop(columns=["seconds", "images_per_second"]))
    assert sums[0] == sums[1]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_history_and_record_tell_what_the_run_did(tiny_study, monkeypatch):
    study = change_params(train={"epochs": 2})
    monkeypatch.setattr(sys, "argv", ["train", "limit_encoder_attention", "0"])
    train.main()
    folder = study.run_dir("limit_encoder_attention", 0)
    history = pd.read_csv(folder / "history.csv")
    assert list(history.columns) == HISTORY
    assert history["epoch"].tolist() == [1, 2]
    assert (history["learning_rate"] == 0.001).all()
    assert np.isfinite(history.to_numpy()).all()
    record = json.loads((folder / "run.json").read_text())
    assert (record["study"], record["variant"], record["seed"]) == (
        "tiny",
        "limit_encoder_attention",
        0,
    )
    assert record["weights_sha256"] == sha256(folder / "weights.safetensors")
    assert record["data_fingerprint"] == PreparedCases.open(study.prepared_dir).fingerprint
    assert record["params"]["train"]["epochs"] == 2
    assert record["versions"]["torch"] == torch.__version__
    assert record["peak_memory_bytes"] > 2**20
    assert record["parameters"] > 1e6
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    assert record["commit"] == (commit.stdout.strip() if commit.returncode == 0 else None)


def test_one_step_is_adam_on_the_mean_bce(tiny_study):
    """One epoch of one batch, against the step written out with torch's plain Adam."""
    study = change_params(train={"batch_size": 20, "precision": "float32", "augmentation": []})
    cases = PreparedCases.open(study.prepared_dir)
    device = torch.device("cpu")
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(study.models["gated_attention"]))
    train.fit(models[0], cases, study, seed=0)

    reference = models[1].train()
    training = cases.indices("training")
    inputs = compute.to_input(torch.from_numpy(cases.images[training]), device)
    targets = compute.to_target(torch.from_numpy(cases.masks[training]), device)
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.001, foreach=False)
    probabilities = reference(inputs).sigmoid()
    bce = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log()).mean()
    bce.backward()
    optimizer.step()
    # Adam's first step is the gradient's sign times the rate: where a gradient is all but 0,
    # rounding may turn it. Nearly all parameters must agree closely, none by more than two steps.
    ours = torch.cat([parameter.flatten() for parameter in models[0].parameters()])
    theirs = torch.cat([parameter.flatten() for parameter in reference.parameters()])
    difference = (ours - theirs).abs()
    assert difference.max() <= 0.0021
    assert (difference < 1e-4).float().mean() > 0.99


def test_training_learns_synthetic_lesions(tiny_study):
    study = change_params(train={"epochs": 5, "batch_size": 4})
    cases = PreparedCases.open(study.prepared_dir)
    torch.manual_seed(0)
    model = build_model(study.models["gated_attention"]).to(memory_format=torch.channels_last)
    history = train.fit(model, cases, study, seed=0)
    assert history["train_bce"].iloc[-1] < 0.7 * history["train_bce"].iloc[0]


def test_validation_losses_and_dice_are_means_over_cases(tiny_study):
    cases = PreparedCases.open(tiny_study.prepared_dir)
    torch.manual_seed(0)
    model = build_model(tiny_study.models["gated_attention"])
    means = train.LossMeans(tiny_study.focal)
    row = train.validate(model, cases, 3, means, torch.float32)  # 4 cases: batches of 3 and 1
    validation = cases.indices("validation")
    device = torch.device("cpu")
    with torch.no_grad():
        logits = model(compute.to_input(torch.from_numpy(cases.images[validation]), device))
    targets = compute.to_target(torch.from_numpy(cases.masks[validation]), device)
    assert row["validation_bce"] == pytest.approx(losses.bce(logits, targets).mean().item())
    dices = []
    for predicted, truth in zip(logits > 0, targets > 0, strict=True):
        both = (predicted & truth).sum().item()
        dices.append(2 * both / (predicted.sum() + truth.sum()).item())
    assert row["validation_dice"] == pytest.approx(np.mean(dices))


def test_variants_of_one_seed_see_the_same_batches(tiny_study, monkeypatch):
    seen: dict[str, list[bytes]] = {}
    cases = PreparedCases.open(tiny_study.prepared_dir)
    for variant in tiny_study.variants:
        inputs: list[bytes] = []
        original = compute.to_input

        def keep(images, device, inputs=inputs, original=original):
            inputs.append(images.numpy().tobytes())
            return original(images, device)

        monkeypatch.setattr(train, "to_input", keep)
        torch.manual_seed(0)
        train.fit(build_model(tiny_study.models[variant]), cases, tiny_study, seed=0)
        monkeypatch.setattr(train, "to_input", original)
        seen[variant] = inputs
    first, second = seen.values()
    assert first == second


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_learning_rate(tiny_study):
    study = change_params(train={"learning_rate": 1e30, "epochs": 3})
    cases = PreparedCases.open(study.prepared_dir)
    torch.manual_seed(0)
    model = build_model(study.models["gated_attention"])
    with pytest.raises(
        UserError, match=r"training loss is (nan|inf) in epoch \d, at learning rate"
    ):
        train.fit(model, cases, study, seed=0)


def test_a_last_batch_that_batchnorm_cannot_take_is_refused_before_training(tiny_study):
    study = change_params(train={"batch_size": 19})  # 20 cases
    cases = PreparedCases.open(study.prepared_dir)
    square = dataclasses.replace(
        cases, images=cases.images[:, :, :32], masks=cases.masks[:, :, :32]
    )
    model = build_model(study.models["gated_attention"])
    with pytest.raises(UserError, match="batch_size 19 leaves a last batch of one case"):
        train.fit(model, square, study, seed=0)


def test_a_variant_that_the_study_lacks_is_refused(tiny_study, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "unet", "0"])
    with pytest.raises(UserError, match=r"variant must be one of .*got 'unet'"):
        train.main()


def test_training_without_prepared_cases_names_the_stage_to_run(tiny_study, monkeypatch):
    (tiny_study.folder / "data").unlink()
    monkeypatch.setattr(sys, "argv", ["train", "gated_attention", "0"])
    with pytest.raises(UserError, match="run the stage preprocess"):
        train.main()
    assert not tiny_study.run_dir("gated_attention", 0).exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_stage_trains_on_the_gpu(tiny_study, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "limit_encoder_attention", "0"])
    train.main()
    record = json.loads((tiny_study.run_dir("limit_encoder_attention", 0) / "run.json").read_text())
    assert record["device"] == torch.cuda.get_device_name()

"""pipeline/train.py: the loop is the paper's, repeats to the bit, and records what it did."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, change_params
from safetensors.torch import load_file

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline import train
from pipeline.engine import compute, losses
from pipeline.engine.batches import TrainingBatches
from pipeline.engine.prepared import PreparedCases
from pipeline.study.blocks import SGD, Adam, Schedule
from pipeline.study.errors import UserError
from pipeline.study.files import sha256
from pipeline.study.inputs import Inputs
from pipeline.study.params import Run, Study
from pipeline.training import loop, step

HISTORY = [
    "epoch",
    "learning_rate",
    "train_loss",
    "train_bce",
    "train_dice_loss",
    "train_focal_loss",
    "validation_loss",
    "validation_bce",
    "validation_dice_loss",
    "validation_focal_loss",
    "validation_dice",
    "validation_iou",
    "seconds",
    "images_per_second",
]


# A network that trains in a fraction of a second, with attention between its encoder's layers.
TINY = AttenResUNetConfig(
    encoder="plain", plain_width=2, encoder_attention=(2,), decoder_gates=True
)
COMMON = {"encoder_learning_rate": None, "weight_decay": 0.0}


def tiny_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(TINY)


class Dropping(torch.nn.Module):
    """One layer behind dropout; `dropped` tells which of 64 numbers each step drops."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 1, 1)
        self.dropout = torch.nn.Dropout(0.5)
        self.dropped: list[list[bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.dropped.append((self.dropout(torch.ones(64)) == 0).tolist())
        return self.convolution(self.dropout(images))


def protocol(study: Study, **changes: object) -> Study:
    """`study` with changes under train; in float32, so that every machine computes the same."""
    changes = {"precision": "float32"} | changes
    return study.model_copy(update={"train": study.train.model_copy(update=changes)})


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The names of the tensors that differ in a bit."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def script_validation(monkeypatch, dices: list[float]) -> list[dict[str, torch.Tensor]]:
    """Make validation find these mean Dices, epoch by epoch; returns the weights that it saw."""
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model, *_: object) -> dict[str, float]:
        seen.append(state_of(model))
        return {"validation_loss": 0.5, "validation_dice": dices[len(seen) - 1]}

    monkeypatch.setattr(loop, "validate", validate)
    return seen


def run_train(variant: str = "gated_attention", seed: str = "0") -> None:
    """The stage as DVC starts it, in the working folder."""
    subprocess.run(
        [sys.executable, "-m", "pipeline.train", variant, seed],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert (record["epochs_trained"], record["selected_epoch"]) == (2, 2)
    assert record["peak_memory_bytes"] > 2**20
    assert record["parameters"] > 1e6
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    assert record["commit"] == (commit.stdout.strip() if commit.returncode == 0 else None)


@pytest.mark.slow
def test_one_step_is_adam_on_the_mean_bce(tiny_study):
    """One epoch of one batch, against the step written out with torch's plain Adam."""
    study = change_params(train={"batch_size": 20, "precision": "float32", "augmentation": []})
    cases = PreparedCases.open(study.prepared_dir)
    device = torch.device("cpu")
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(study.models["gated_attention"]))
    loop.fit(models[0], cases, study, seed=0)

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


def test_the_papers_protocol_is_a_plain_loop_of_adam_to_the_bit(tiny_study):
    study = protocol(tiny_study, epochs=2)
    cases = PreparedCases.open(study.prepared_dir)
    ours, theirs = tiny_network(), tiny_network()
    loop.fit(ours, cases, study, seed=0)

    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.001, fused=True)
    batches = TrainingBatches(cases, study.train.augmentation, batch_size=8, seed=0)
    cpu = torch.device("cpu")
    theirs.train()
    for epoch in (1, 2):
        for images, masks in batches.epoch(epoch):
            logits = theirs(compute.to_input(images, cpu))
            loss = losses.bce(logits, compute.to_target(masks, cpu)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert changed(theirs.state_dict(), ours.state_dict()) == set()
    assert changed(theirs.state_dict(), tiny_network().state_dict())


def test_dropout_is_drawn_anew_each_epoch_and_by_the_seed_alone(tiny_study):
    study = protocol(tiny_study, epochs=3, batch_size=20)
    cases = PreparedCases.open(study.prepared_dir)

    def dropped(seed: int) -> list[list[bool]]:
        """What a step drops, epoch by epoch."""
        network = Dropping()
        loop.fit(network, cases, study, seed)
        return network.dropped

    first = dropped(0)
    assert len(first) == 3
    assert all(first[one] != first[other] for one, other in ((0, 1), (0, 2), (1, 2)))
    torch.manual_seed(17)  # whatever was drawn before
    assert dropped(0) == first
    assert dropped(1) != first


@pytest.mark.parametrize("loss", ["dice", "bce_dice", "focal"])
def test_training_takes_the_gradient_of_its_loss_and_history_tells_it(tiny_study, loss):
    """One step at rate 1 of plain descent on the whole split is the gradient."""
    settings = SGD(method="sgd", learning_rate=1, momentum=0, nesterov=False, **COMMON)
    study = protocol(tiny_study, loss=loss, batch_size=20, augmentation=[], optimizer=settings)
    cases = PreparedCases.open(study.prepared_dir)
    ours, theirs = tiny_network(), tiny_network()
    history = loop.fit(ours, cases, study, seed=0)

    cpu = torch.device("cpu")
    ((images, masks),) = TrainingBatches(cases, [], batch_size=20, seed=0).epoch(1)
    logits = theirs.train()(compute.to_input(images, cpu))
    targets = compute.to_target(masks, cpu)
    parts = {
        "bce": losses.bce(logits, targets).mean(),
        "dice": losses.dice_loss(logits, targets).mean(),
        "focal": losses.focal_loss(logits, targets, study.focal).mean(),
    }
    expected = parts["bce"] + parts["dice"] if loss == "bce_dice" else parts[loss]
    expected.backward()
    for moved, weight in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(moved, weight - weight.grad, rtol=1e-4, atol=1e-6)
    row = history.iloc[0]
    assert row["train_loss"] == pytest.approx(expected.item(), rel=1e-5)
    columns = {"bce": "bce", "dice": "dice_loss", "focal": "focal_loss"}
    for name, part in parts.items():
        assert row[f"train_{columns[name]}"] == pytest.approx(part.item(), rel=1e-5)
    made_of = ["bce", "dice"] if loss == "bce_dice" else [loss]
    validation = sum(row[f"validation_{columns[name]}"] for name in made_of)
    assert row["validation_loss"] == pytest.approx(validation, rel=1e-5)


def test_the_gradients_norm_is_clipped_and_its_direction_kept(tiny_study):
    settings = SGD(method="sgd", learning_rate=1, momentum=0, nesterov=False, **COMMON)
    cases = PreparedCases.open(tiny_study.prepared_dir)
    steps = []
    for clip in (None, 0.01, 1000.0):
        study = protocol(tiny_study, batch_size=20, optimizer=settings, gradient_clip=clip)
        model = tiny_network()
        loop.fit(model, cases, study, seed=0)
        pairs = zip(model.parameters(), tiny_network().parameters(), strict=True)
        steps.append(torch.cat([(after - before).flatten() for after, before in pairs]).detach())
    whole, clipped, far_below = steps
    assert whole.norm() > 0.02
    # Subtracting weights of about 1 leaves 1e-7 of rounding in each of some thousand numbers.
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped, whole * 0.01 / whole.norm(), rtol=1e-3, atol=1e-6)
    assert torch.equal(far_below, whole)


def test_history_has_the_rates_of_each_epochs_last_step(tiny_study):
    """20 cases in batches of 8: three steps an epoch, six in all, the first three to warm up."""
    settings = Adam(
        method="adamw", learning_rate=0.004, encoder_learning_rate=0.001, weight_decay=0.01
    )
    study = protocol(
        tiny_study,
        epochs=3,
        optimizer=settings,
        schedule=Schedule(method="cosine", warmup_epochs=1),
    )
    cases = PreparedCases.open(study.prepared_dir)
    history = loop.fit(tiny_network(), cases, study, seed=0)
    factors = [1, (1 + np.cos(np.pi * 2 / 6)) / 2, (1 + np.cos(np.pi * 5 / 6)) / 2]
    assert history["learning_rate"].tolist() == pytest.approx([0.004 * f for f in factors])
    assert history["encoder_learning_rate"].tolist() == pytest.approx([0.001 * f for f in factors])


def test_a_frozen_encoder_stays_to_the_bit_and_everything_else_learns(tiny_study):
    study = protocol(tiny_study, epochs=2, freeze_encoder=True)
    cases = PreparedCases.open(study.prepared_dir)
    model = tiny_network()
    before = state_of(model)
    loop.fit(model, cases, study, seed=0)
    # What has no gradient in any network: a constant on all keys leaves a softmax as it is.
    constant = {"encoder_attention.2.key.bias"}
    learned = {name for name in before if not name.startswith("encoder.")} - constant
    assert changed(before, state_of(model)) - constant == learned
    assert {"encoder_attention.2.query.weight", "bridge.1.running_mean"} <= learned
    # No gradient either, which would take time and count in the norm that is clipped.
    assert all(weight.grad is None for weight in model.encoder.parameters())
    assert any(name.startswith("encoder.") and "running_var" in name for name in before)


@pytest.mark.parametrize(
    ("select", "early_stopping", "trained", "selected"),
    [
        ("last", None, 6, 6),
        ("last", 2, 4, 4),
        ("best_validation_dice", None, 6, 6),
        ("best_validation_dice", 2, 4, 2),
        ("best_validation_dice", 3, 5, 2),
    ],
)
def test_training_ends_early_and_keeps_the_selected_epochs_weights(
    tiny_study, monkeypatch, select, early_stopping, trained, selected
):
    study = protocol(tiny_study, epochs=6, select=select, early_stopping=early_stopping)
    cases = PreparedCases.open(study.prepared_dir)
    seen = script_validation(monkeypatch, [0.2, 0.5, 0.5, 0.4, 0.3, 0.6])
    model = tiny_network()
    history = loop.fit(model, cases, study, seed=0)
    assert history["epoch"].tolist() == list(range(1, trained + 1))
    assert loop.selected_epoch(history, study.train) == selected
    assert changed(seen[selected - 1], state_of(model)) == set()
    assert changed(seen[0], seen[1])


def test_the_stage_writes_the_selected_weights_and_says_which(tiny_study, monkeypatch, capsys):
    study = change_params(
        train={"epochs": 5, "select": "best_validation_dice", "early_stopping": 1},
        models={"gated_attention": {"encoder": "plain", "plain_width": 2}},
        variants=["gated_attention"],
        tracking={"live": False},
    )
    seen = script_validation(monkeypatch, [0.2, 0.3, 0.1])
    monkeypatch.setattr(sys, "argv", ["train", "gated_attention", "0"])
    train.main()
    folder = study.run_dir("gated_attention", 0)
    record = json.loads((folder / "run.json").read_text())
    assert (record["epochs_trained"], record["selected_epoch"]) == (3, 2)
    assert len(pd.read_csv(folder / "history.csv")) == 3
    assert changed(seen[1], load_file(folder / "weights.safetensors")) == set()
    assert "validation Dice 0.3000 after epoch 2 of 3" in capsys.readouterr().out


def test_a_variant_trains_by_its_own_settings_and_the_others_by_the_studys(tiny_study, monkeypatch):
    plain = {"encoder": "plain", "plain_width": 2}
    own = {"epochs": 2, "optimizer": {"learning_rate": 0.01}}
    study = change_params(
        train={"epochs": 1},
        models={"gated_attention": plain, "resunet": plain | {"train": own}},
        variants=["gated_attention", "resunet"],
        tracking={"live": False},
    )
    rates = {}
    for variant in study.variants:
        monkeypatch.setattr(sys, "argv", ["train", variant, "0"])
        train.main()
        folder = study.run_dir(variant, 0)
        rates[variant] = pd.read_csv(folder / "history.csv")["learning_rate"].tolist()
        record = json.loads((folder / "run.json").read_text())
        assert record["params"]["train"] == study.of(variant).deciding("train")["train"]
        assert Inputs(study).otherwise(Run(variant, 0, 0)) == []
    assert rates == {"gated_attention": [0.001], "resunet": [0.01, 0.01]}
    own["epochs"] = 3
    study = change_params(models={"resunet": plain | {"train": own}})
    told = {variant: Inputs(study).otherwise(Run(variant, 0, 0)) for variant in study.variants}
    assert told == {"gated_attention": [], "resunet": ["params.yaml: models.resunet.train"]}


@pytest.mark.slow
def test_training_learns_synthetic_lesions(tiny_study):
    study = change_params(train={"epochs": 5, "batch_size": 4})
    cases = PreparedCases.open(study.prepared_dir)
    torch.manual_seed(0)
    model = build_model(study.models["gated_attention"]).to(memory_format=torch.channels_last)
    history = loop.fit(model, cases, study, seed=0)
    assert history["train_bce"].iloc[-1] < 0.7 * history["train_bce"].iloc[0]


def test_validation_losses_and_dice_are_means_over_cases(tiny_study):
    cases = PreparedCases.open(tiny_study.prepared_dir)
    torch.manual_seed(0)
    model = build_model(tiny_study.models["gated_attention"])
    study = protocol(tiny_study, batch_size=3)  # 4 cases: batches of 3 and 1
    row = loop.validate(model, cases, study.train, study.focal, torch.float32)
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


@pytest.mark.slow
def test_variants_of_one_seed_see_the_same_batches(tiny_study, monkeypatch):
    seen: dict[str, list[bytes]] = {}
    cases = PreparedCases.open(tiny_study.prepared_dir)
    for variant in tiny_study.variants:
        inputs: list[bytes] = []
        original = compute.to_input

        def keep(images, *on, inputs=inputs, original=original):
            inputs.append(images.numpy().tobytes())
            return original(images, *on)

        monkeypatch.setattr(step, "to_input", keep)
        torch.manual_seed(0)
        loop.fit(build_model(tiny_study.models[variant]), cases, tiny_study, seed=0)
        monkeypatch.setattr(step, "to_input", original)
        seen[variant] = inputs
    first, second = seen.values()
    assert len(first) == 3  # 20 cases by 8
    assert first == second


def test_a_loss_that_is_not_finite_stops_the_run_in_its_step(tiny_study):
    settings = Adam(method="adam", learning_rate=1e30, **COMMON)
    study = protocol(tiny_study, epochs=3, optimizer=settings)
    cases = PreparedCases.open(study.prepared_dir)
    with pytest.raises(UserError) as error:
        loop.fit(tiny_network(), cases, study, seed=0)
    # The first step is fine; its weights, of 1e30, are not.
    assert re.fullmatch(
        r"the training loss is (nan|inf) in epoch 1, step 2, at learning rate 1e\+30: lower "
        r"train\.optimizer\.learning_rate, warm it up \(train\.schedule\.warmup_epochs\) or clip "
        r"the gradient \(train\.gradient_clip\)",
        str(error.value),
    )


@pytest.mark.parametrize(
    "take", [lambda: torch.empty(2**50), lambda: np.empty(2**50)], ids=["torch", "numpy"]
)
def test_memory_that_runs_out_is_one_sentence_with_the_batch_size(tiny_study, monkeypatch, take):
    """The allocators' own errors, asked for more than any machine has."""
    change_params(tracking={"live": False})
    monkeypatch.setattr(step, "to_input", lambda *_: take())
    monkeypatch.setattr(sys, "argv", ["train", "gated_attention", "0"])
    with pytest.raises(UserError) as error:
        train.main()
    assert str(error.value) == (
        "memory ran out with train.batch_size 8 at 64x32 pixels: set a smaller train.batch_size, "
        "or free memory and run again"
    )
    assert not tiny_study.run_dir("gated_attention", 0).exists()


def test_a_workers_error_is_told_without_its_traceback(tiny_study, monkeypatch):
    change_params(
        tracking={"live": False}, loader_workers=1, train={"augmentation": [{"Normalize": {}}]}
    )
    monkeypatch.setattr(sys, "argv", ["train", "gated_attention", "0"])
    with pytest.raises(UserError) as error:
        train.main()
    assert str(error.value).startswith("params.yaml: train.augmentation.0.Normalize must keep")
    assert "\n" not in str(error.value)


def test_weights_that_the_last_step_spoiled_are_not_kept(tiny_study):
    settings = Adam(method="adam", learning_rate=1e30, **COMMON)
    study = protocol(tiny_study, epochs=1, batch_size=20, optimizer=settings)
    cases = PreparedCases.open(study.prepared_dir)
    with pytest.raises(UserError, match=r"validation loss is (nan|inf) after epoch 1, at learning"):
        loop.fit(tiny_network(), cases, study, seed=0)


def test_a_last_batch_that_batchnorm_cannot_take_is_refused_before_training(tiny_study):
    study = change_params(train={"batch_size": 19})  # 20 cases
    cases = PreparedCases.open(study.prepared_dir)
    square = dataclasses.replace(
        cases, images=cases.images[:, :, :32], masks=cases.masks[:, :, :32]
    )
    model = build_model(study.models["gated_attention"])
    with pytest.raises(UserError, match="batch_size 19 leaves a batch of one case"):
        loop.fit(model, square, study, seed=0)


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

"""gate/frozen.py: the code computes what it did, and harm is seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import save_file
from torch import Tensor

from models.attenresunet.attention import AttentionGate
from pipeline.engine.batches import split_batches
from pipeline.engine.compute import NotFiniteError, to_input
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import load_model
from pipeline.evaluation import inference
from pipeline.gate import command as gate
from pipeline.gate import frozen
from pipeline.study.blocks import Train
from pipeline.study.errors import UserError
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.training import optimisation

CPU = torch.device("cpu")
FILES = ("params.yaml", "tier-a.json", "tier-b.json", "weights.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """studies/gate, as it is stored."""
    copy = tmp_path / "gate"
    copy.mkdir()
    for name in FILES:
        shutil.copy(frozen.FOLDER / name, copy / name)
    return copy


def failed(tier: frozen.Tier, folder: Path = frozen.FOLDER) -> set[tuple[str, str]]:
    """(part, metric) of every check that fails."""
    return {(c.subject, c.metric) for c in frozen.check(tier, folder) if not c.passed}


@pytest.mark.parametrize("tier", [pytest.param("a", marks=pytest.mark.slow), "b"])
def test_the_code_computes_what_is_stored(tier):
    checks = frozen.check(tier)
    assert [check for check in checks if not check.passed] == []
    assert {check.subject for check in checks} == frozen.PARTS[tier]


def test_drawn_predictions_have_the_figures_that_are_stored_on_any_machine():
    stored = frozen.load(frozen.FOLDER, "a").figures["predictions"]
    study = load_study(frozen.FOLDER)
    found = frozen.by_case(*frozen.drawn_predictions(study), study)
    assert found.keys() == stored.keys()
    for metric, values in stored.items():
        assert found[metric] == pytest.approx(values, abs=1e-6, rel=1e-6), metric


@pytest.mark.slow
def test_on_the_stored_kind_of_machine_equal_to_the_bit(folder):
    frozen.update("a", folder)
    assert {check.allowed for check in frozen.check("a", folder)} == {0.0}
    stored = frozen.load(folder, "a")
    again = frozen.measure("a", folder)
    assert again == stored


@pytest.mark.slow
def test_on_another_kind_of_machine_within_the_tolerances():
    """Torch's and oneDNN's plainest kernels stand for another processor."""
    code = (
        "from pipeline.gate import frozen\n"
        "for tier in 'ab':\n"
        "    for c in frozen.check(tier):\n"
        "        assert c.allowed > 0 and c.passed, c\n"
    )
    plain = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | plain | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_drawn_predictions_have_the_dice_of_its_definition():
    study = load_study(frozen.FOLDER)
    model, cases = frozen.drawn_predictions(study)
    stored = frozen.load(frozen.FOLDER, "a").figures["predictions"]["dice"]
    test = cases.indices("test")
    assert len(test) == len(stored) == len(cases.table) - 1
    for place, dice in zip(test, stored, strict=True):
        predicted = model.logits[place, 0].sigmoid().numpy() > 0.5
        truth = cases.masks[place].astype(bool)
        total = truth.sum() + predicted.sum()
        assert dice == (2 * (truth & predicted).sum() / total if total else 1.0)


def test_the_drawn_predictions_hold_the_definitions_edge_cases():
    model, cases = frozen.drawn_predictions(load_study(frozen.FOLDER))
    predicted = (model.logits[:, 0] > 0).numpy()
    both = [(bool(t.any()), bool(p.any())) for t, p in zip(cases.masks, predicted, strict=True)]
    assert both[:5] == [(False, False), (False, True), (True, False), (True, True), (True, False)]
    assert predicted[3].all()
    assert (model.logits[4] == 0).all()


def test_no_metric_of_the_checkpoint_hangs_on_a_rounding():
    """Of a network whose logit is nearly 0 somewhere, rounding on another machine would flip a
    pixel, and a flipped pixel moves a case's Dice by more than the tolerance."""
    study = load_study(frozen.FOLDER)
    model = load_model(study.models[frozen.TRAINED], frozen.weights_file(frozen.FOLDER), CPU)
    with torch.no_grad():
        logits = [
            model(to_input(images, CPU))
            for images, _ in split_batches(frozen.draw_cases(study), "test", 8)
        ]
    assert torch.cat(logits).abs().min() > 1e-3  # machines differ by 1e-6


def test_the_checkpoint_is_small_and_segments():
    assert frozen.weights_file(frozen.FOLDER).stat().st_size < 300_000
    assert np.mean(frozen.load(frozen.FOLDER, "b").figures["checkpoint"]["dice"]) > 0.75


def test_every_training_segments_in_every_epoch():
    """Of a network that finds nothing no Dice would hold anything."""
    for part in frozen.TRAININGS:
        figures = frozen.load(frozen.FOLDER, "a").figures[part]
        assert min(figures["validation_dice"]) > 0.4, part
        assert figures["test_dice"][0] > 0.7, part


def test_some_training_has_each_option_on():
    found = frozen.trainings(load_study(frozen.FOLDER))
    assert tuple(found) == frozen.TRAININGS
    trainings = [study.train for study in found.values()]
    optimizers = [train.optimizer for train in trainings]
    assert {settings.method for settings in optimizers} == {"adam", "adamw", "sgd"}
    assert any(settings.weight_decay for settings in optimizers)
    assert any(settings.encoder_learning_rate for settings in optimizers)
    assert {train.schedule.method for train in trainings} == {"constant", "cosine"}
    assert any(train.schedule.warmup_epochs for train in trainings)
    for name in ("gradient_clip", "early_stopping", "freeze_encoder"):
        assert any(getattr(train, name) for train in trainings), name
    assert {train.select for train in trainings} == {"last", "best_validation_dice"}


def test_the_training_that_stops_early_does_so_after_its_best_epoch():
    study = load_study(frozen.FOLDER).of(frozen.STOPPED)
    dice = frozen.load(frozen.FOLDER, "a").figures["stopped"]["validation_dice"]
    assert len(dice) < study.train.epochs
    assert np.argmax(dice) == len(dice) - 1 - study.train.early_stopping


@pytest.mark.slow
def test_a_gate_that_returns_zeros_is_caught_by_both_tiers(monkeypatch):
    monkeypatch.setattr(AttentionGate, "forward", lambda self, x, g: torch.zeros_like(x))
    assert ("training", "train_bce") in failed("a")
    assert ("checkpoint", "focal_loss") in failed("b")


@pytest.mark.slow
def test_a_hundredfold_learning_rate_is_caught_by_tier_a(monkeypatch):
    build = optimisation.build_optimizer

    def hasty(model: torch.nn.Module, protocol: Train) -> torch.optim.Optimizer:
        optimizer = build(model, protocol)
        for group in optimizer.param_groups:
            group["lr"] *= 100
        return optimizer

    monkeypatch.setattr("pipeline.training.state.build_optimizer", hasty)
    assert ("training", "train_bce") in failed("a")


@pytest.mark.slow
def test_flipped_masks_are_caught_by_both_tiers(monkeypatch):
    def flipped(masks: Tensor, device: torch.device) -> Tensor:
        return masks.flip(-1).unsqueeze(1).float()

    monkeypatch.setattr(inference, "to_target", flipped)
    assert ("predictions", "dice") in failed("a")
    assert ("checkpoint", "dice") in failed("b")


def test_a_training_that_diverges_is_a_regression(monkeypatch):
    def diverging(*_: object) -> None:
        raise NotFiniteError("the training loss is nan in epoch 1, step 1")

    monkeypatch.setattr(frozen, "fit", diverging)
    failing = [check for check in frozen.check("a") if not check.passed]
    assert {check.subject for check in failing} == set(frozen.TRAININGS)
    told = {check.note for check in failing if check.subject == "training"}
    assert told == {f"0 values instead of {number}" for number in (1, 4, 99)}


def test_a_user_error_of_the_training_is_no_regression(monkeypatch):
    def refusing(*_: object) -> None:
        raise UserError("the GPU's memory ran out")

    monkeypatch.setattr(frozen, "fit", refusing)
    monkeypatch.setattr(frozen, "by_case", lambda *_: {})
    with pytest.raises(UserError, match="memory ran out"):
        frozen.check("a")


def test_logits_that_are_not_finite_are_a_regression(monkeypatch, capsys):
    def overflowing(self: AttentionGate, x: Tensor, g: Tensor) -> Tensor:
        return x * torch.inf

    monkeypatch.setattr(AttentionGate, "forward", overflowing)
    checks = frozen.check("b")
    assert not any(check.passed for check in checks)
    note = "12 values; the one that differs most is number 1"
    assert {(check.candidate, check.note) for check in checks} == {(None, note)}
    assert "must be finite, got NaN or infinity" in capsys.readouterr().err


def test_weights_that_no_longer_fit_are_a_regression(folder):
    save_file({"other": torch.zeros(2)}, folder / "weights.safetensors")
    assert {part for part, _ in failed("b", folder)} == {"checkpoint"}
    assert {part for part, _ in failed("a", folder)} == set(frozen.TRAININGS)


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1\n"])
def test_weights_that_cannot_be_read_do_not_compare(folder, content):
    (folder / "weights.safetensors").unlink()
    if content is not None:
        (folder / "weights.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"weights.safetensors cannot be read .*: restore it"):
        frozen.check("b", folder)


def test_a_figure_that_is_not_finite_fails():
    check = frozen.compare("checkpoint", "dice", [0.1, 0.2], [0.1, float("nan")], allowed=1e-4)
    assert not check.passed
    assert check.note == "2 values; the one that differs most is number 2"


def test_a_check_tells_the_values_that_differ_most():
    found = frozen.compare("checkpoint", "dice", [0.1, 0.2], [0.3, 0.2], allowed=1e-4)
    assert (found.subject, found.metric) == ("checkpoint", "dice")
    assert (found.baseline, found.candidate) == (0.1, 0.3)
    assert (found.worse_by, found.allowed) == (pytest.approx(0.2), 1e-4)
    assert found.note == "2 values; the one that differs most is number 1"
    assert frozen.compare("training", "test_dice", [0.1], [0.1], allowed=0).note == ""
    same = frozen.compare("checkpoint", "dice", [0.1, 0.2], [0.1, 0.2], allowed=0)
    assert (same.worse_by, same.note) == (0.0, "2 values, equal")
    fewer = frozen.compare("checkpoint", "dice", [0.1, 0.2], [], allowed=1e-4)
    assert (fewer.metric, fewer.note) == ("dice", "0 values instead of 2")


@pytest.mark.slow
def test_other_params_do_not_compare(folder):
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params.replace("epochs: 4", "epochs: 3"))
    with pytest.raises(UserError, match=r"stored with other params .*--tier a --update-baseline"):
        frozen.check("a", folder)


def test_other_cases_do_not_compare(folder, monkeypatch):
    stored = json.loads((folder / "tier-b.json").read_text())
    (folder / "tier-b.json").write_text(json.dumps(stored | {"cases_sha256": "0"}))
    with pytest.raises(UserError, match="stored with other cases_sha256"):
        frozen.check("b", folder)


@pytest.mark.parametrize("content", [None, "{", '{"schema_version": 2}'])
def test_an_unusable_stored_file_does_not_compare(folder, content):
    (folder / "tier-b.json").unlink()
    if content is not None:
        (folder / "tier-b.json").write_text(content)
    with pytest.raises(UserError, match=r"tier-b\.json"):
        frozen.check("b", folder)


def test_update_stores_what_the_code_computes_and_keeps_the_weights(folder, monkeypatch):
    weights = frozen.weights_file(folder).read_bytes()
    monkeypatch.setattr(AttentionGate, "forward", lambda self, x, g: torch.zeros_like(x))
    assert failed("b", folder)
    frozen.update("b", folder)
    assert not failed("b", folder)
    assert frozen.weights_file(folder).read_bytes() == weights


def test_update_trains_the_weights_that_are_not_there(folder, monkeypatch):
    frozen.weights_file(folder).unlink()
    monkeypatch.setattr(frozen, "CHECKPOINT_EPOCHS", 1)
    trained = []

    def counted(model: torch.nn.Module, cases: PreparedCases, study: Study) -> pd.DataFrame:
        trained.append(study.train.epochs)
        return train(model, cases, study)

    train = frozen.train
    monkeypatch.setattr(frozen, "train", counted)
    frozen.update("b", folder)
    assert trained == [1]
    assert not failed("b", folder)


@pytest.mark.parametrize("tier", [pytest.param("a", marks=pytest.mark.slow), "b"])
def test_one_command_runs_a_tier(tier, folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gate", "--tier", tier])
    with pytest.raises(SystemExit) as ended:
        gate.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("**Gate: all ")


def test_threads_are_given_back(folder):
    before = torch.get_num_threads()
    with frozen.one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_update_keeps_what_is_stored_where_the_code_does_not_compute_all(folder, monkeypatch):
    before = (folder / "tier-b.json").read_bytes()
    monkeypatch.setattr(frozen, "measure_checkpoint", lambda study, cases: {})
    with pytest.raises(UserError, match=r"tier-b\.json is left as it was"):
        frozen.update("b", folder)
    assert (folder / "tier-b.json").read_bytes() == before


@pytest.mark.parametrize("change", [lambda figures: figures.popitem(), lambda f: f.update(x={})])
def test_a_file_of_other_figures_is_refused(folder, change):
    path = folder / "tier-a.json"
    content = json.loads(path.read_text())
    change(content["figures"])
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"tier-a.json: figures must be of frozen, predictions"):
        frozen.check("a", folder)

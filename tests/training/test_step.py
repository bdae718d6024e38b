"""training/step.py: a step waits for no device, and a recorded one computes what it computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline.engine.batches import TrainingBatches
from pipeline.engine.compute import make_deterministic
from pipeline.engine.prepared import PreparedCases
from pipeline.study.blocks import Adam
from pipeline.study.params import Study
from pipeline.training import loop, step
from pipeline.training.state import Training
from pipeline.training.step import Step

TINY = AttenResUNetConfig(
    encoder="plain", plain_width=2, encoder_attention=(2,), decoder_gates=True
)
CPU = torch.device("cpu")
TIMES = ["seconds", "images_per_second"]
cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def network(device: torch.device = CPU) -> nn.Module:
    torch.manual_seed(0)
    return build_model(TINY).to(device).to(memory_format=torch.channels_last)


def studied(study: Study, **changes: object) -> Study:
    train = study.train.model_copy(update={"precision": "float32", "epochs": 2} | changes)
    return study.model_copy(update={"train": train})


def step_of(model: nn.Module, study: Study, cases: PreparedCases) -> tuple[Step, TrainingBatches]:
    batches = TrainingBatches(
        cases,
        study.train.augmentation,
        batch_size=study.train.batch_size,
        seed=0,
        device=next(model.parameters()).device,
    )
    training = Training.start(model.train(), study.train, len(batches))
    return Step(training, study.train, study.focal, torch.float32), batches


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


class Reading(TorchDispatchMode):
    """Notes what brings a number of a tensor to Python: .item(), .tolist(), bool() and the like."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.found.append(str(function))
        return function(*arguments, **(options or {}))


READ: dict[str, Callable[[Tensor], object]] = {
    "item": Tensor.item,
    "bool": bool,
    "float": float,
    "index": lambda tensor: [0, 1][tensor.long()],
}


@pytest.mark.parametrize("how", READ)
def test_what_is_looked_for_would_be_seen(how):
    with Reading() as reading:
        READ[how](torch.ones(()))
    assert reading.found


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("loss", ["bce", "dice", "bce_dice", "focal"])
def test_a_step_reads_no_number(tiny_study, monkeypatch, loss, clip):
    """Each would wait for a GPU. `.cpu()` and `.numpy()` of a tensor on the CPU are no operation,
    so they are looked for by name."""
    study = studied(tiny_study, loss=loss, gradient_clip=clip)
    cases = PreparedCases.open(study.prepared_dir)
    one, batches = step_of(network(), study, cases)
    epoch = list(batches.epoch(1))  # the loader draws a number of its own

    def forbidden(*_: object) -> None:
        raise AssertionError("a number was read")

    for name in ("cpu", "numpy", "tolist"):
        monkeypatch.setattr(Tensor, name, forbidden)
    with Reading() as reading:
        for batch in epoch:
            one(batch)
    assert reading.found == []


class Replayed:
    """Stands for a CUDA graph where there is none: computes again, into the same memory."""

    def __init__(self, gradients: Callable[[Tensor, Tensor], dict[str, Tensor]], model: nn.Module):
        self.gradients, self.model = gradients, model
        self.replays = 0

    def record(self, *batch: Tensor) -> tuple[dict[str, Tensor], list[Any]]:
        self.batch = batch
        self.values = {name: value.clone() for name, value in self.gradients(*batch).items()}
        self.weights = [(weight, weight.grad) for weight in self.model.parameters()]
        return self.values, self.weights

    def replay(self) -> None:
        self.replays += 1
        found = self.gradients(*self.batch)
        for name, value in found.items():
            self.values[name].copy_(value)
        for weight, gradient in self.weights:
            gradient.copy_(weight.grad)
            weight.grad = None


@pytest.mark.parametrize("batch_size", [8, 10])  # of 20 cases: with an odd last batch, and without
def test_a_recorded_step_trains_to_the_same_bits(tiny_study, monkeypatch, batch_size):
    study = studied(tiny_study, batch_size=batch_size)
    cases = PreparedCases.open(study.prepared_dir)
    expected = network()
    history = loop.fit(expected, cases, study, seed=0)
    made: list[Replayed] = []

    def capture(gradients, model, images, masks):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        made.append(Replayed(gradients, model))
        batch = (images.clone(), masks.clone())
        values, weights = made[-1].record(*batch)
        model.load_state_dict(before)
        return step.Captured(made[-1], batch, values, weights)

    class Capturing(Step):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert not self.captures  # on a CPU
            self.captures = step.is_capturable(self.training.model)

    monkeypatch.setattr(step, "capture", capture)
    monkeypatch.setattr(loop, "Step", Capturing)
    model = network()
    found = loop.fit(model, cases, study, seed=0)
    assert [graph.replays for graph in made] == [4]  # of two epochs
    pd.testing.assert_frame_equal(
        found.drop(columns=TIMES), history.drop(columns=TIMES), check_exact=True
    )
    assert_same_weights(model, expected)


def test_a_step_that_cannot_be_recorded_is_told_and_computed(tiny_study, monkeypatch, capsys):
    study = studied(tiny_study)
    cases = PreparedCases.open(study.prepared_dir)
    expected, model = network(), network()
    one, batches = step_of(expected, study, cases)
    other, _ = step_of(model, study, cases)
    other.captures = True

    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(step, "capture", refuse)
    for batch in batches.epoch(1):
        one(batch)
        other(batch)
    assert_same_weights(model, expected)
    told = capsys.readouterr().err
    assert re.fullmatch(
        r"warning: the training step cannot be recorded as a CUDA graph \(operation not permitted "
        r"when stream is capturing\): it is computed without, to the same result but slower\n",
        told,
    )


def test_only_networks_that_say_so_are_recorded():
    assert step.is_capturable(network())
    assert not step.is_capturable(nn.Conv2d(3, 1, 1))


def test_a_look_names_the_first_bad_step_of_several(tiny_study, monkeypatch):
    """Looked at once an epoch: three steps."""
    monkeypatch.setattr(loop.Watch, "INTERVAL", 1e6)
    settings = Adam(method="adam", learning_rate=1e30, encoder_learning_rate=None, weight_decay=0.0)
    study = studied(tiny_study, optimizer=settings)
    cases = PreparedCases.open(study.prepared_dir)
    with pytest.raises(loop.NotFiniteError, match="in epoch 1, step 2, at learning rate 1e"):
        loop.fit(network(), cases, study, seed=0)
    study.own_training["own"] = study.train  # then that is what to change
    with pytest.raises(loop.NotFiniteError, match=r"lower models\.own\.train\.optimizer\.learn"):
        loop.fit(network(), cases, study.of("own"), seed=0)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=cuda)])
def test_no_step_on_a_gpu_waits_for_it(tiny_study, device):
    study = studied(tiny_study)
    cases = PreparedCases.open(study.prepared_dir)
    one, batches = step_of(network(torch.device(device)), study, cases)
    for batch in batches.epoch(1):
        one(batch)  # which records it, with a wait
    assert one.captured is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches.epoch(2):
            one(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Waiting(nn.Module):
    """Says that it can be recorded, and cannot: its step reads a number."""

    capturable = True

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Dropout(0.5))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.layers(images)
        return logits if logits.mean().item() < 1e9 else -logits


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=cuda)])
def test_what_cannot_be_recorded_trains_on_as_without(tiny_study, capsys, device):
    make_deterministic()
    study = studied(tiny_study)
    cases = PreparedCases.open(study.prepared_dir)
    found = []
    for capturable in (True, False):
        torch.manual_seed(0)
        model = Waiting().to(device)
        model.capturable = capturable
        loop.fit(model, cases, study, seed=0)
        found.append(model)
    assert "cannot be recorded" in capsys.readouterr().err
    assert_same_weights(*found)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=cuda)])
def test_a_graph_on_a_gpu_trains_to_the_same_bits(tiny_study, monkeypatch, device):
    def refuse(message: str) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(step, "warn", refuse)
    make_deterministic()
    study = studied(tiny_study)
    cases = PreparedCases.open(study.prepared_dir)
    graph = network(torch.device(device))
    loop.fit(graph, cases, study, seed=0)
    monkeypatch.setattr(step, "is_capturable", lambda _: False)
    plain = network(torch.device(device))
    loop.fit(plain, cases, study, seed=0)
    assert_same_weights(graph, plain)

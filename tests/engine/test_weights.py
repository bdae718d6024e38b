"""engine/weights.py: what goes in comes out, and what does not fit is refused."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline.engine.weights import (
    channels_last,
    check_trainable,
    load_model,
    load_start,
    save_weights,
    weights_file_sha256,
)
from pipeline.study.errors import UserError

CPU = torch.device("cpu")
CONFIG = AttenResUNetConfig(encoder="resnet18", encoder_attention=(1,), decoder_gates=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (CONFIG, (3, 64, 64)),
        (replace(CONFIG, dimensions=3, depth_halvings=1), (1, 4, 32, 32)),
    ],
    ids=["pictures", "volumes"],
)
def test_a_checkpoint_reloads_bit_for_bit(tmp_path, config, shape):
    torch.manual_seed(0)
    model = channels_last(build_model(config))
    model(torch.randn(2, *shape))  # moves the BatchNorm statistics
    save_weights(model, tmp_path / "weights.safetensors")
    reloaded = load_model(config, tmp_path / "weights.safetensors", CPU)
    assert not reloaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], tensor), name
    images = torch.randn(1, *shape)
    with torch.no_grad():
        assert torch.equal(reloaded(images), model.eval()(images))


def test_kernels_of_both_kinds_are_put_channels_last_and_nothing_else_is_changed():
    network = nn.ModuleList([nn.Conv2d(4, 8, 3), nn.Conv3d(4, 8, 3), nn.Linear(4, 8)])
    before = [(weight, weight.clone()) for weight in network.parameters()]
    assert channels_last(network) is network
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    for weight, (same, values) in zip(network.parameters(), before, strict=True):
        assert weight is same
        assert torch.equal(weight, values)


def test_a_checkpoint_may_be_read_by_whom_its_folder_allows_and_is_alone_there(tmp_path):
    before = os.umask(0o022)
    try:
        save_weights(build_model(CONFIG), tmp_path / "weights.safetensors")
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    model = build_model(CONFIG)
    with torch.no_grad():
        next(model.parameters())[0] = value
    save_weights(model, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors: .*weight must hold finite numbers"):
        load_model(CONFIG, tmp_path / "weights.safetensors", CPU)


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save_weights(build_model(CONFIG), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="does not hold this variant's weights"):
        load_model(AttenResUNetConfig(encoder="resnet18"), tmp_path / "weights.safetensors", CPU)


def test_a_missing_or_torn_checkpoint_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match="run the stage train"):
        load_model(CONFIG, path, CPU)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="run the stage train"):
        load_model(CONFIG, path, CPU)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_an_encoder_starts_from_the_state_dict_that_a_path_names(tmp_path, suffix):
    state = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / f"encoder.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    config = AttenResUNetConfig(encoder="resnet18", weights=path.name)
    model = build_model(config)
    load_start(model, config.at(tmp_path))
    own = model.encoder.state_dict()
    assert torch.equal(own["stages.0.0.weight"], state["conv1.weight"])
    assert torch.equal(own["stages.4.1.bn2.bias"], state["layer4.1.bn2.bias"])


def test_the_file_that_weights_names_is_known_by_its_checksum(tmp_path):
    (tmp_path / "encoder.pt").write_bytes(b"abc")
    named = AttenResUNetConfig(encoder="resnet18", weights="encoder.pt").at(tmp_path)
    sha256_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert weights_file_sha256(named) == sha256_of_abc
    for weights in ("none", "imagenet"):
        config = AttenResUNetConfig(encoder="resnet18", weights=weights).at(tmp_path)
        assert weights_file_sha256(config) is None


def test_a_network_that_cannot_be_trained_or_stored_is_refused():
    check_trainable(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"^a network must have parameters to train, got none$"):
        check_trainable(nn.ReLU())
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UserError, match="must have parameters to train"):
        check_trainable(frozen)
    shared = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    shared[1].weight = shared[0].weight
    with pytest.raises(UserError, match=r"does not go into safetensors \(.+\): let no two entries"):
        check_trainable(shared)
    turned = nn.Linear(3, 2)
    turned.weight = nn.Parameter(torch.ones(3, 2).T)  # not contiguous, and may be
    check_trainable(turned)


def test_half_precision_weights_are_widened(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    save_file(half, tmp_path / "half.safetensors")
    config = AttenResUNetConfig(encoder="resnet18", weights="half.safetensors")
    model = build_model(config)
    load_start(model, config.at(tmp_path))
    assert model.encoder.stages[0][0].weight.dtype == torch.float32


@pytest.mark.slow
def test_a_state_dict_of_another_depth_is_refused_by_naming_the_file(tmp_path):
    save_file(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "34.safetensors")
    config = AttenResUNetConfig(encoder="resnet18", weights="34.safetensors")
    with pytest.raises(UserError, match=r"'34.safetensors' must be a torchvision resnet18"):
        load_start(build_model(config), config.at(tmp_path))


class Payload:
    """An object whose unpickling would run code: it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


def test_a_pickle_with_other_objects_is_refused_unread(tmp_path):
    torch.save({"conv1.weight": Payload(tmp_path / "mark")}, tmp_path / "bad.pt")
    config = AttenResUNetConfig(encoder="resnet18", weights="bad.pt")
    with pytest.raises(UserError, match="must be a file of tensors, without"):
        load_start(build_model(config), config.at(tmp_path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("a.pt", lambda path: path.write_text("just text"), "must be a file of tensors, without"),
        ("a.pt", lambda path: path.write_bytes(b""), "must be a file of tensors, without other ob"),
        ("a.pt", lambda path: path.write_bytes(b"\x80\x02."), "must be a file of tensors, without"),
        ("a.pt", lambda path: torch.save(torch.nn.Linear(1, 1), path), "must be a file of tensors"),
        ("a.pt", lambda path: torch.save({0: torch.ones(1)}, path), "got Tensor under 0"),
        ("a.pt", lambda path: torch.save({"epoch": 3}, path), "got int under 'epoch'"),
        ("a.pt", lambda path: torch.save({"w": "text"}, path), "got str under 'w'"),
        ("a.pt", lambda path: torch.save([1], path), "must hold a state dict, got a list"),
        (
            "a.pt",
            lambda path: torch.save({"w": torch.tensor([torch.nan])}, path),
            "'w' must hold fin",
        ),
        ("a.pt", lambda path: torch.save({"w": torch.tensor([1j])}, path), "'w' must hold finite"),
        (
            "a.pt",
            lambda path: torch.save({"w": torch.eye(2).to_sparse()}, path),
            "'w' must hold fi",
        ),
        (
            "a.pt",
            lambda path: torch.save({"w": torch.ones(1, device="meta")}, path),
            "'w' must hol",
        ),
        (
            "a.safetensors",
            lambda path: save_file({"w": torch.tensor([torch.inf]).half()}, path),
            "a.safetensors: 'w' must hold finite real numbers",
        ),
        ("a.pt", lambda path: torch.jit.script(nn.ReLU()).save(path), "must be a file of tensors"),
        ("a.pt", lambda path: path.mkdir(), "cannot be read: Is a directory"),
        ("a.safetensors", lambda path: path.write_text("just text"), "must be safetensors"),
    ],
)
def test_what_is_no_state_dict_is_told_in_our_words(tmp_path, name, make, told):
    make(tmp_path / name)
    config = AttenResUNetConfig(encoder="resnet18", weights=name)
    with pytest.raises(UserError) as caught, warnings.catch_warnings(action="error"):
        load_start(build_model(config), config.at(tmp_path))
    assert told in str(caught.value)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_what_wrapped_the_network_is_taken_off(tmp_path, prefix):
    state = torchvision.models.resnet18(weights=None).state_dict()
    save_file({f"{prefix}{name}": state[name] for name in state}, tmp_path / "a.safetensors")
    config = AttenResUNetConfig(encoder="resnet18", weights="a.safetensors")
    model = build_model(config)
    load_start(model, config.at(tmp_path))
    assert torch.equal(model.encoder.state_dict()["stages.0.0.weight"], state["conv1.weight"])


def test_imagenet_weights_are_torchvisions_with_their_hash_checked(monkeypatch):
    state = torchvision.models.resnet18(weights=None).state_dict()
    asked = []

    def get_state_dict(self, **options):
        asked.append((str(self), options))
        return state

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    config = AttenResUNetConfig(encoder="resnet18", weights="imagenet")
    model = build_model(config)
    load_start(model, config)
    assert asked == [("ResNet18_Weights.IMAGENET1K_V1", {"progress": True, "check_hash": True})]
    assert torch.equal(model.encoder.state_dict()["stages.0.0.weight"], state["conv1.weight"])


def test_unreachable_imagenet_weights_are_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    config = AttenResUNetConfig(weights="imagenet")
    with pytest.raises(UserError, match=r"resnet34-.*\.pth: no route to host; fetch that file"):
        load_start(build_model(config), config)


def test_the_pretrained_resnet18_at_hand_loads(real_cases):
    folder = real_cases.parent / "weights"
    config = AttenResUNetConfig(
        encoder="resnet18", weights="resnet18-imagenet-to-layer3.safetensors"
    )
    model = build_model(config)
    load_start(model, config.at(folder))
    file = load_file(folder / config.weights)
    assert torch.equal(model.encoder.stages[0][0].weight, file["conv1.weight"].float())

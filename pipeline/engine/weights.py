"""Weights in files: what an encoder starts from, and what a run ends with."""

from __future__ import annotations

import warnings
from pathlib import Path
from textwrap import shorten

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models import NetworkConfig, build_model, load_weights
from pipeline.study.errors import UserError
from pipeline.study.files import replacing, sha256
from pipeline.study.params import original
from pipeline.study.values import shown


def load_start(model: nn.Module, config: NetworkConfig) -> None:
    """Give `model` the weights that `config.weights` names: its encoder, or a study's own network.

    `imagenet` downloads torchvision's (IMAGENET1K_V1) unless they are in torch's cache, and checks
    their hash. Raises UserError for a file that is not a complete state dict of what it is for; a
    ResNet's classifier is ignored.
    """
    if config.weights == "none":
        return
    if config.weights == "imagenet":
        state = _imagenet_state(config.encoder)
    else:
        state = _without_wrapper(_read_state(weights_path(config)), model)
    try:
        load_weights(model, config, state)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"weights {config.weights!r} must be {config.starts_from}: {shorten(str(error), 300)}"
        ) from None


def weights_path(config: NetworkConfig) -> Path:
    """Where the file is that `config.weights` names: the study's, also for a copy that DVC made of
    what git knows of it."""
    here = config.folder / config.weights
    return here if here.is_file() else original(config.folder) / config.weights


def weights_file_sha256(config: NetworkConfig) -> str | None:
    """The sha256 of the file that `config.weights` names; None where it names none."""
    return None if config.weights in ("none", "imagenet") else sha256(weights_path(config))


def _imagenet_state(encoder: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(encoder)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"weights 'imagenet' could not be downloaded from {weights.url}: {error}; fetch that "
            "file and give its path as weights, or set weights: none"
        ) from None
    return state


def _read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`. Raises UserError for a file that holds anything but named tensors;
    no object of it is made."""
    advice = "save it as safetensors, or torch.save(model.state_dict(), ...)"
    safe = path.suffix == ".safetensors"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a TorchScript file, then refuses it
            state = (
                load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
            )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:  # whatever a pickle of anything makes of it; torch would advise to run it
        kind = "safetensors" if safe else "a file of tensors, without other objects"
        raise UserError(f"{path} must be {kind}: {advice}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} must hold a state dict, got a {type(state).__name__}: {advice}")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(
                f"{path} must hold tensors by their names, got {type(tensor).__name__} under "
                f"{shown(name)}: {advice}"
            )
        if not _is_finite(tensor):
            raise UserError(
                f"{path}: {shown(name)} must hold finite real numbers, got others (NaN, infinity, "
                "complex or sparse): the training that wrote it went wrong; take another file"
            )
    return state


def _is_finite(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_complex():
        return False
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float()).all())


def _without_wrapper(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state`, without what DataParallel and torch.compile put before every name of a network."""
    for prefix in ("module.", "_orig_mod.", "module."):  # each may be around the other
        wrapped, own = (
            all(name.startswith(prefix) for name in names) for names in (state, model.state_dict())
        )
        if wrapped and not own:
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's state as safetensors, whole or not at all."""
    write_tensors(path, model.state_dict())


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors, whole or not at all; UserError where the disk refuses."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        # Not save_file: it writes a temporary file of its own, for its owner alone, which a kill
        # would leave behind.
        temporary.write_bytes(save(contiguous, metadata))


def check_trainable(model: nn.Module) -> None:
    """Raise UserError if there is nothing to train, or the weights could not be written."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("a network must have parameters to train, got none")
    try:
        save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    except (RuntimeError, ValueError, AttributeError) as error:
        raise UserError(
            f"its state dict does not go into safetensors ({str(error).strip().splitlines()[0]}): "
            "let no two entries share their tensor"
        ) from None


def channels_last(network: nn.Module) -> nn.Module:
    """`network`, the kernels of its convolutions in the layout that those are fastest in."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim in layouts:
            tensor.data = tensor.data.to(memory_format=layouts[tensor.ndim])
    return network


def load_model(config: NetworkConfig, path: Path, device: torch.device) -> nn.Module:
    """The network that `save_weights` wrote, in evaluation mode on `device`.

    Raises UserError if the file is missing, belongs to another network, or holds NaN or infinity.
    """
    with torch.device("meta"):  # no memory, no random numbers: the file has every tensor
        model = build_model(config)
    try:
        model.load_state_dict(load_file(path), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{path} does not hold this variant's weights ({str(error).splitlines()[0]}); "
            "run the stage train"
        ) from None
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"{path}: {name} must hold finite numbers, got NaN or infinity: the training went "
                "wrong; train the run again"
            )
    return channels_last(model.to(device)).eval()

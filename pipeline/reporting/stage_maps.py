"""A run's attention maps, stage by stage, in the words and units that figures show them in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models import NetworkConfig
from models.attenresunet.attention import AttentionGate, attention_maps, attention_modules
from pipeline.data import slices
from pipeline.engine.compute import to_input
from pipeline.engine.weights import load_model
from pipeline.reporting.heatmaps import AttentionStage

CPU = torch.device("cpu")


def attention_of_run(
    config: NetworkConfig, weights: Path, images: NDArray[np.uint8], shown: Sequence[int] = ()
) -> list[AttentionStage]:
    """The stages of the network in the file `weights`, computed on the CPU.

    images: (cases, height, width, 3) RGB, or volumes (cases, depth, height, width, 1), of which
    `shown` are the slices that are looked at. Empty for a network without attention. Raises
    UserError if the file is missing or of another network.
    """
    return attention_stages(load_model(config, weights, CPU), images, shown)


def attention_stages(
    model: nn.Module, images: NDArray[np.uint8], shown: Sequence[int] = ()
) -> list[AttentionStage]:
    """The attention stages of `model` (in evaluation mode) from input to output."""
    device = next(model.parameters()).device
    _, found = attention_maps(model, to_input(torch.from_numpy(np.array(images)), device))
    stages = []
    for module_name, module in attention_modules(model):
        maps = found[module_name][:, 0].cpu().numpy()  # (cases, h, w) or (cases, d, h, w)
        tokens, part = int(np.prod(maps.shape[1:])), images.shape[-3] // maps.shape[-2]
        if shown:
            depth = images.shape[1] // maps.shape[1]
            at = [place // depth for place in shown]
            maps = np.stack([slices.cut(*pair) for pair in zip(maps, at, strict=True)])
        gate = isinstance(module, AttentionGate)
        stages.append(
            AttentionStage(
                name=_words(module_name),
                size="full size" if part == 1 else f"1/{part} size",
                kind="alpha" if gate else "received",
                maps=maps if gate else maps * tokens,
            )
        )
    return stages


def _words(module_name: str) -> str:
    """`encoder_attention.2` -> `encoder layer 2, attention received`; gates likewise. A study's own
    network may have such modules under other names."""
    found = re.fullmatch(r"(encoder_attention|decoder)\.(\d+)(\.gate)?", module_name)
    if found is None:
        return module_name
    number = int(found[2])
    if found[1] == "decoder":
        return f"decoder gate {number + 1}"
    return f"encoder layer {number}, {'gate' if found[3] else 'attention received'}"

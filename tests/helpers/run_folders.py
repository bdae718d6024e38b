"""Run folders with everything that a trained network's use needs, without a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from models import NetworkConfig, build_model
from models.attenresunet import AttenResUNetConfig
from pipeline.data.synthetic import draw_case
from pipeline.engine.compute import to_input
from pipeline.engine.weights import save_weights
from pipeline.study.files import sha256

GATED = AttenResUNetConfig(
    encoder="plain", plain_width=2, encoder_attention=(3,), decoder_gates=True
)
SIZE = (32, 64)  # height, width


def make_run(
    study: Path,
    seed: int = 0,
    *,
    config: NetworkConfig = GATED,
    size: Sequence[int] = SIZE,
    resize: str = "stretch",
    variant: str = "gated",
) -> tuple[Path, nn.Module]:
    """Write `study`/runs/<variant>/<seed>/0 of a network drawn by the seed; returns both.

    Its logits are moved so that half of a drawn photograph is lesion.
    """
    torch.manual_seed(seed)
    model = build_model(config).eval()
    with torch.no_grad():
        for module in model.modules():  # as if trained: statistics that are not 0 and 1
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.3, 0.6)
        last = model.head[0]
        last.weight *= 10
        image, _ = draw_case(1, 0, height=size[0], width=size[1])
        last.bias -= model(to_input(torch.from_numpy(image)[None], torch.device("cpu"))).median()
    folder = study / "runs" / variant / str(seed) / "0"
    save_weights(model, folder / "weights.safetensors")
    height, width = size
    record = {
        "study": "made",
        "variant": variant,
        "seed": seed,
        "fold": 0,
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "weights_sha256": sha256(folder / "weights.safetensors"),
        "params": {
            "data": {"source": "synthetic"},
            "prepare": {"height": height, "width": width, "resize": resize},
            "model": asdict(config),
        },
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder, model

"""Stage networks: what each variant's network is made of, so that DVC knows which runs it concerns.

data/networks/<variant>.json has the sha256 of each source file of the variant's network, and of the
file of weights that it starts from. Each network is built once, and a study's own is given two
images: a mistake in one is told before the first training.
"""

from __future__ import annotations

import torch
from torch import nn

from models import build_model, source_hashes
from pipeline.engine.compute import logits_of, to_input
from pipeline.engine.weights import channels_last, check_trainable, load_start, weights_file_sha256
from pipeline.study.errors import UserError, run_command
from pipeline.study.files import replacing, write_json
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.study.stages import at_stage


def main() -> None:
    study = load_study()
    study.check_inputs()
    with at_stage(study, "networks"), replacing(study.networks_dir) as folder:
        folder.mkdir()
        for variant in study.variants:
            config = study.models[variant]
            model = build_model(config)
            if config.family == "module":
                try_own(model, study, variant)
            own = study.of(variant)
            key = own.train.encoder_key()
            if key and not hasattr(model, "encoder_parameters"):
                raise UserError(
                    f"params.yaml: {key.replace('train', own.train_key, 1)} needs networks with a "
                    f"method encoder_parameters(), which that of {variant} has not: add it, or do "
                    "without that key"
                )
            made_of = {
                "sources": source_hashes(config),
                "weights_sha256": weights_file_sha256(config),
            }
            write_json(folder / f"{variant}.json", made_of)
    print(f"networks: {len(study.variants)} described in {study.networks_dir}")


def try_own(model: nn.Module, study: Study, variant: str) -> None:
    """Raise UserError where a training would fail, or its weights could not be kept."""
    try:
        check_trainable(model)
        load_start(model, study.models[variant])
        # As trainings and evaluations give them.
        size, channels = study.prepare.size, study.prepare.channels
        pixels = torch.zeros(2, *size, channels, dtype=torch.uint8)
        images = to_input(pixels, torch.device("cpu"))
        logits_of(channels_last(model).eval(), images)
    except UserError as error:
        raise UserError(f"params.yaml: models.{variant}: {error}") from None


if __name__ == "__main__":
    run_command(main)

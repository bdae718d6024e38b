"""Stage 3: train one variant with one seed: `python -m pipeline.train <variant> <seed> [fold]`"""

from __future__ import annotations

from pathlib import Path

import torch

from models import build_model
from pipeline.engine.batches import AugmentedCases
from pipeline.engine.compute import choose_device, make_deterministic, stream
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import channels_last, load_start, save_weights
from pipeline.study.errors import run_command
from pipeline.study.faults import machine_faults_told
from pipeline.study.files import replacing, sha256, write_json
from pipeline.study.heartbeat import Heartbeat, beating
from pipeline.study.params import Run, Study
from pipeline.study.reading import load_study, parse_run
from pipeline.study.stages import at_stage
from pipeline.training.loop import fit, selected_epoch
from pipeline.training.provenance import (
    describe_commit,
    describe_training,
    fingerprint,
    forward_gflops,
    identity,
    speeds,
    start_weights,
)
from pipeline.training.resume import ResumeFile


def main() -> None:
    study = load_study()
    run = parse_run(study)
    study.check_inputs()
    study = study.of(run.variant)
    start = start_weights(study, run.variant)
    with (
        beating(study, run, "train") as heartbeat,
        at_stage(study, "train", run, networks=[run.variant], also=start),
        machine_faults_told(study),
    ):
        train_run(study, run, heartbeat)


def train_run(study: Study, run: Run, heartbeat: Heartbeat) -> None:
    """Train one run, or go on with it where it was interrupted, and write its folder."""
    cases = PreparedCases.open(study.prepared_dir, run.fold)
    run_dir = study.run_dir(*run)
    config = study.models[run.variant]
    device = choose_device()
    make_deterministic(study.train.deterministic)
    decisive = describe_training(study, run, device)
    resume_file = ResumeFile(study.resume_file(*run), identity(decisive), device)

    torch.manual_seed(stream(run.seed, "initialisation"))
    model = build_model(config)
    load_start(model, config)
    channels_last(model.to(device))
    record = {
        "study": study.name,
        **resume_file.parts(),
        **describe_commit(Path(study.code)),
        **decisive,
        "fingerprint": fingerprint(decisive),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    # A transform that cannot be used is told before a record is replaced.
    AugmentedCases(cases, study.train.augmentation, run.seed)
    if study.tracking.live:
        from pipeline.tracking.live import live_run

        with live_run(study, run, record, cases) as live:
            history = fit(
                model, cases, study, run.seed, live.log_epoch, resume_file, heartbeat.beat
            )
        record["mlflow_run_id"] = live.id
    else:
        history = fit(model, cases, study, run.seed, resume_file=resume_file, beat=heartbeat.beat)
    weights = run_dir / "weights.safetensors"
    save_weights(model, weights)
    with replacing(run_dir / "history.csv") as temporary:
        history.to_csv(temporary, index=False)
    selected = selected_epoch(history, study.train)
    record |= {
        "epochs_trained": len(history),
        "selected_epoch": selected,
        "weights_sha256": sha256(weights),
        **speeds(history, cases),
        "gflops": forward_gflops(config, *cases.masks.shape[1:]),
        **resume_file.parts(),
    }
    write_json(run_dir / "run.json", record)
    resume_file.delete()
    dice = history["validation_dice"].iloc[selected - 1]
    resumed = ", ".join(map(str, record["resumed_epochs"]))
    print(
        f"train: {study.label(run)}: validation Dice {dice:.4f} after epoch {selected} of "
        f"{len(history)}, {record['images_per_second']:.1f} images/s"
        + (f", resumed after epoch {resumed}" if resumed else "")
    )


if __name__ == "__main__":
    run_command(main)

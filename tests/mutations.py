"""Does the gate see harm and leave the unharmed alone? A table for readers; pytest collects none.

    PYTHONPATH=. python tests/mutations.py --work /tmp/mutations

Each harm is made in a copy of the sources; tiers A and B run on it, and the demo, retrained, goes
through tier C against a baseline of the unharmed demo. Then the unharmed demo is trained with other
seeds, again and again, and goes through tier C as well. Finished demos are kept in the folder given
as --work: interrupted, run it again. About three minutes a demo on one core, of which it takes all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
COPIED = ("models", "pipeline", "dvc.yaml", "studies/gate", "studies/demo/params.yaml")
SEEDS = (0, 1)  # the demo's own
BASELINE_SEEDS = range(20)  # of two, luck alarms
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # one demo a core
# Torch's and oneDNN's plainest kernels: for tier A another kind of machine, where it is not exact.
ELSEWHERE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


@dataclass(frozen=True)
class Harm:
    """`old` in `file` becomes `new`; `tiers`: those that should catch it."""

    name: str
    file: str
    old: str
    new: str
    tiers: str


HARMS = (
    Harm(
        "masks flipped",
        "pipeline/engine/compute.py",
        "return masks.to(device, non_blocking=True).unsqueeze(1).float()",
        "return masks.to(device).flip(-1).unsqueeze(1).float()",
        "ab",
    ),
    Harm(
        "learning rate x 100",
        "pipeline/training/optimisation.py",
        '"params": list(model.parameters()), "lr": settings.learning_rate',
        '"params": list(model.parameters()), "lr": 100 * settings.learning_rate',
        "a",
    ),
    Harm(
        "a gate that returns zeros",
        "models/attenresunet/attention.py",
        "return alpha * x",
        "return 0 * x",
        "ab",
    ),
    Harm(
        "a dropped skip",
        "models/attenresunet/blocks.py",
        "torch.cat([skip, x], dim=1)",
        "torch.cat([torch.zeros_like(skip), x], dim=1)",
        "ab",
    ),
    Harm(
        "augmentation of the image but not of the mask",
        "pipeline/engine/batches.py",
        "return augmented",
        "return augmented[0], mask",
        "a",
    ),
    Harm(
        "evaluation threshold 0.05",
        "pipeline/evaluation/inference.py",
        "logits.sigmoid() > settings.threshold",
        "logits.sigmoid() > 0.05",
        "ab",
    ),
    Harm(
        "BatchNorm left in training mode",
        "pipeline/engine/weights.py",
        "return channels_last(model.to(device)).eval()",
        "return channels_last(model.to(device)).train()",
        "b",
    ),
    Harm(
        "train and test swapped",
        "pipeline/engine/prepared.py",
        "return np.flatnonzero(self.splits() == split)",
        'split = {"training": "test", "test": "training"}.get(split, split)\n'
        "        return np.flatnonzero(self.splits() == split)",
        "a",
    ),
    Harm(
        "images not normalised",
        "pipeline/engine/compute.py",
        "return (scaled - mean) / std",
        "return scaled",
        "ab",
    ),
    Harm(
        "the loss's sign turned",
        "pipeline/training/step.py",
        'values["loss"].mean().backward()',
        '(-values["loss"].mean()).backward()',
        "a",
    ),
    Harm(
        "a cosine that never falls",
        "pipeline/training/optimisation.py",
        'if schedule.method == "constant":',
        "if True:",
        "a",
    ),
    Harm(
        "warm-up ignored",
        "pipeline/training/optimisation.py",
        "warmup = schedule.warmup_epochs * steps_per_epoch",
        "warmup = 0",
        "a",
    ),
    Harm(
        "weight decay ignored",
        "pipeline/training/optimisation.py",
        "decay = settings.weight_decay",
        "decay = 0.0",
        "a",
    ),
    Harm(
        "the encoder's own learning rate ignored",
        "pipeline/training/optimisation.py",
        '"lr": settings.encoder_learning_rate',
        '"lr": settings.learning_rate',
        "a",
    ),
    Harm(
        "clipping ignored",
        "pipeline/training/step.py",
        "if self.train.gradient_clip is not None:",
        "if False:",
        "a",
    ),
    Harm(
        "early stopping ignored",
        "pipeline/training/loop.py",
        "if not history or train.early_stopping is None:",
        "if True:",
        "a",
    ),
    Harm(
        "the last epoch selected in place of the best",
        "pipeline/training/loop.py",
        "best_epoch(training.history) == epoch",
        "best_epoch(training.history) <= epoch",
        "a",
    ),
    Harm(
        "a frozen encoder that is not frozen",
        "pipeline/training/loop.py",
        "train = study.train\n",
        'train = study.train.model_copy(update={"freeze_encoder": False})\n',
        "a",
    ),
    Harm(
        "augmentation repeated in every epoch",
        "pipeline/engine/batches.py",
        "np.random.default_rng([seed, *key])",
        "np.random.default_rng([seed, *key[1:]])",
        "a",
    ),
    Harm(
        "thresholds swept over another split",
        "pipeline/evaluate.py",
        'forward(model, cases, "validation", settings)',
        'forward(model, cases, "test", settings)',
        "a",
    ),
)

FINISHED_STUDY = str(REPOSITORY / "tests" / "helpers" / "finished_study.py")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="a folder for copies and runs")
    parser.add_argument("--repeats", type=int, default=20, help="of the unharmed demo")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    baseline = store_baseline(given.work)

    header = ("Harm", "Should be caught by", "Tier A", "Tier A elsewhere", "Tier B", "Tier C")
    rows: list[tuple[str, ...]] = [(*header, "Caught"), ("---",) * 7]
    caught = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        harmed = pool.map(lambda harm: gate_harm(harm, given.work, baseline), HARMS)
        repeated = pool.map(
            lambda number: repeat_unharmed(number, given.work, baseline), range(given.repeats)
        )
        for harm, found in zip(HARMS, harmed, strict=True):
            seen = all(found[tier] != "pass" for tier in harm.tiers)
            caught += seen
            should = ", ".join(harm.tiers.upper())
            rows.append((harm.name, should, *found.values(), "yes" if seen else "**no**"))
            print(f"{harm.name}: {found}", file=sys.stderr, flush=True)
        alarms = list(repeated)
    print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    print(f"\n{caught} of {len(HARMS)} harms caught by every tier that should catch them.")
    print(f"{sum(alarms)} of {len(alarms)} unharmed repeats with other seeds alarm.")


def store_baseline(work: Path) -> Path:
    """The unharmed demo's figures, as a pull request is compared with them."""
    folder = copy_sources(work / "baseline")
    train_demo(folder, BASELINE_SEEDS)
    path = work / "baseline.json"
    gate(folder, "--baseline", str(path), "--update-baseline")
    return path


def gate_harm(harm: Harm, work: Path, baseline: Path) -> dict[str, str]:
    """What each tier says of the harmed code: `pass`, or what it found."""
    folder = copy_sources(work / harm.name.replace(" ", "-").replace("'", ""))
    file = folder / harm.file
    text = file.read_text()
    assert text.count(harm.old) == 1, f"{harm.file} has changed: {harm.old!r}"
    file.write_text(text.replace(harm.old, harm.new))
    found = {
        "a": gate(folder, "--tier", "a"),
        "a elsewhere": gate(folder, "--tier", "a", environment=ELSEWHERE),
        "b": gate(folder, "--tier", "b"),
    }
    trained = train_demo(folder, SEEDS)
    return found | {"c": gate(folder, "--baseline", str(baseline)) if trained else "diverged"}


def repeat_unharmed(number: int, work: Path, baseline: Path) -> bool:
    """Train the demo with two seeds of its own; returns whether tier C alarms."""
    folder = copy_sources(work / f"unharmed-{number}")
    first = BASELINE_SEEDS.stop + 2 * number
    assert train_demo(folder, (first, first + 1))
    found = gate(folder, "--baseline", str(baseline))
    print(f"unharmed {number}: {found}", file=sys.stderr, flush=True)
    return found != "pass"


def copy_sources(folder: Path) -> Path:
    """A copy of what the gate and the demo need; a finished demo in it stays."""
    for name in COPIED:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    return folder


def train_demo(folder: Path, seeds: Sequence[int]) -> bool:
    """Run the demo's stages up to compare in the copy, unless it has; False if a stage refused."""
    study = folder / "studies" / "demo"
    if (study / "reports" / "results.json").is_file():
        return True
    params = yaml.safe_load((study / "params.yaml").read_text())
    params["seeds"] = list(seeds)
    params["averaging"] = []  # no tier looks at it
    params["train"]["optimizer"]["learning_rate"] = 0.001  # 1e-3, which is text in YAML 1.1
    (study / "params.yaml").write_text(yaml.safe_dump(params))
    done = run(folder, study, FINISHED_STUDY, ".", "compare")
    if done.returncode:
        print(done.stderr[-500:], file=sys.stderr)
    shutil.rmtree(study / "runs", ignore_errors=True)  # a GB; tier C reads the results alone
    return done.returncode == 0


def gate(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """The gate's answer in a copy, in words."""
    candidate = ("--candidate", "studies/demo/reports/results.json")
    command = ("-m", "pipeline.gate", *arguments, *candidate)
    done = run(folder, folder, *command, environment=environment)
    if done.returncode == 0:
        return "pass"
    verdict = done.stdout.partition("\n")[0].replace("**", "").removeprefix("Gate: ")
    return verdict.partition(" (")[0][:60] or "an error"


def run(
    folder: Path, working: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Python in `working`, with the copy's sources."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=working,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": str(folder)} | dict(environment or {}),
        capture_output=True,
        text=True,
    )


if __name__ == "__main__":
    main()

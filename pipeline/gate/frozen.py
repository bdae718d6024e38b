"""Does the code compute what it did? The gate's tiers A and B, on the study studies/gate, on a CPU.

Tier A, `tier-a.json`: the metrics of predictions drawn by a seeded generator, the curves and test
metrics of tiny trainings, which together have every option of `train` on, and a seeded ResNet's
metrics before any training. The trainings go on from tier B's weights: a network that segments
nothing would hold nothing in its Dice. All are equal to the bit on the kind of machine that they
were stored on (torch's build, processor, instruction set; one thread). Another kind adds in another
order; there TOLERANCES hold.

Tier B, `tier-b.json`: the metrics of each test case by a network whose weights are stored,
`weights.safetensors`, within 1e-4 on every machine.

They lie with the study that they are of. All is drawn: nothing is made from real cases.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from models import build_model
from pipeline import ROOT
from pipeline.data.synthetic import draw_case
from pipeline.engine.compute import NotFiniteError, make_deterministic, stream
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import channels_last, load_model, save_weights
from pipeline.evaluate import evaluate, sweep_thresholds
from pipeline.evaluation.metrics import METRICS, summarise
from pipeline.gate.baseline import read_finite
from pipeline.gate.regression import Check
from pipeline.statistics.results import Record
from pipeline.study.errors import UserError, first_fault, warn
from pipeline.study.files import write_json
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.study.values import quantity
from pipeline.training.loop import fit
from pipeline.training.provenance import describe_machine

Tier = Literal["a", "b"]
# What was measured: metric -> a value a case, or an epoch; null where it is not finite.
Figures = dict[str, list[float | None]]

FOLDER = ROOT / "studies" / "gate"
SCHEMA_VERSION: Literal[1] = 1
TRAINED, UNTRAINED = "attention", "resnet"  # variants of that study
SCHEDULED, STOPPED = "scheduled", "stopped"  # those of TRAINED's network with other settings
CHECKPOINT_EPOCHS = 40  # of the weights that tier B stores; its Dice is then worth comparing
# The keys of params.yaml that decide the figures.
DECISIVE = {"data", "prepare", "train", "focal", "evaluate", "models", "seeds"}
CLOCK = ("seconds", "images_per_second")  # columns of history.csv that no machine repeats

# The largest difference on another kind of machine than the stored one. Measured: AVX-512 against
# torch's and oneDNN's plainest kernels: 6e-8, 6e-8, and 3e-6 in trainings. There a pixel at a
# threshold may tip on yet another kind; of the smallest lesion, 55 pixels, that moves the mean Dice
# of the four validation cases by 0.005. Tier B's is asked everywhere; measured 1e-7.
TRAININGS = ("training", "scheduled", "stopped", "frozen")
TOLERANCES = {"predictions": 1e-6, "untrained": 1e-6} | dict.fromkeys(TRAININGS, 0.01)
CHECKPOINT_TOLERANCE = 1e-4
PARTS = {"a": {"predictions", "untrained", *TRAININGS}, "b": {"checkpoint"}}  # of each tier


class Frozen(Record):
    """tier-a.json and tier-b.json. They compare where the cases and the protocol are the same."""

    schema_version: Literal[1]
    cases_sha256: str
    params: dict[str, Any]
    machine: dict[str, str]
    figures: dict[str, Figures]  # of each of PARTS


def check(tier: Tier, folder: Path = FOLDER) -> list[Check]:
    """What tier A or B computes now, held against its stored figures: a check a metric.

    Raises UserError where they do not compare.
    """
    stored = load(folder, tier)
    found = measure(tier, folder)
    for name in ("cases_sha256", "params"):
        if getattr(stored, name) != getattr(found, name):
            what = "the drawn cases" if name == "cases_sha256" else "params.yaml"
            raise UserError(
                f"{_file(folder, tier)} was stored with other {name} ({what}); if that was meant: "
                f"--tier {tier} --update-baseline"
            )
    same = stored.machine == found.machine
    prepare = found.params["prepare"]
    diagonal = math.hypot(prepare["height"], prepare["width"])  # what pixels are to a share of 1

    def allowed(part: str, metric: str) -> float:
        share = CHECKPOINT_TOLERANCE if tier == "b" else 0.0 if same else TOLERANCES[part]
        return share * (diagonal if metric.endswith("hausdorff_95") else 1.0)

    return [
        compare(
            part,
            metric,
            values,
            found.figures.get(part, {}).get(metric, []),
            allowed=allowed(part, metric),
        )
        for part, metrics in stored.figures.items()
        for metric, values in metrics.items()
    ]


def compare(
    part: str,
    metric: str,
    stored: Sequence[float | None],
    found: Sequence[float | None],
    *,
    allowed: float,
) -> Check:
    """A check of the place where the two differ most."""
    if len(stored) != len(found):
        note = f"{quantity(len(found), 'value')} instead of {len(stored)}"
        return Check(part, metric, None, None, None, allowed, note)
    apart = [
        math.inf if now is None or then is None else abs(now - then)
        for then, now in zip(stored, found, strict=True)
    ]
    place, note = int(np.argmax(apart)), ""
    if len(stored) > 1:
        note = f"{len(stored)} values"
        note += f"; the one that differs most is number {place + 1}" if apart[place] else ", equal"
    return Check(part, metric, stored[place], found[place], apart[place], allowed, note)


def update(tier: Tier, folder: Path = FOLDER) -> Path:
    """Store what the tier computes now; returns the file. Tier B trains its weights where the file
    of them is not there, and else keeps them."""
    weights = weights_file(folder)
    if tier == "b" and not weights.is_file():
        study = load_study(folder)
        longer = study.train.model_copy(update={"epochs": CHECKPOINT_EPOCHS})
        with one_thread():
            torch.manual_seed(stream(study.seeds[0], "initialisation"))
            model = channels_last(build_model(study.models[TRAINED]))
            train(model, draw_cases(study), study.model_copy(update={"train": longer}))
        save_weights(model, weights)
    path = _file(folder, tier)
    found = measure(tier, folder)
    values = [each for part in found.figures.values() for row in part.values() for each in row]
    if not found.figures.keys() >= PARTS[tier] or None in values:
        raise UserError(
            f"{path} is left as it was: the code does not compute every figure of tier {tier}"
        )
    write_json(path, found.model_dump(mode="json"))
    return path


def load(folder: Path, tier: Tier) -> Frozen:
    path = _file(folder, tier)
    try:
        stored = Frozen.model_validate(read_finite(path))
    except ValidationError as invalid:
        raise UserError(
            f"{path}: {first_fault(invalid)}; store it anew: --tier {tier} --update-baseline"
        ) from None
    if stored.figures.keys() != PARTS[tier]:
        raise UserError(
            f"{path}: figures must be of {', '.join(sorted(PARTS[tier]))}, got "
            f"{', '.join(sorted(stored.figures))}; store it anew: --tier {tier} --update-baseline"
        )
    return stored


def weights_file(folder: Path) -> Path:
    return folder / "weights.safetensors"


def _file(folder: Path, tier: Tier) -> Path:
    return folder / f"tier-{tier}.json"


def measure(tier: Tier, folder: Path = FOLDER) -> Frozen:
    """Compute the tier's figures with the code as it is."""
    study = load_study(folder)
    cases = draw_cases(study)
    with one_thread():
        figures = measure_code(study, cases) if tier == "a" else measure_checkpoint(study, cases)
    return Frozen(
        schema_version=SCHEMA_VERSION,
        cases_sha256=cases.fingerprint,
        params=study.deciding(*DECISIVE),
        machine=machine_kind(),
        figures=figures,
    )


def measure_code(study: Study, cases: PreparedCases) -> dict[str, Figures]:
    """Tier A's figures; without those of a training whose numbers are not finite, or whose first
    weights do not fit."""
    figures = {"predictions": by_case(*drawn_predictions(study), study)}
    torch.manual_seed(stream(study.seeds[0], "initialisation"))
    untrained = channels_last(build_model(study.models[UNTRAINED]))
    figures["untrained"] = by_case(untrained.eval(), cases, study)
    for part, own in trainings(study).items():
        model = load_checkpoint(study)
        if model is None:
            break
        try:
            history = train(model, cases, own)
            table = evaluate(model.eval(), cases, own).table
            swept = sweep_thresholds(model, cases, own.evaluate)
        except NotFiniteError as error:
            warn(f"tier a, {part}: {error}")
            continue
        curves = history.drop(columns=["epoch", *CLOCK])
        figures[part] = {
            **{str(name): _finite(column) for name, column in curves.items()},
            **{f"test_{name}": _finite([value]) for name, value in summarise(table).items()},
            "validation_dice_by_threshold": _finite(swept["dice"]),
        }
    return figures


def trainings(study: Study) -> dict[str, Study]:
    """The study with the settings of each of TRAININGS. An encoder is frozen here, because a study
    may freeze only one that has weights of its own."""
    frozen = study.train.model_copy(update={"freeze_encoder": True})
    return {
        "training": study,
        "scheduled": study.of(SCHEDULED),
        "stopped": study.of(STOPPED),
        "frozen": study.model_copy(update={"train": frozen}),
    }


def load_checkpoint(study: Study) -> nn.Module | None:
    """TRAINED's network with the stored weights; None, with a warning, where they no longer fit it.
    Raises UserError where there are none."""
    path = weights_file(study.folder)
    try:
        with safe_open(path, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): restore it (git checkout), or store it anew: remove "
            "it, then --tier b --update-baseline"
        ) from None
    try:
        return load_model(study.models[TRAINED], path, torch.device("cpu"))
    except UserError as error:
        warn(str(error))
        return None


def measure_checkpoint(study: Study, cases: PreparedCases) -> dict[str, Figures]:
    """Tier B's figures; none where the stored weights no longer fit the network. Raises UserError
    where there are no weights."""
    model = load_checkpoint(study)
    return {} if model is None else {"checkpoint": by_case(model, cases, study)}


def train(model: nn.Module, cases: PreparedCases, study: Study) -> pd.DataFrame:
    """Train as stage 3 does, by the study's settings; returns the history."""
    return fit(model, cases, study, study.seeds[0])


def by_case(model: nn.Module, cases: PreparedCases, study: Study) -> Figures:
    """The metrics of every test case, as stage 4 scores them; without values where the network's
    numbers are not finite."""
    try:
        table = evaluate(model, cases, study).table
    except NotFiniteError as error:
        warn(str(error))
        return {name: [None] * len(cases.indices("test")) for name in METRICS}
    return {name: _finite(table[name]) for name in METRICS}


def _finite(values: Iterable[float]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


class Predicted(nn.Module):
    """A network that has made up its mind: it gives `logits` (cases, 1, H, W) in turn."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits, requires_grad=False)
        self.given = 0

    def forward(self, images: Tensor) -> Tensor:
        start, self.given = self.given, self.given + len(images)
        return self.logits[start : self.given]


def drawn_predictions(study: Study) -> tuple[Predicted, PreparedCases]:
    """Masks and logits by a seeded generator, with the edge cases of the definitions first.

    Of the test cases the first has truth and prediction empty, the second the truth alone, the
    third the prediction alone; the fourth is all lesion and found; the fifth's logits are 0, which
    is not above p = 0.5. The last case is of the training split, which evaluation leaves out.
    """
    rng = np.random.default_rng(study.seeds[0])
    count, shape = 13, (study.prepare.height, study.prepare.width)
    shares = np.linspace(0.05, 0.6, count)
    masks = rng.random((count, *shape)) < shares[:, None, None]
    logits = rng.normal(3.0 * masks - 1.5, 2.0)
    masks[0], logits[0] = False, -np.abs(logits[0])
    masks[1] = False
    logits[2] = -np.abs(logits[2])
    masks[3], logits[3] = True, np.abs(logits[3])
    logits[4] = 0.0
    images = np.zeros((count, *shape, 3), np.uint8)
    splits = ["test"] * (count - 1) + ["training"]
    table = pd.DataFrame({"id": [f"drawn-{n}" for n in range(count)], "split": splits})
    cases = PreparedCases(images, masks.astype(np.uint8), table, fingerprint="")
    return Predicted(torch.from_numpy(logits).float()[:, None]), cases


def draw_cases(study: Study) -> PreparedCases:
    """The study's synthetic cases, in memory; the fingerprint is of their pixels."""
    data, (height, width) = study.data, (study.prepare.height, study.prepare.width)
    assert data.source == "synthetic"
    splits = ["training"] * data.training + ["validation"] * data.validation + ["test"] * data.test
    drawn = [
        draw_case(data.seed, index, height=height, width=width) for index in range(len(splits))
    ]
    images, masks = (np.stack([case[part] for case in drawn]) for part in (0, 1))
    digest = hashlib.sha256(images.tobytes() + masks.tobytes()).hexdigest()
    table = pd.DataFrame({"id": [f"drawn-{n}" for n in range(len(splits))], "split": splits})
    return PreparedCases(images, masks, table, fingerprint=digest)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute repeatably: how work is shared among threads changes the order of sums."""
    before = torch.get_num_threads()
    make_deterministic()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine_kind() -> dict[str, str]:
    """What equal bits ask for: machines of which all of this is equal are of one kind."""
    facts = describe_machine(torch.device("cpu"), torch.float32)
    return {
        "torch": torch.__version__,
        "processor": facts["device"],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
    }

"""What a study would take on this machine, by a short trial of each variant.

A trial trains, validates and evaluates a few cases by the study's own protocol. It writes nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from models import NetworkConfig, build_model
from pipeline.engine.compute import choose_device, make_deterministic, stream
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import channels_last
from pipeline.evaluate import evaluate, sweep_thresholds
from pipeline.statistics.power import EXPECTED_DEVIATION, expected_difference
from pipeline.study.blocks import FoldSplit, ListSplit, RandomSplit
from pipeline.study.errors import UserError
from pipeline.study.faults import machine_faults_told
from pipeline.study.params import Study
from pipeline.study.values import Split
from pipeline.training.loop import fit

STEPS = 4  # of training that are timed, after as many that are not
BATCHES = 2  # of validation and of test cases
# ISIC 2018 task 1's official folders: the challenge's own numbers.
ISIC_2018: dict[Split, int] = {"training": 2594, "validation": 100, "test": 1000}


class Estimate(NamedTuple):
    """seconds: of one run of each variant; total: of all runs, one after the other. cases: what was
    tried on. detectable: the difference that the study's seeds can show, if a variant's runs differ
    by `deviation`; None where they can only describe."""

    seconds: dict[str, float]
    total: float
    cases: Literal["prepared", "random"]
    detectable: float | None
    deviation: float


def estimate_study(study: Study) -> Estimate:
    """A trial of each variant. Raises UserError where the number of cases is not known yet."""
    prepared = study.prepared_dir.is_dir()
    few, numbers = few_cases(study)
    if not prepared:  # nor is a raw mask to score against
        settings = study.evaluate.model_copy(update={"resolution": "network"})
        study = study.model_copy(update={"evaluate": settings})
    starting = 2 * seconds_to_start()  # of a training and of an evaluation
    seconds = {}
    for name in tqdm(study.variants, "trial", unit="variant", leave=False):
        own = study.of(name)
        make_deterministic(own.train.deterministic)
        with machine_faults_told(own):
            seconds[name] = starting + try_variant(own, study.models[name], few, numbers)
    return Estimate(
        seconds,
        sum(seconds[run.variant] for run in study.runs()),
        "prepared" if prepared else "random",
        expected_difference(len(study.settings), len(study.seeds)),
        EXPECTED_DEVIATION,
    )


def try_variant(
    study: Study,
    config: NetworkConfig,
    few: PreparedCases,
    numbers: Mapping[Split, int],
) -> float:
    """Seconds of a training and its evaluation. few: the cases to try; numbers: how many a run has
    in each split."""
    seed = study.seeds[0]
    torch.manual_seed(stream(seed, "initialisation"))
    model = channels_last(build_model(config).to(choose_device()))
    # The first epoch warms up: its kernels are chosen, its loader's workers started.
    settings = study.train.model_copy(update={"epochs": 2, "early_stopping": None})
    with redirect_stderr(StringIO()):  # its bars would stand between the trial's
        row = fit(model, few, study.model_copy(update={"train": settings}), seed).iloc[-1]
    start = time.perf_counter()
    evaluate(model.eval(), few, study)
    scored = time.perf_counter()
    sweep_thresholds(model, few, study.evaluate)
    swept = time.perf_counter()

    def times(split: Split) -> float:
        return numbers[split] / len(few.indices(split))

    training = len(few.indices("training")) / row["images_per_second"]
    epoch = training * times("training") + (row["seconds"] - training) * times("validation")
    scoring = (scored - start) * times("test") + (swept - scored) * times("validation")
    return float(study.train.epochs * epoch + scoring)


def few_cases(study: Study) -> tuple[PreparedCases, dict[Split, int]]:
    """Cases to try, and how many of each split a run has; random ones where none are prepared."""
    batch = max(study.of(name).train.batch_size for name in study.variants)
    wanted: dict[Split, int] = {
        "training": STEPS * batch,
        "validation": BATCHES * batch,
        "test": BATCHES * study.evaluate.batch_size,
    }
    if not study.prepared_dir.is_dir():
        return random_cases(study, wanted), expected_numbers(study)
    cases = PreparedCases.open(study.prepared_dir, study.folds[0])
    places = {split: cases.indices(split) for split in wanted}
    chosen = np.concatenate([places[split][:number] for split, number in wanted.items()])
    table = cases.table.iloc[chosen].reset_index(drop=True).drop(columns="fold", errors="ignore")
    table["split"] = cases.splits()[chosen]
    few = PreparedCases(cases.images[chosen], cases.masks[chosen], table, "")
    return few, {split: len(found) for split, found in places.items()}


def random_cases(study: Study, numbers: Mapping[Split, int]) -> PreparedCases:
    """Noise with a square lesion, or a block, of the study's size."""
    size, count = study.prepare.size, sum(numbers.values())
    shape = (count, *size, study.prepare.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    masks = np.zeros(shape[:-1], np.uint8)
    masks[(slice(None), *(slice(side // 4, -(-3 * side // 4)) for side in size))] = 1
    splits = [split for split, number in numbers.items() for _ in range(number)]
    own = dict(zip(("width", "height", "depth"), size[::-1], strict=False))
    table = pd.DataFrame({"id": list(map(str, range(count))), "split": splits, **own})
    return PreparedCases(images, masks, table, "")


def expected_numbers(study: Study) -> dict[Split, int]:
    """Cases of each split before they are prepared, by params.yaml. Raises UserError for a folder
    of one's own, whose cases preparing counts."""
    data, split = study.data, study.prepare.split
    if data.source == "directory":
        raise UserError(
            f"{study.folder / 'params.yaml'}: how many cases data.raw has is not known before they "
            "are prepared: run the stage preprocess, then estimate"
        )
    official: dict[Split, int] = ISIC_2018
    if data.source == "synthetic":
        official = {"training": data.training, "validation": data.validation, "test": data.test}
    total = sum(official.values())
    if isinstance(split, RandomSplit):
        shares = {"training": split.training, "validation": split.validation, "test": split.test}
    elif isinstance(split, FoldSplit):
        shares = {"training": 1 - 2 / split.k, "validation": 1 / split.k, "test": 1 / split.k}
    elif isinstance(split, ListSplit):
        return {name: _listed(study, name, getattr(split, name).file) for name in official}
    else:
        return official
    return {name: max(1, round(shares[name] * total)) for name in official}


def _listed(study: Study, split: Split, file: str) -> int:
    """How many ids a list has. Raises UserError where there is none."""
    path = study.input(file)
    if not path.is_file():
        raise UserError(
            f"{study.folder / 'params.yaml'}: prepare.split.{split}.file must be an existing file, "
            f"got {file!r}"
        )
    return len(path.read_text(encoding="utf-8-sig").split())


def seconds_to_start() -> float:
    """Until a process of its own has imported what a stage needs, as each run's two do."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "import pipeline.train, pipeline.evaluate"]
        subprocess.run(command, check=True, cwd=folder)
    return time.perf_counter() - start

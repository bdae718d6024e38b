"""status/trial.py: what a study would take, by a few steps of each variant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import change_params

from models.attenresunet import AttenResUNetConfig
from pipeline.statistics.power import EXPECTED_DEVIATION, expected_difference, plan
from pipeline.status import trial
from pipeline.status.__main__ import describe
from pipeline.status.overview import look
from pipeline.status.remaining import remaining
from pipeline.study.blocks import Directory
from pipeline.study.errors import UserError
from pipeline.study.files import sha256
from pipeline.study.reading import load_study

TINY = AttenResUNetConfig(encoder="plain", plain_width=2)
ROOT = Path(__file__).parents[2]


class Clock:
    """perf_counter, that moves only when told."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def takes(self, seconds):
        def work(*_):
            self.now += seconds

        return work


def test_a_runs_seconds_are_its_cases_at_the_speeds_of_the_trial(tiny_study, monkeypatch):
    """20 training, 4 validation and 6 test cases; batches of 8, so all of 4 and 6 are tried."""
    study = change_params(train={"epochs": 7})
    clock = Clock()
    monkeypatch.setattr(trial, "time", clock)
    monkeypatch.setattr(trial, "evaluate", clock.takes(3.0))
    monkeypatch.setattr(trial, "sweep_thresholds", clock.takes(0.5))
    seen = []

    def fit(model, cases, study, seed):
        seen.append(
            {split: len(cases.indices(split)) for split in ("training", "validation", "test")}
        )
        training = seen[-1]["training"] / 10
        return pd.DataFrame({"images_per_second": [1.0, 10.0], "seconds": [99.0, training + 2.0]})

    monkeypatch.setattr(trial, "fit", fit)
    few, numbers = trial.few_cases(study)
    assert numbers == {"training": 20, "validation": 4, "test": 6}
    # An epoch: 20 images at 10 a second, and 2 s of validation.
    assert trial.try_variant(study, TINY, few, numbers) == pytest.approx(7 * (20 / 10 + 2.0) + 3.5)
    many = {"training": 2000, "validation": 40, "test": 60}
    assert trial.try_variant(study, TINY, few, many) == pytest.approx(
        7 * (2000 / 10 + 10 * 2.0) + 10 * 3.0 + 10 * 0.5
    )


@pytest.mark.slow
def test_an_estimate_is_of_every_run_and_leaves_the_study_as_it_was(tiny_study):
    study = change_params(
        seeds=[0, 1, 2], models={"gated_attention": {"encoder": "plain", "plain_width": 2}},
        variants=["gated_attention"],
    )  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    found = trial.estimate_study(study)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    assert found.total == pytest.approx(3 * found.seconds["gated_attention"])
    assert found.cases == "prepared"
    assert found.detectable is None  # three seeds only describe
    runs = look(study)
    told = "\n".join(
        describe(study, runs, remaining(runs, dict.fromkeys(study.variants, 1)), found)
    )
    assert "3 runs, about " in told
    assert "3 seeds can only describe" in told


def test_cases_that_are_not_prepared_are_random_ones_of_the_studys_size(tmp_path):
    study = load_study(ROOT)
    if study.prepared_dir.exists():
        pytest.skip("the paper's cases are prepared here")
    study = study.model_copy(update={"train": study.train.model_copy(update={"batch_size": 2})})
    few, numbers = trial.few_cases(study)
    assert numbers == {"training": 2594, "validation": 100, "test": 1000}
    assert few.images.shape[1:] == (256, 256, 3)
    assert set(np.unique(few.masks)) == {0, 1}


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"method": "folds", "k": 5, "seed": 0}, (60, 20, 20)),
        (
            {"method": "random", "seed": 0, "training": 0.5, "validation": 0.2, "test": 0.3},
            (50, 20, 30),
        ),
        ({"method": "official"}, (70, 10, 20)),
    ],
)
def test_before_preparing_cases_are_counted_by_the_params(tiny_study, split, expected):
    study = change_params(
        data={"training": 70, "validation": 10, "test": 20}, prepare={"split": split}
    )
    assert tuple(trial.expected_numbers(study).values()) == expected


def test_listed_cases_are_counted_in_their_lists(tiny_study, tmp_path):
    split = {"method": "lists"}
    for number, name in enumerate(("training", "validation", "test"), start=3):
        Path(f"{name}.txt").write_text("".join(f"case-{id}\n" for id in range(number)))
        split[name] = {"file": f"{name}.txt", "sha256": sha256(Path(f"{name}.txt"))}
    study = change_params(prepare={"split": split})
    assert trial.expected_numbers(study) == {"training": 3, "validation": 4, "test": 5}
    Path("test.txt").unlink()
    with pytest.raises(UserError, match=r"prepare\.split\.test\.file must be an existing file"):
        trial.expected_numbers(study)


def test_a_folder_of_ones_own_must_be_prepared_before(tiny_study):
    data = Directory(source="directory", raw="data/raw", on_problem="stop")
    study = tiny_study.model_copy(update={"data": data})
    with pytest.raises(UserError, match="run the stage preprocess, then estimate"):
        trial.expected_numbers(study)


@pytest.mark.slow
def test_what_seeds_can_show_before_there_are_results_is_what_they_show_with_that_spread():
    means = np.random.default_rng(0).normal(size=(7, 10))
    means -= means.mean(axis=1, keepdims=True)
    means *= EXPECTED_DEVIATION / means.std(axis=1, ddof=1, keepdims=True)
    values = np.repeat(0.85 + means[:, :, None], 2, axis=2)
    power = plan(values, np.zeros((7, 10), dtype=bool), paired=False, gap=None, margin=0.005)
    assert expected_difference(7, 10) == pytest.approx(power.detectable, rel=0.15)
    assert expected_difference(7, 10) == pytest.approx(0.0075, abs=1e-4)
    assert expected_difference(7, 6) is None
    assert expected_difference(1, 10) is None

"""study/inputs.py: what a finished run was made of, against what it would be made of now."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_study import make_study

from pipeline import compare
from pipeline.status.overview import look
from pipeline.study.errors import UserError
from pipeline.study.inputs import Inputs
from pipeline.study.params import Run, Study

RUN = Run("resunet", 1, 0)


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    made = make_study(tmp_path, variants=["gated_attention", "resunet"], seeds=[0, 1, 2])
    monkeypatch.chdir(made.folder)
    return made


def edit(path: Path, **facts: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def partial_runs(study: Study) -> list[tuple[str, int]]:
    compare.main(partial=True)
    found = json.loads((study.partial_dir / "results.json").read_text())
    return [(row["variant"], row["seed"]) for row in found["runs"]]


def test_an_evaluation_of_other_weights_is_none(study):
    """The training began anew after it, or DVC brought back another one's files."""
    assert Inputs(study).is_current(RUN)
    edit(study.run_dir(*RUN) / "run.json", weights_sha256="1" * 64)
    assert Inputs(study).evaluated(RUN) is None
    assert {found.run: found.state for found in look(study)}[RUN] == "trained"
    assert ("resunet", 1) not in partial_runs(study)
    with pytest.raises(UserError, match=r"cases\.csv is not of the weights that the run has now"):
        compare.main()
    record = study.evaluation_dir(*RUN) / "evaluation.json"
    edit(record, weights_sha256="1" * 64)
    assert Inputs(study).is_current(RUN)


@pytest.mark.parametrize(
    ("file", "record", "told"),
    [
        ("run.json", {"params": {"train": {"epochs": 1}}}, "params.yaml: train"),
        ("run.json", {"sources": {"pipeline/train.py": "0" * 64}}, "pipeline/train.py"),
        ("run.json", {"encoder_weights_sha256": "0" * 64}, "none"),
        ("evaluation/evaluation.json", {"params": {"evaluate": {}}}, "params.yaml: evaluate"),
        (
            "evaluation/evaluation.json",
            {"sources": {"pipeline/evaluate.py": "0" * 64}},
            "pipeline/evaluate.py",
        ),
        ("evaluation/evaluation.json", {"data_fingerprint": "0" * 64}, "data/prepared"),
    ],
)
def test_a_run_that_dvc_would_repeat_is_told_and_no_part_of_a_partial_comparison(
    study, file, record, told
):
    edit(study.run_dir(*RUN) / file, **record)
    assert Inputs(study).changed(RUN) == (told,)
    assert not Inputs(study).is_current(RUN)
    assert {found.run: found.changed for found in look(study)}[RUN] == (told,)
    assert partial_runs(study) == [
        ("gated_attention", 0), ("gated_attention", 1), ("gated_attention", 2),
        ("resunet", 0), ("resunet", 2),
    ]  # fmt: skip


def test_a_file_of_weights_is_followed_wherever_it_is(study, tmp_path):
    start = tmp_path / "start.pt"
    start.write_bytes(b"weights")
    network = study.models["resunet"]
    object.__setattr__(network, "weights", str(start))
    edit(
        study.run_dir(*RUN) / "run.json",
        encoder_weights_sha256=hashlib.sha256(b"weights").hexdigest(),
    )
    assert Inputs(study).changed(RUN) == ()
    start.write_bytes(b"others")
    assert Inputs(study).changed(RUN) == (str(start),)


def test_what_is_not_there_is_no_change(study):
    shutil.rmtree(study.run_dir(*RUN))
    assert Inputs(study).changed(RUN) == ()
    assert not Inputs(study).is_current(RUN)

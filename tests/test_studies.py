"""The committed studies of the paper's open questions: each runs, at demo scale, to its results."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from pipeline import compare, download, evaluate, preprocess, train
from pipeline.data.splits import divide
from pipeline.study.errors import UserError
from pipeline.study.reading import load_study

pytestmark = pytest.mark.slow

SPLITS = ("split/official", "split/random", "split/random-divided")
QUESTIONS = (
    "peers",
    "backbones",
    "head",
    "encoder-attention",
    "learning-rate",
    *SPLITS,
)  # of the root's paper
STUDIES = (*QUESTIONS, "sl-hardnet")
FEW = {"training": 4, "validation": 2, "test": 4}
DIVISIBLE = {"training": 12, "validation": 4, "test": 8}  # by the random splits' fractions


def committed(name: str) -> dict[str, Any]:
    """A committed study's params, each with its value, defaults of networks too."""
    return load_study(REPOSITORY / "studies" / name).model_dump(mode="json")


def at_demo_scale(name: str) -> dict[str, Any]:
    """The study's variants and split on drawn cases of 32x32 pixels: one seed, one epoch, random
    weights; the smallest encoders, but for the study that is about encoders."""
    params = committed(name)
    params["code"] = str(REPOSITORY)
    params["data"] = {"source": "synthetic", "raw": "data/raw", "on_problem": "stop", "seed": 2018}
    params["data"] |= {"depth": None, "height": 32, "width": 32}
    params["data"] |= DIVISIBLE if name in SPLITS else FEW
    params["prepare"] |= {"height": 32, "width": 32}
    params["train"] |= {"epochs": 1, "batch_size": 4, "precision": "float32"}
    params["compare"] |= {"draws": 1000}
    params["paper"] = None  # of drawn lesions
    params["tracking"] |= {"live": False}
    # Without moments, which ResNet-101's states would be full of.
    rate = {"learning_rate": 0.01, "encoder_learning_rate": None, "weight_decay": 0.0}
    params["train"]["optimizer"] = rate | {"method": "sgd", "momentum": 0.0, "nesterov": False}
    params["seeds"] = [0]
    for network in params["models"].values():
        network["weights"] = "none"
        if "train" in network:
            own = network["train"]["optimizer"]["learning_rate"]
            network["train"] = {"optimizer": {"learning_rate": own}}
        if network["family"] == "smp":
            network["encoder"] = "resnet18"
        elif name != "backbones":
            network |= {"encoder": "plain", "plain_width": 2}
    return params


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_at_demo_scale_to_its_results(name, tmp_path, monkeypatch):
    params = at_demo_scale(name)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    download.main()
    preprocess.main()
    study = load_study()
    for run in study.runs():
        for stage in (train, evaluate):
            monkeypatch.setattr("sys.argv", [stage.__name__, *map(str, run)])
            stage.main()
        (study.run_dir(*run) / "weights.safetensors").unlink()  # 280 MB for ResNet-101
    compare.main()
    results = json.loads((tmp_path / "reports" / "results.json").read_text())
    assert results["study"]["variants"] == params["variants"]
    dice = {
        each["variant"]: each["mean"] for each in results["estimates"] if each["metric"] == "dice"
    }
    assert list(dice) == params["variants"]
    assert all(0 <= mean <= 1 for mean in dice.values())
    assert results["verdict"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_changes_its_question_and_nothing_else_of_the_papers_protocol(name):
    paper, study = load_study(REPOSITORY).model_dump(mode="json"), committed(name)
    free = {"name", "code", "models", "variants", "paper", "factors", "tuning"}
    if name in SPLITS:
        for params in (paper, study):
            del params["prepare"]["split"], params["prepare"]["near_duplicates"]
    for params in (paper, study):
        del params["data"]["raw"], params["compare"]["baseline"]
        del params["averaging"], params["export"]
    assert {key: value for key, value in study.items() if key not in free} == {
        key: value for key, value in paper.items() if key not in free
    }


@pytest.mark.parametrize("name", [*QUESTIONS, "isic-sample", "small-scale"])
def test_what_a_study_says_of_the_paper_is_what_the_papers_study_says(name):
    paper, found = load_study(REPOSITORY).paper, load_study(REPOSITORY / "studies" / name).paper
    if found is None:
        return  # its networks are not the paper's
    assert (found.title, found.reference, found.runs) == (paper.title, paper.reference, paper.runs)
    assert found.rows.items() <= paper.rows.items()
    assert found.leaves_open.items() <= paper.leaves_open.items()
    claimed = {pair for order in paper.orderings() for pair in itertools.combinations(order, 2)}
    assert {pair for order in found.orderings() for pair in itertools.pairwise(order)} <= claimed


@pytest.mark.parametrize("name", STUDIES)
def test_a_network_named_as_in_the_papers_study_is_that_network(name):
    paper, study = load_study(REPOSITORY).models, load_study(REPOSITORY / "studies" / name).models
    assert {key: study[key] for key in study.keys() & paper} == {
        key: paper[key] for key in study.keys() & paper
    }


def test_the_studies_share_the_paper_studys_raw_cases():
    raw = load_study(REPOSITORY).raw_dir.resolve()
    assert {load_study(REPOSITORY / "studies" / name).raw_dir.resolve() for name in STUDIES} == {
        raw
    }


def test_no_study_has_more_pairs_than_its_seeds_can_tell_apart():
    """The exact paired test's smallest p-value is 2 / 2^S; Holm multiplies it by the pairs."""
    for name in (*STUDIES, "small-scale"):
        study = load_study(REPOSITORY / "studies" / name)
        compared = len(study.settings)
        pairs = compared * (compared - 1) // 2
        assert 2 / 2 ** len(study.seeds) * pairs < 0.05, name


def test_encoder_attention_changes_one_thing_of_model_4_at_a_time():
    study = committed("encoder-attention")
    model_4 = study["models"]["limit_encoder_attention"]
    changes = {
        variant: {key: value for key, value in network.items() if value != model_4[key]}
        for variant, network in study["models"].items()
    }
    assert changes == {
        "gated_attention": {"encoder_attention": []},
        "layer_3": {"encoder_attention": [3]},
        "limit_encoder_attention": {},
        "encoder_and_gated_attention": {"encoder_attention": [1, 2, 3, 4]},
        "scaled": {"attention_scale": "sqrt"},
        "residual": {"attention_residual": True},
        "scaled_residual": {"attention_scale": "sqrt", "attention_residual": True},
    }


def test_the_random_splits_have_the_official_sizes_and_one_may_divide_near_duplicates():
    official, together, divided = (load_study(REPOSITORY / "studies" / name) for name in SPLITS)
    cases = [str(number) for number in range(2594 + 100 + 1000)]
    for study in (together, divided):
        counts = divide([None] * len(cases), cases, study.prepare.split)["split"].value_counts()
        assert dict(counts) == {"training": 2594, "validation": 100, "test": 1000}
    assert official.prepare.near_duplicates == together.prepare.near_duplicates
    assert together.prepare.near_duplicates is not None
    assert divided.prepare.near_duplicates is None
    assert together.prepare.split == divided.prepare.split


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_its_command_its_runs_and_that_its_time_is_an_estimate(name):
    text = (REPOSITORY / "studies" / name / "params.yaml").read_text()
    head = " ".join(line.removeprefix("#") for line in text.partition("\nname:")[0].split("\n"))
    told = " ".join(head.split())
    command = name.replace(name.partition("/")[2], "$split") if name in SPLITS else name
    assert f"dvc --cd studies/{command} repro" in told
    assert f"{len(load_study(REPOSITORY / 'studies' / name).runs())} runs" in told
    assert "estimated from the networks' arithmetic, not measured" in told


@pytest.mark.parametrize("name", ["peers", "split/random"])  # of both depths; seconds each
def test_dvc_resolves_a_study_from_its_folder(name):
    listed = subprocess.run(
        ["dvc", "stage", "list", "--name-only"],
        cwd=REPOSITORY / "studies" / name,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    runs = len(load_study(REPOSITORY / "studies" / name).runs())
    assert sum("train@" in stage for stage in listed) == runs


def test_a_studys_name_must_be_its_folders(tmp_path):
    folder = tmp_path / "studies" / "other"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(Path(REPOSITORY / "studies/head/params.yaml").read_text())
    with pytest.raises(UserError, match="name must be that of its folder, 'other', got 'head'"):
        load_study(folder)

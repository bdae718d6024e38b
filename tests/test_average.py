"""pipeline/average.py: averaged probabilities scored on every test case."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import change_params
from fake_study import make_study
from run_folders import make_run

from models import build_model
from pipeline import average
from pipeline.engine.compute import to_input
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import save_weights
from pipeline.evaluation.metrics import PIXEL_METRICS
from pipeline.study.errors import UserError
from pipeline.study.locks import alone

pytestmark = pytest.mark.slow

SEEDS = [0, 3, 7]
NETWORK = {"encoder": "plain", "plain_width": 2, "decoder_gates": True}
HEADER = ["variant", "averaging", "seed", "fold", "id", *PIXEL_METRICS]
IN_USE = "import sys, runpy; runpy.run_module('pipeline.average', run_name='__main__')"


@pytest.fixture
def averaged(tiny_study):
    """A study of three seeds' untrained networks, and those networks."""
    study = change_params(
        seeds=SEEDS,
        averaging=["flips", "seeds", "seeds_and_flips"],
        models={"tiny": NETWORK},
        variants=["tiny"],
        compare={"baseline": None},
    )
    tiny = study.models["tiny"]
    networks = {
        seed: make_run(study.folder, seed, config=tiny, variant="tiny")[1] for seed in SEEDS
    }
    return study, networks


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["average", *arguments])
    average.main()


def read(study, monkeypatch):
    (variant,) = study.variants
    run(monkeypatch, variant)
    return pd.read_csv(study.averaged_file(variant), dtype={"seed": "Int64"})


def sigmoid(model, images):
    """The network's probabilities of uint8 images (N, H, W, 3), by numpy: (N, H, W) float64."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    with torch.no_grad():
        logits = model(to_input(tensor, torch.device("cpu")))[:, 0].double().numpy()
    return 1 / (1 + np.exp(-logits))


def flipped(model, images):
    """Its mean over the four flips, each turned back."""
    found = [
        sigmoid(model, images[:, ::rows, ::columns])[:, ::rows, ::columns]
        for rows in (1, -1)
        for columns in (1, -1)
    ]
    return np.mean(found, axis=0)


def test_the_scores_are_those_of_the_mean_of_the_networks_sigmoids(averaged, monkeypatch):
    study, networks = averaged
    table = read(study, monkeypatch)
    assert list(table.columns) == HEADER
    cases = PreparedCases.open(study.prepared_dir)
    test = cases.indices("test")
    images, truth = cases.images[test], cases.masks[test] > 0
    expected = {("flips", seed): flipped(networks[seed], images) for seed in SEEDS}
    plain = [sigmoid(networks[seed], images) for seed in SEEDS]
    expected["seeds", None] = np.mean(plain, axis=0)
    expected["seeds_and_flips", None] = np.mean(
        [flipped(networks[seed], images) for seed in SEEDS], axis=0
    )
    rows = table.groupby(["averaging", "seed"], dropna=False, sort=False)
    assert len(table) == len(expected) * len(test)
    for ((averaging, seed), found), (key, p) in zip(rows, expected.items(), strict=True):
        assert (averaging, None if pd.isna(seed) else seed) == key
        assert found["id"].tolist() == cases.table["id"].iloc[test].tolist()
        for row, mask, own in zip(found.itertuples(), truth, p, strict=True):
            both, sizes = (mask & (own > 0.5)).sum(), mask.sum() + (own > 0.5).sum()
            assert row.dice == pytest.approx(2 * both / sizes, abs=1e-9)
            assert row.iou == pytest.approx(both / (sizes - both), abs=1e-9)
            assert row.brier == pytest.approx(((own - mask) ** 2).mean(), rel=1e-4)
            of_truth = np.where(mask, own, 1 - own)
            weight = np.where(mask, 0.25, 0.75)
            focal = (weight * (1 - of_truth) ** 2 * -np.log(of_truth)).mean()
            assert row.focal_loss == pytest.approx(focal, rel=1e-3)
    assert table.groupby("averaging")["iou"].mean().nunique() == 3


def test_every_fold_is_averaged_on_its_own_test_cases(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["unet"], folds=3, averaging=["seeds"])
    monkeypatch.chdir(study.folder)
    for run in study.runs():
        torch.manual_seed(run.fold)
        save_weights(build_model(study.models["unet"]), study.run_dir(*run) / "weights.safetensors")
    table = read(study, monkeypatch)
    for fold, rows in table.groupby("fold"):
        cases = PreparedCases.open(study.prepared_dir, int(fold))
        assert rows["id"].tolist() == cases.table["id"].iloc[cases.indices("test")].tolist()
    assert sorted(table["id"]) == sorted(cases.table["id"])
    assert table["seed"].isna().all()


def test_with_nothing_to_average_it_writes_the_header_without_torch(tiny_study):
    code = f"{IN_USE}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "gated_attention"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is averaged, 0 rows" in done.stdout
    assert tiny_study.averaged_file("gated_attention").read_text() == ",".join(HEADER) + "\n"


def test_a_missing_network_names_the_stage_and_keeps_what_was_there(averaged, monkeypatch):
    study, _ = averaged
    run(monkeypatch, "tiny")
    before = study.averaged_file("tiny").read_bytes()
    (study.run_dir("tiny", 7) / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="run the stage train"):
        run(monkeypatch, "tiny")
    assert study.averaged_file("tiny").read_bytes() == before
    assert [path.name for path in study.averaged_dir.iterdir()] == ["tiny.csv"]


def test_a_variant_that_the_study_does_not_have_is_told(averaged, monkeypatch):
    told = r"^variant must be one of variants in params.yaml \(tiny\), got 'unet'$"
    with pytest.raises(UserError, match=told):
        run(monkeypatch, "unet")


def test_two_variants_may_be_averaged_at_once_and_one_variant_is_by_one_process(averaged):
    study, _ = averaged
    change_params(models={"other": NETWORK}, variants=["tiny", "other"])
    with alone(study.folder / ".resume" / "average.tiny.lock", "the test"):
        process = subprocess.run(
            [sys.executable, "-c", IN_USE, "tiny"], capture_output=True, text=True
        )
        assert process.returncode == 1
        assert "the stage average of tiny is being run by another process" in process.stderr
        for seed in SEEDS:
            make_run(study.folder, seed, config=study.models["tiny"], variant="other")
        subprocess.run([sys.executable, "-c", IN_USE, "other"], check=True)

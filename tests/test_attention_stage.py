"""pipeline/attention.py: the stage, on untrained networks."""

from __future__ import annotations

import shutil

import pytest
import torch
from fake_study import make_study
from PIL import Image

from models import build_model
from pipeline import attention, compare
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import save_weights
from pipeline.report import attention_seeds
from pipeline.statistics.results import load_results, open_results
from pipeline.statistics.scores import disputed_cases, example_cases
from pipeline.study.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Three test cases in reach of two variants, one of them with gates; compared."""
    study = make_study(tmp_path, variants=["gated_attention", "resunet"], test_ids=list("abcdefgh"))
    torch.manual_seed(0)
    for run in study.runs():
        model = build_model(study.models[run.variant])
        save_weights(model, study.run_dir(*run) / "weights.safetensors")
    monkeypatch.chdir(study.folder)
    compare.main()
    return study


def test_variants_with_attention_are_drawn_for_readers_and_for_the_page(study, capsys):
    attention.main()
    folder = study.reports_dir / "attention"
    found = sorted(path.name for path in folder.iterdir())
    assert found == [f"gated_attention.{kind}" for kind in ("png", "svg", "webp")]
    with Image.open(folder / "gated_attention.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50
    assert "maps of 1 variant in" in capsys.readouterr().out


def test_the_cases_are_best_median_worst_and_disputed_ones(study):
    results = load_results(study.results_file)
    ids = attention.chosen_cases(study, PreparedCases.open(study.prepared_dir), results)
    chosen = [*example_cases(results.scores(), 1), *disputed_cases(results.scores(), 2)]
    assert set(ids) == {case.id for case in chosen}
    assert len(ids) == len(set(ids))


def test_of_the_runs_so_far_each_variants_first_network_is_drawn(study):
    shutil.rmtree(study.run_dir("gated_attention", 0))
    compare.main(partial=True)
    attention.main(partial=True)
    found = {path.name for path in (study.partial_dir / "attention").iterdir()}
    assert found == {f"gated_attention.{kind}" for kind in ("png", "svg", "webp")}
    part, results = open_results(study, partial=True)
    told = "Networks of each variant's first seed: gated_attention 1, resunet 0."
    assert attention_seeds(part, results) == told
    rates = [
        rate.model_copy(update={"failed": [0] if rate.variant == "resunet" else [0, 2]})
        for rate in results.failures
    ]
    failed = results.model_copy(update={"failures": rates})
    assert attention_seeds(part, failed) == f"{told} Of a run that failed: resunet."


def test_missing_weights_are_named_and_earlier_figures_stay(study):
    attention.main()
    (study.run_dir("gated_attention", 0) / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"gated_attention/0/0/weights\.safetensors"):
        attention.main()
    assert (study.reports_dir / "attention" / "gated_attention.png").is_file()

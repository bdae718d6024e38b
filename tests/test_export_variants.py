"""pipeline/export_variants.py: the stage's exports, and their figures in results and report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import change_params
from fake_study import make_study
from run_folders import make_run

from pipeline import compare, export_variants
from pipeline.deployment.measurements import load_exported
from pipeline.engine.compute import processor, to_input
from pipeline.report import model_cards
from pipeline.reporting.tables import all_tables, cost_table
from pipeline.statistics.results import load_results
from pipeline.study.errors import UserError
from pipeline.study.files import sha256
from pipeline.study.reading import load_study

FILES = ["export.json", "model.onnx", "model.pt2"]


def export(monkeypatch, *run):
    monkeypatch.setattr(sys, "argv", ["export_variants", *run])
    export_variants.main()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A fake study in which a small network of the first seed was exported, and that network."""
    root = tmp_path_factory.mktemp("exported")
    study = make_study(root, variants=["own-variant", "resunet"], seeds=[3, 1, *range(4, 9)])
    run_dir, network = make_run(study.folder, 3, variant="own-variant", size=(32, 32))
    evaluation = study.evaluation_dir("own-variant", 3) / "evaluation.json"
    evaluation.write_text(json.dumps({"weights_sha256": sha256(run_dir / "weights.safetensors")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study.folder)
        network_of = json.loads((run_dir / "run.json").read_text())["params"]["model"]
        study = change_params(export=["own-variant"], models={"own-variant": network_of})
        export(patch, "own-variant", "3")
        compare.main()
        # As it was loaded the study is relative to its folder.
        results = load_results(study.results_file, study.model_dump(mode="json"))
    return root / "studies" / "fake" / "reports" / "exported", network, results


@pytest.mark.slow
def test_the_network_of_the_run_is_exported_and_no_card_is_written(exported):
    folder, network, _ = exported
    assert sorted(path.name for path in folder.iterdir()) == ["own-variant"]
    assert sorted(path.name for path in (folder / "own-variant").iterdir()) == FILES
    assert load_exported(folder / "own-variant" / "export.json").seed == 3
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    session = onnxruntime.InferenceSession(folder / "own-variant" / "model.onnx")
    found = session.run(["probabilities"], {"images": images})[0]
    with torch.no_grad():
        logits = network(to_input(torch.from_numpy(images), torch.device("cpu")))
    np.testing.assert_allclose(found, logits[:, 0].sigmoid().numpy(), atol=1e-4)


def test_its_size_and_latency_are_costs_of_the_variant_and_of_no_run(exported):
    folder, _, results = exported
    own, other = results.costs
    file = folder / "own-variant" / "model.onnx"
    latency = load_exported(folder / "own-variant" / "export.json").latency_milliseconds
    assert own.exported_bytes == file.stat().st_size
    assert own.cpu_milliseconds == latency.onnxruntime
    assert (other.exported_bytes, other.cpu_milliseconds, other.cpu) == (None, None, None)
    assert own.cpu == processor()
    assert other.parameters == 29_163_457
    assert all("exported_bytes" not in run.cost for run in results.runs)


@pytest.mark.slow
def test_the_efficiency_table_shows_both_where_a_variant_has_them(exported):
    _, _, results = exported
    (table,) = (table for table in all_tables(results) if table.key == "cost")
    own, other = table.rows
    size = f"{results.costs[0].exported_bytes / 1e6:.1f} MB"
    milliseconds = f"{results.costs[0].cpu_milliseconds:.1f}"
    assert table.header[-2:] == ["ONNX file", "CPU, ms/image"]
    assert [cell.text for cell in own.cells[-2:]] == [size, milliseconds]
    assert [cell.text for cell in other.cells[-2:]] == ["–", "–"]  # noqa: RUF001
    assert "one thread" in dict(table.notes)["CPU, ms/image"]
    without = cost_table(results.costs[1:])
    assert without.header == table.header[:-2]
    assert not any("ONNX" in note for _, note in without.notes)


def test_the_report_has_its_model_card_with_intervals_over_seeds(exported, monkeypatch):
    folder, _, results = exported
    monkeypatch.chdir(folder.parents[1])
    card = model_cards(load_study(), results)
    assert card.startswith("# own-variant, seed 3, fold 0\n")
    found = results.estimate("own-variant", "dice")
    assert f"{found.interval.low:.2f} to {found.interval.high:.2f}" in card  # of two seeds: wide
    assert f"above {results.params['evaluate']['threshold']:g} its study calls it lesion" in card
    assert "Not a medical device" in card


@pytest.mark.slow
def test_what_cannot_be_exported_is_told_and_what_was_there_is_kept(tiny_study, monkeypatch):
    study = change_params(export=["gated_attention"])
    folder = study.exported_dir / "gated_attention"
    (folder / "before").mkdir(parents=True)
    with pytest.raises(UserError, match=r"gated_attention/0/0 has no run.json"):
        export(monkeypatch, "gated_attention", "0")
    make_run(study.folder, 0, variant="gated_attention", size=(32, 32))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install lesion-ablation\[export\]"):
        export(monkeypatch, "gated_attention", "0")
    assert [path.name for path in folder.iterdir()] == ["before"]
    assert list(study.exported_dir.iterdir()) == [folder]


@pytest.mark.slow
def test_comparing_without_an_export_that_is_asked_for_names_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(make_study(tmp_path).folder)
    change_params(export=["resunet"])
    with pytest.raises(UserError, match=r"exported/resunet/export.json cannot be read"):
        compare.main()


def test_an_export_of_other_weights_is_told(exported, monkeypatch):
    folder, _, _ = exported
    monkeypatch.chdir(folder.parents[1])
    folder = Path("runs/own-variant/3/0")
    records = {file: file.read_text() for file in (folder / "run.json", *folder.glob("*/*.json"))}
    try:
        for file, text in records.items():  # trained and evaluated anew
            now = json.loads(text)
            file.write_text(json.dumps(now | {"weights_sha256": "0" * 64}))
        with pytest.raises(UserError, match=r"export.json is of other weights; run the stage exp"):
            compare.main()
    finally:
        for file, text in records.items():
            file.write_text(text)

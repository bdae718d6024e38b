"""--partial: a comparison of the runs so far, which nothing takes for the study's."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from fake_study import make_study

from pipeline import compare, plot, report
from pipeline.gate.baseline import load_figures
from pipeline.statistics.results import Partial, load_results
from pipeline.study.errors import UserError
from pipeline.study.params import Run

pytestmark = pytest.mark.slow

VARIANTS = ["gated_attention", "resunet", "unet"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=VARIANTS, seeds=[0, 1, 2], averaging=["flips"])
    monkeypatch.chdir(study.folder)
    return study


@pytest.fixture
def part(study):
    """Two variants, of the second one seed less; of unet nothing."""
    shutil.rmtree(study.run_dir("resunet", 1))
    shutil.rmtree(study.folder / "runs" / "unet")
    return study


def partial_results(study):
    compare.main(partial=True)
    return load_results(study.partial_dir / "results.json", partial=True)


def test_where_nothing_is_missing_it_is_the_whole_result_but_for_the_mark(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=VARIANTS, seeds=[0, 1, 2])
    monkeypatch.chdir(study.folder)
    compare.main()
    whole = json.loads(study.results_file.read_text())
    compare.main(partial=True)
    found = json.loads((study.partial_dir / "results.json").read_text())
    assert found.pop("partial") == {"runs": 9, "of": 9, "folds": 1, "waiting": 0, "missing": []}
    mark = found["verdict"][:2]
    assert mark[0] == "Partial: 9 of 9 runs."
    found["verdict"] = found["verdict"][2:]
    assert found == whole
    assert "partial" not in whole


def test_it_is_of_the_evaluated_runs_and_says_which_are_missing(part):
    found = partial_results(part)
    assert (found.partial.runs, found.partial.of) == (5, 9)
    assert [tuple(run.model_dump().values()) for run in found.partial.missing] == [
        ("resunet", 1, 0), ("unet", 0, 0), ("unet", 1, 0), ("unet", 2, 0),
    ]  # fmt: skip
    assert found.verdict[:2] == [
        "Partial: 5 of 9 runs.",
        "Missing: resunet seed 1; unet seeds 0 to 2.",
    ]
    assert found.study.variants == ["gated_attention", "resunet"]
    assert [(row.variant, row.seed) for row in found.runs] == [
        ("gated_attention", 0), ("gated_attention", 1), ("gated_attention", 2),
        ("resunet", 0), ("resunet", 2),
    ]  # fmt: skip
    assert found.averaged == []
    (pair,) = found.comparison.pairs
    means = {(row.variant, row.seed): row.metrics["dice"] for row in found.runs}
    differences = [means["gated_attention", s] - means["resunet", s] for s in (0, 2)]
    assert pair.difference == pytest.approx(sum(differences) / 2)


def test_a_run_that_is_trained_and_not_evaluated_does_not_count(study):
    (study.evaluation_dir("unet", 2) / "metrics.json").unlink()
    found = partial_results(study)
    assert [tuple(run.model_dump().values()) for run in found.partial.missing] == [("unet", 2, 0)]


def test_a_seed_that_lacks_a_fold_waits_for_it(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=VARIANTS[:2], seeds=[0, 1], folds=3)
    monkeypatch.chdir(study.folder)
    shutil.rmtree(study.run_dir("resunet", 1, 2))
    found = partial_results(study)
    assert (found.partial.runs, found.partial.waiting) == (9, 2)
    assert (
        found.verdict[0]
        == "Partial: 9 of 12 runs. Waiting for the other folds of their seed: 2 more."
    )
    assert found.verdict[1] == "Missing: resunet seed 1 (fold 2)."
    assert found.comparison.cases == 8
    assert [(row.variant, row.seed) for row in found.runs][-1] == ("resunet", 0)


def test_missing_runs_are_told_in_ranges():
    missing = [Run("a", seed, 0)._asdict() for seed in (0, 1, 4, 5, 6)]
    missing += [Run("b", 1, fold)._asdict() for fold in (0, 1, 2)] + [Run("b", 2, 1)._asdict()]
    told = Partial(runs=1, of=9, folds=1, waiting=0, missing=missing[:5]).sentences()[1]
    assert told == "Missing: a seeds 0, 1, 4 to 6."
    told = Partial(runs=1, of=9, folds=3, waiting=0, missing=missing[5:]).sentences()[1]
    assert told == "Missing: b seed 1, seed 2 (fold 1)."


def test_the_stages_outputs_are_not_touched(study, part):
    study.reports_dir.joinpath("results.json").write_text("the stage's")
    before = {path: path.read_bytes() for path in study.reports_dir.iterdir() if path.is_file()}
    for stage in (compare, plot, report):
        stage.main(partial=True)
    after = {path: path.read_bytes() for path in study.reports_dir.iterdir() if path.is_file()}
    assert after == before
    ignored = subprocess.run(
        ["git", "check-ignore", "studies/demo/reports/partial/results.json", "reports/partial/x"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert len(ignored.stdout.splitlines()) == 2


def test_page_and_tables_say_first_that_they_are_partial(part):
    for stage in (compare, plot, report):
        stage.main(partial=True)
    folder = part.partial_dir
    page = (folder / "index.html").read_text()
    body = page[page.index("<body>") :]
    assert re.match(
        r'<body>\s*<div class="banner partial" role="alert"><strong>Partial: 5 of 9 runs\.', body
    )
    assert "Missing: resunet seed 1; unet seeds 0 to 2." in body
    assert page.index("<title>Partial: study") < page.index("<body>")
    markdown = (folder / "table.md").read_text()
    assert markdown.splitlines()[2].startswith("> **Partial: 5 of 9 runs. Missing: ")
    assert "| gated_attention | U-Net + ResNet + GatedAttention (Model 1) | 3 | 0." in markdown
    assert "**0." not in markdown  # no mean is called the best of unequal numbers of seeds
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert {row["partial"] for row in rows} == {"5 of 9 runs"}
    latex = (folder / "table.tex").read_text()
    assert latex.count(r"\caption{Partial: 5 of 9 runs.") == latex.count(r"\caption{")
    assert "% Missing: resunet seed 1" in latex
    assert not (folder / "model-cards.md").exists()


def test_a_whole_studys_page_and_tables_bear_no_mark(study):
    compare.main()
    plot.main()
    report.main()
    for name in ("index.html", "table.md", "table.csv", "table.tex"):
        text = (study.reports_dir / name).read_text()
        assert "Partial" not in text
        assert 'class="banner partial"' not in text
    assert not (study.reports_dir / "table.csv").read_text().startswith("variant,partial")


def test_the_gate_and_the_stages_refuse_a_partial_result(part, study):
    compare.main(partial=True)
    file = study.partial_dir / "results.json"
    told = subprocess.run(
        [sys.executable, "-m", "pipeline.gate", "--candidate", file, "--baseline", file],
        cwd=study.folder,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 2
    assert "is of a part of a study, 5 of 9 runs: finish the study" in told.stdout
    with pytest.raises(UserError, match="part of a study"):
        load_figures(file)
    shutil.copy(file, study.results_file)
    with pytest.raises(UserError, match="is of a part of the study; run the stage compare"):
        plot.main()


def test_without_any_run_there_is_one_sentence_and_nothing_is_written(study):
    shutil.rmtree(study.folder / "runs")
    with pytest.raises(UserError, match="no run is trained and evaluated as it would be now"):
        compare.main(partial=True)
    assert not study.partial_dir.exists()
    with pytest.raises(UserError, match=r"run the command python -m pipeline.compare --partial"):
        report.main(partial=True)


def test_a_run_that_ends_between_two_commands_waits_for_the_next_comparison(part, study):
    compare.main(partial=True)
    run = study.run_dir("unet", 0)
    shutil.copytree(study.run_dir("gated_attention", 0), run)
    plot.main(partial=True)
    report.main(partial=True)
    page = (study.partial_dir / "index.html").read_text()
    assert "Partial: 5 of 9 runs." in page

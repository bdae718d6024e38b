"""tracking/outcomes.py: what results say of the runs and the study, in a real store."""

from __future__ import annotations

import json
from collections import Counter

import mlflow
import pandas as pd
import pytest
from conftest import change_params
from fake_study import make_study
from made_results import make_results
from recorded_runs import VARIANT, make_recorded

from pipeline import compare
from pipeline.statistics.results import load_results, save_results
from pipeline.study.params import Study
from pipeline.tracking.outcomes import LONGEST, outcomes, summary
from pipeline.tracking.store import StudyRecord
from pipeline.tracking.sync import sync

QUARTILE = 0.5501


def write_results(study: Study, **changes: object) -> None:
    """results.json of `make_recorded`'s two runs, of which seed 0 with its Dice of 0.5 failed."""
    made = make_results([VARIANT], seeds=2)
    runs = [run.model_copy(update={"metrics": {"dice": 0.5 + run.seed / 10}}) for run in made.runs]
    rate = made.failures[0].model_copy(
        update={"failed": [0], "rate": 0.5, "upper_quartile": QUARTILE}
    )
    params = study.model_dump(mode="json")
    parts = {"params": params, "runs": runs, "failures": [rate]}
    save_results(study.results_file, made.model_copy(update=parts | changes))


def tags(study: Study) -> dict[str, tuple[str | None, str | None]]:
    """seed -> failed, below_quartile of its one record."""
    found = StudyRecord.open(study).search("run")
    assert len(found) == len(study.seeds)
    return {
        run.data.tags["seed"]: (run.data.tags.get("failed"), run.data.tags.get("below_quartile"))
        for run in found
    }


NONE = {"0": (None, None), "1": (None, None)}
TOLD = {"0": ("true", "0.0501"), "1": ("false", "-0.0499")}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """(set or delete, tag) -> how often the store was asked to."""
    counted: Counter[tuple[str, str]] = Counter()
    for name in ("set_tag", "delete_tag"):
        real = getattr(mlflow.MlflowClient, name)

        def write(client, run_id, key, *value, real=real, name=name):
            counted[name.partition("_")[0], key] += 1
            return real(client, run_id, key, *value)

        monkeypatch.setattr(mlflow.MlflowClient, name, write)
    return counted


@pytest.mark.slow
def test_runs_recorded_before_get_their_tags_when_results_are_there(tiny_study, written):
    study = make_recorded()
    assert tags(study) == NONE
    write_results(study)
    written.clear()
    assert sync(study) == (0, 2)
    assert tags(study) == TOLD
    assert written == {("set", "failed"): 2, ("set", "below_quartile"): 2}
    written.clear()
    assert sync(study) == (0, 2)
    assert written == {}  # nothing differs

    rate = load_results(study.results_file).failures[0]
    write_results(study, failures=[rate.model_copy(update={"failed": []})])
    assert sync(study) == (0, 2)
    assert tags(study) == TOLD | {"0": ("false", "0.0501")}
    assert written == {("set", "failed"): 1}


@pytest.mark.slow
def test_a_new_record_gets_its_tags_at_once(tiny_study, tmp_path, monkeypatch):
    study = make_recorded()
    write_results(study)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert sync(study) == (2, 0)
    assert tags(study) == TOLD


@pytest.mark.slow
def test_tags_that_nothing_speaks_for_any_more_are_removed(tiny_study, written):
    study = make_recorded()
    write_results(study)
    sync(study)
    # Evaluated anew since, with another Dice: the results know nothing of this run.
    metrics = study.evaluation_dir(VARIANT, 1) / "metrics.json"
    metrics.write_text(json.dumps({"dice": 0.61}))
    assert sync(study) == (1, 1)
    assert tags(study) == TOLD | {"1": (None, None)}
    metrics.write_text(json.dumps({"dice": 0.6}))
    sync(study)
    assert tags(study) == TOLD

    study = change_params(compare={"failure_drop": 0.2})
    written.clear()
    assert sync(study) == (0, 2)
    assert tags(study) == NONE
    # The study's own run, whose figures are gone, is a new one.
    assert written == {
        ("delete", "failed"): 2, ("delete", "below_quartile"): 2, ("set", "mlflow.parentRunId"): 2,
    }  # fmt: skip


@pytest.mark.slow
def test_a_record_that_is_not_complete_has_no_tags(tiny_study):
    study = make_recorded()
    write_results(study)
    sync(study)
    store = StudyRecord.open(study)
    (record,) = (run for run in store.search("run") if run.data.tags["seed"] == "0")
    store.client.delete_tag(record.info.run_id, "content")
    (study.run_dir(VARIANT, 0) / "run.json").unlink()  # it is trained again
    assert sync(study) == (0, 1)
    assert tags(study) == TOLD | {"0": (None, None)}


VERDICT = ["*All* of <b>unet</b> | one `x`.", "gated_attention was best."]
DESCRIPTION = """**Nobody knows.**

- \\*All\\* of \\<b>unet\\</b> \\| one \\`x\\`.
- gated_attention was best.

The page with all figures is `reports/index.html`, under *Artifacts*."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "server"])
def test_the_studys_run_has_the_figures_and_the_verdict(tiny_study, server, monkeypatch, kind):
    if kind == "server":
        server.start()
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tiny_study.folder.parent}/mlflow.db")
    study = make_recorded()
    (study.reports_dir / "figures").mkdir(parents=True)
    for name in ("index.html", "table.md", "figures/runs.png"):
        (study.reports_dir / name).write_text("made")
    made = make_results([VARIANT], seeds=2).estimates[0]
    dice, iou, other = (
        made.model_copy(update={"metric": metric}) for metric in ("dice", "iou", "brier")
    )
    write_results(study, verdict=VERDICT, estimates=[dice, iou, other])
    sync(study)
    first = study_run(study)
    shown = first.data.metrics
    assert shown[f"dice/mean/{VARIANT}"] == dice.mean
    assert shown[f"dice/typical/{VARIANT}"] == dice.typical
    assert shown[f"dice/standard_deviation/{VARIANT}"] == dice.standard_deviation
    assert shown[f"failed_runs/{VARIANT}"] == 1
    assert {name.split("/")[0] for name in shown} == {"dice", "iou", "failed_runs"}
    assert first.data.tags["mlflow.note.content"] == DESCRIPTION
    reports = ("index.html", "table.md", "figures/runs.png", "results.json")
    files = StudyRecord.open(study).files(first.info.run_id)
    assert files == {"params.yaml", *(f"reports/{name}" for name in reports)}

    # A figure that changed is replaced; a file or a figure that is gone leaves with its run.
    lower = dice.model_copy(update={"mean": 0.25})
    write_results(study, estimates=[lower, iou], verdict=VERDICT[1:])
    sync(study)
    second = study_run(study)
    assert second.info.run_id == first.info.run_id
    assert second.data.metrics == shown | {f"dice/mean/{VARIANT}": 0.25}
    assert "All" not in second.data.tags["mlflow.note.content"]
    write_results(study, estimates=[lower], verdict=VERDICT)
    sync(study)
    third = study_run(study)
    assert third.info.run_id != first.info.run_id
    assert not any(name.startswith("iou") for name in third.data.metrics)
    assert third.data.tags["mlflow.note.content"] == DESCRIPTION


def study_run(study: Study) -> mlflow.entities.Run:
    (found,) = StudyRecord.open(study).search("study")
    return found


@pytest.mark.slow
def test_nothing_is_written_to_the_studys_run_when_nothing_changed(tiny_study, monkeypatch):
    study = make_recorded()
    write_results(study)
    sync(study)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the store is written to")

    for name in ("log_artifact", "log_artifacts", "log_batch", "set_tag", "set_experiment_tag"):
        monkeypatch.setattr(mlflow.MlflowClient, name, refuse)
    assert sync(study) == (0, 2)


def test_the_summary_begins_with_the_answer_and_fits_a_tag(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["unet"], seeds=list(range(5)))
    monkeypatch.chdir(study.folder)
    assert summary(study) == ({}, "")
    compare.main()
    content = json.loads(study.results_file.read_text())
    sentences = [f"Sentence {number} is long enough." for number in range(500)]
    content |= {"answer": "It is *so*.", "verdict": sentences}
    study.results_file.write_text(json.dumps(content))
    told = summary(study).description
    assert told.startswith("**It is \\*so\\*.**\n\n- Sentence 0 is long enough.\n- Sentence 1 ")
    assert LONGEST - 40 < len(told) <= LONGEST
    assert told.endswith("enough.\n\nThe page with all figures is `reports/index.html`, under "
                         "*Artifacts*.")  # fmt: skip
    study.results_file.write_text(json.dumps(content | {"params": {}}))  # of other params
    assert summary(study) == ({}, "")


def test_outcomes_are_those_of_the_results_that_compare_writes(tmp_path, monkeypatch):
    """Also of folds with other numbers of cases, whose mean is not the mean of their means."""
    study = make_study(tmp_path, seeds=list(range(5)), folds=3, test_ids=list("abcde"))
    monkeypatch.chdir(study.folder)
    sizes = set()
    for run in study.runs():
        folder = study.evaluation_dir(*run)
        dice = pd.read_csv(folder / "cases.csv")["dice"]
        sizes.add(len(dice))
        (folder / "metrics.json").write_text(json.dumps({"dice": dice.mean(), "cases": len(dice)}))
    assert len(sizes) > 1
    assert outcomes(study) == {}  # no results yet
    compare.main()
    results = load_results(study.results_file)
    quartiles = {rate.variant: rate.upper_quartile for rate in results.failures}
    assert outcomes(study) == {
        (run.variant, run.seed): {
            "failed": "false",
            "below_quartile": f"{quartiles[run.variant] - run.metrics['dice']:.4f}",
        }
        for run in results.runs
    }
    (study.evaluation_dir("resunet", 1, 2) / "metrics.json").unlink()
    every = {(variant, seed) for variant in study.variants for seed in study.seeds}
    assert set(outcomes(study)) == every - {("resunet", 1)}


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 1, "failures": None},
        {"partial": {"runs": 1, "of": 2, "folds": 1, "waiting": 0, "missing": []}},
        {"params": {}},
        {"failures": []},
        {"failures": [{"variant": "unet", "failed": [0], "rate": 0.2, "upper_quartile": None}]},
        {"failures": [{"variant": "unet", "failed": [], "rate": None, "upper_quartile": 0.8}]},
        {"runs": [{"variant": "unet", "seed": 0, "metrics": {"dice": None}}]},
        {"runs": "none"},
        None,
    ],
)
def test_results_that_cannot_be_used_tell_of_no_run(tmp_path, monkeypatch, change):
    study = make_study(tmp_path, variants=["unet"], seeds=list(range(5)))
    monkeypatch.chdir(study.folder)
    compare.main()
    assert set(outcomes(study)) == {("unet", seed) for seed in range(5)}
    path = study.results_file
    text = path.read_text()
    path.write_text(text[:-20] if change is None else json.dumps(json.loads(text) | change))
    assert outcomes(study) == {}


def test_a_run_at_the_quartile_is_not_said_to_be_above_it(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["unet"], seeds=list(range(5)))
    monkeypatch.chdir(study.folder)
    compare.main()
    content = json.loads(study.results_file.read_text())
    content["failures"][0]["upper_quartile"] -= 1e-6
    study.results_file.write_text(json.dumps(content))
    told = [tags["below_quartile"] for tags in outcomes(study).values()]
    assert "0.0000" in told
    assert "-0.0000" not in told


def test_of_fewer_than_five_runs_none_is_said_to_be_well(tmp_path, monkeypatch):
    study = make_study(tmp_path, variants=["unet"], seeds=[0, 1, 2, 3])
    monkeypatch.chdir(study.folder)
    compare.main()
    assert outcomes(study) == {}

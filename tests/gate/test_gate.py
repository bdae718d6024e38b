"""gate/command.py: exit statuses, refusals, what a pull request's comment shows."""

from __future__ import annotations

import gc
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from results_by_hand import figures, results, study

from pipeline.gate import command as gate
from pipeline.gate.baseline import load_figures, save_baseline
from pipeline.reporting.tables import DASH
from pipeline.statistics.results import Results, save_results
from pipeline.study.errors import UserError

STEADY = {"unet": [0.80, 0.81, 0.79], "resunet": [0.82, 0.83, 0.81]}
HOSTILE = "evil | <b>x</b>\n[y](z) `q` $a$"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the baseline of STEADY as baseline.json."""
    monkeypatch.chdir(tmp_path)
    save_baseline(Path("baseline.json"), figures(STEADY))
    return tmp_path


def run_gate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of `python -m pipeline.gate` with those arguments."""
    monkeypatch.setattr("sys.argv", ["gate", *arguments])
    with pytest.raises(SystemExit) as ended:
        gate.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def gate_on(monkeypatch: pytest.MonkeyPatch, candidate: Results) -> int:
    save_results(Path("reports/results.json"), candidate)
    return run_gate(monkeypatch, "--baseline", "baseline.json")


def test_equal_figures_pass_with_status_0(folder, monkeypatch, capsys):
    assert gate_on(monkeypatch, results(STEADY)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "**Gate: all 12 pass** (tier c, study demo): a fall of 0.061 in Dice would be seen"
    )
    assert told[2].startswith("| Compared | Metric | Baseline |")
    assert len(told) == 2 + 2 + 12
    # s = 0.01 in each of 2 x 2 degrees of freedom; t(1 - 0.01 / 12, 4) = 7.53
    assert told[4] == "| unet | Dice | 0.8 | 0.8 | 0 | 0.06147 | pass | 3 against 3 runs, pooled |"
    assert told[7] == (
        "| unet | failed runs | 0 | 0 | 0 | 1 | pass | 0 of 3 runs failed, 0 of 3 before; blind: "
        "too few runs to show more |"
    )


def test_it_says_whether_a_typical_run_is_worse_or_more_runs_fail(folder, monkeypatch, capsys):
    before = {name: [0.800, 0.802, 0.798, 0.801, 0.799] * 2 for name in ("unet", "resunet")}
    lower = [value - 0.05 for value in before["unet"]]
    failing = [value - 0.2 * (place < 9) for place, value in enumerate(before["unet"])]
    save_baseline(Path("baseline.json"), figures(before))
    assert gate_on(monkeypatch, results(before | {"unet": lower})) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "**Gate: 6 of 12 regressed** (tier c, study demo): a typical run is worse: unet, all "
        "variants; a fall of 0.0029 in Dice would be seen"
    )
    assert "| unet | failed runs | 0 | 0 | 0 | 0.5 | pass |" in told[7]
    assert gate_on(monkeypatch, results(before | {"unet": failing})) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "**Gate: 2 of 12 regressed** (tier c, study demo): more runs fail: unet, all variants; "
        "a fall of 0.0029 (resunet) to 0.0069 (unet) in Dice would be seen"
    )
    assert told[7] == (
        "| unet | failed runs | 0 | 0.9 | 0.9 | 0.5 | **FAIL** | 9 of 10 runs failed, 0 of 10 "
        "before; p = 2e-05, regressed if below 0.0025 |"
    )
    missing = before | {"unet": [*lower[:9], None]}
    assert gate_on(monkeypatch, results(missing)) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith(
        "study demo): missing or not finite: unet, all variants; a fall of 0.0029 in Dice would "
        "be seen"
    )


def test_a_worse_mean_fails_with_status_1(folder, monkeypatch, capsys):
    assert gate_on(monkeypatch, results(STEADY | {"unet": [0.5, 0.5, 0.5]})) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("**Gate: 6 of 12 regressed** (tier c, study demo): a typical run")
    assert sum(" | **FAIL** | " in line for line in told) == 6
    assert told[4].startswith("| unet | Dice | 0.8 | 0.5 | 0.3 | 0.06147 | **FAIL** |")


def test_a_larger_alpha_allows_less(folder, monkeypatch):
    save_results(Path("reports/results.json"), results(STEADY | {"unet": [0.76, 0.77, 0.75]}))
    assert run_gate(monkeypatch, "--baseline", "baseline.json") == 0
    assert run_gate(monkeypatch, "--baseline", "baseline.json", "--alpha", "0.2") == 1


def test_a_better_mean_passes(folder, monkeypatch):
    assert gate_on(monkeypatch, results(STEADY | {"unet": [0.95, 0.95, 0.95]})) == 0


def test_other_seeds_and_more_variants_compare(folder, monkeypatch):
    more = STEADY | {"attention_unet": [0.1, 0.1, 0.1]}
    record = study(variants=list(more), seeds=[7, 8, 9])
    assert gate_on(monkeypatch, results(more, record=record)) == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "other"}, "of the study 'demo', the candidate of 'other'"),
        ({"cases_sha256": "d" * 64}, "the test cases differ"),
        ({"definitions": {"Dice": "another"}}, "definitions differ: 'Dice'"),
        ({"definitions": {"Dice": "2 TP / (2 TP + FP + FN)", "IoU": ""}}, "differ: 'IoU'"),
        ({"folds": [0, 1]}, "the candidate"),
    ],
)
def test_what_does_not_compare_is_refused_with_status_2(folder, monkeypatch, capsys, changes, told):
    assert gate_on(monkeypatch, results(STEADY, record=study(**changes))) == 2
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("**Gate: cannot compare.**")
    assert told in first


def test_a_candidate_without_a_variant_is_refused_with_status_2(folder, monkeypatch, capsys):
    assert gate_on(monkeypatch, results({"unet": STEADY["unet"]})) == 2
    assert "no runs of 'resunet'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not JSON"),
        ("[1]", "must hold a JSON object, got list"),
        ("[" * 100_000, "is not JSON: recursion limit exceeded"),
        ('{"study": {"name": "\\ud800"}}', "is not JSON"),
        (
            '{"comparison": {}, "schema_version": 1}',
            "must be 4, got 1; run the stage compare again",
        ),
        ('{"comparison": {}, "schema_version": true}', "schema_version must be 4, got True"),
        ('{"comparison": {}, "schema_version": 4}', "not of the schema"),
        ('{"schema_version": true}', "schema_version: value error, input should be a whole number"),
        ('{"schema_version": 1.0}', "schema_version: value error, input should be a whole number"),
        (
            '{"schema_version": 2}',
            "schema_version: input should be 1, got '2'; it must be results.json, or a file that "
            "--update-baseline wrote",
        ),
    ],
)
@pytest.mark.parametrize("which", ["baseline", "candidate"])
def test_an_unusable_file_is_refused_with_status_2(
    folder, monkeypatch, capsys, content, told, which
):
    save_results(Path("good.json"), results(STEADY))
    if content is not None:
        Path("bad.json").write_text(content)
    files = {"baseline": "good.json", "candidate": "good.json"} | {which: "bad.json"}
    arguments = (f"--{name}={file}" for name, file in files.items())
    assert run_gate(monkeypatch, *arguments) == 2
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity", "-Infinity", "1e999"])
def test_a_metric_that_is_not_finite_fails_with_status_1(folder, monkeypatch, capsys, value):
    save_results(Path("reports/results.json"), results(STEADY))
    text = Path("reports/results.json").read_text()
    Path("reports/results.json").write_text(text.replace('"dice": 0.79', f'"dice": {value}', 1))
    assert run_gate(monkeypatch, "--baseline", "baseline.json") == 1
    failed, _of_the_mean = (line for line in capsys.readouterr().out.splitlines() if "FAIL" in line)
    assert re.match(rf"\| unet \| Dice \| 0.8 \| {DASH} \| {DASH} \| .* not finite \|", failed)


def test_a_metric_that_a_run_lacks_fails_with_status_1(folder, monkeypatch):
    candidate = results(STEADY).model_dump(mode="json")
    del candidate["runs"][0]["metrics"]["iou"]
    Path("reports").mkdir()
    Path("reports/results.json").write_text(json.dumps(candidate))
    assert run_gate(monkeypatch, "--baseline", "baseline.json") == 1


@pytest.mark.parametrize("which", ["baseline", "candidate"])
def test_the_results_of_a_part_of_a_study_do_not_compare(folder, monkeypatch, capsys, which):
    save_results(Path("whole.json"), results(STEADY))
    content = json.loads(Path("whole.json").read_text())
    Path("part.json").write_text(json.dumps(content | {"partial": {"runs": 3, "of": 6}}))
    files = {"baseline": "whole.json", "candidate": "whole.json"} | {which: "part.json"}
    assert run_gate(monkeypatch, *(f"--{name}={file}" for name, file in files.items())) == 2
    assert (
        "part.json is of a part of a study, 3 of 6 runs: finish the study, then compare its "
        "reports/results.json"
    ) in capsys.readouterr().out


def test_the_baseline_may_be_a_whole_results_json(folder, monkeypatch):
    save_results(Path("before.json"), results(STEADY))
    save_results(Path("reports/results.json"), results(STEADY))
    assert run_gate(monkeypatch, "--baseline", "before.json") == 0


def test_update_writes_a_baseline_with_deviations_that_its_candidate_passes(
    folder, monkeypatch, capsys
):
    save_results(Path("now.json"), results({"unet": [0.5, 0.6]}))
    new = ("--baseline", "new/baseline.json", "--candidate", "now.json")
    assert run_gate(monkeypatch, *new, "--update-baseline") == 0
    told = capsys.readouterr().out
    assert told == "gate: new/baseline.json holds the figures of 2 runs\n"
    assert run_gate(monkeypatch, *new) == 0
    written = json.loads(Path("new/baseline.json").read_text())
    assert written["spreads"]["unet"]["dice"] == {
        "mean": pytest.approx(0.55),
        "standard_deviation": pytest.approx(0.005**0.5),
        "seeds": 2,
    }
    assert load_figures(Path("new/baseline.json")) == figures({"unet": [0.5, 0.6]})
    assert [path.name for path in Path("new").iterdir()] == ["baseline.json"]


def test_a_value_a_line_makes_a_baselines_changes_readable(folder):
    lines = Path("baseline.json").read_text().splitlines()
    assert sum('"mean"' in line for line in lines) == 6
    assert max(map(len, lines)) < 100


def test_update_keeps_the_old_baseline_where_the_candidate_lacks_a_figure(
    folder, monkeypatch, capsys
):
    before = Path("baseline.json").read_bytes()
    save_results(Path("reports/results.json"), results({"unet": [0.5, None]}))
    assert run_gate(monkeypatch, "--baseline", "baseline.json", "--update-baseline") == 1
    told = capsys.readouterr().out
    assert "Missing or not finite: dice of 'unet', iou of 'unet'" in told
    assert Path("baseline.json").read_bytes() == before


@pytest.mark.parametrize("values", [{}, {"unet": [0.5]}, {"unet": [0.5, 0.6], "resunet": [0.5]}])
def test_update_writes_no_baseline_without_two_seeds_of_each_variant(
    folder, monkeypatch, capsys, values
):
    before = Path("baseline.json").read_bytes()
    candidate = results(values, record=study(variants=list(values), seeds=[0, 1]))
    save_results(Path("reports/results.json"), candidate)
    assert run_gate(monkeypatch, "--baseline", "baseline.json", "--update-baseline") == 2
    assert (
        "has fewer than two seeds of a variant: without a deviation over seeds no later change "
        "could be told from luck"
    ) in capsys.readouterr().out
    assert Path("baseline.json").read_bytes() == before


def test_a_baseline_whose_figures_were_edited_is_refused(folder):
    text = Path("baseline.json").read_text()
    Path("baseline.json").write_text(
        text.replace('"standard_deviation": 0.0', '"standard_deviation": 0.9', 1)
    )
    with pytest.raises(UserError, match="spreads must be those of runs"):
        load_figures(Path("baseline.json"))


@pytest.mark.parametrize("told", ["null", "1.5", "1e308"])
def test_a_baselines_figure_that_cannot_be_is_refused(folder, monkeypatch, capsys, told):
    save_results(Path("reports/results.json"), results(STEADY))
    content = json.loads(Path("baseline.json").read_text())
    content["runs"][0]["metrics"]["dice"] = json.loads(told)
    Path("edited.json").write_text(json.dumps(content))
    for arguments in (
        ["--baseline", "edited.json"],
        ["--baseline", "baseline.json", "--candidate", "edited.json"],
    ):
        assert run_gate(monkeypatch, *arguments) == 2
        assert "spreads must be those of runs" in capsys.readouterr().out


def test_a_gate_without_memory_for_its_imports_is_no_regression():
    gate = [sys.executable, "-m", "pipeline.gate", "--baseline", "baseline.json"]
    limited = f"ulimit -v 300000; exec {shlex.join(gate)}"
    done = subprocess.run(["bash", "-c", limited], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: memory ran out")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("true", "runs.0.seed: input should be a valid integer, got 'True'"),
        ('"0"', "runs.0.seed: input should be a valid integer, got '0'"),
        ("0.5", "runs.0.seed: input should be a valid integer"),
    ],
)
def test_a_seed_that_is_no_whole_number_does_not_compare(folder, monkeypatch, capsys, number, told):
    save_results(Path("reports/results.json"), results(STEADY))
    text = Path("baseline.json").read_text()
    Path("baseline.json").write_text(text.replace('"seed": 0', f'"seed": {number}', 1))
    assert run_gate(monkeypatch, "--baseline", "baseline.json") == 2
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("value", ["true", '"0.79"', "[0.79]"])
def test_a_metric_that_is_no_number_does_not_compare(folder, monkeypatch, value):
    save_results(Path("reports/results.json"), results(STEADY))
    text = Path("reports/results.json").read_text()
    Path("reports/results.json").write_text(text.replace('"dice": 0.79', f'"dice": {value}', 1))
    assert run_gate(monkeypatch, "--baseline", "baseline.json") == 2


def test_a_baseline_that_cannot_be_written_is_no_regression(folder, monkeypatch, capsys):
    Path("taken").mkdir()
    save_results(Path("reports/results.json"), results(STEADY))
    assert run_gate(monkeypatch, "--baseline", "taken", "--update-baseline") == 2
    assert "taken cannot be written: Is a directory" in capsys.readouterr().out
    assert list(Path("taken").iterdir()) == []
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.json", "reports", "taken"]


def test_a_gate_that_fails_itself_is_no_regression(folder, monkeypatch, capsys):
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    save_results(Path("reports/results.json"), results(STEADY))
    monkeypatch.setattr(gate, "compare_studies", crash)
    monkeypatch.setattr("sys.argv", ["gate", "--baseline", "baseline.json"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("pipeline.gate", run_name="__main__")
    gc.unfreeze()
    assert ended.value.code == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_hostile_names_stay_within_their_cells(folder, monkeypatch, capsys):
    hostile = {HOSTILE: [0.8, 0.81, 0.79]}
    record = study(name=HOSTILE, variants=[HOSTILE], seeds=[0, 1, 2])
    save_baseline(Path("baseline.json"), figures(hostile, record=record))
    assert gate_on(monkeypatch, results(hostile, record=record)) == 0
    verdict, _, header, *rows = capsys.readouterr().out.splitlines()
    assert "<b>" not in verdict.replace(r"\<b", "")
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in [header, *rows]} == {9}
    assert all("<" not in re.sub(r"\\<", "", row) for row in rows)
    assert gate_on(monkeypatch, results(hostile)) == 2
    (told,) = capsys.readouterr().out.splitlines()
    assert "<b>" not in told.replace(r"\<b", "")


@pytest.mark.parametrize(
    "wrong", [["--alpha", "0"], ["--alpha", "x"], ["--floor", "-1"], ["--floor", "nan"]]
)
def test_a_wrong_argument_ends_with_status_2(folder, monkeypatch, wrong):
    assert run_gate(monkeypatch, "--baseline", "baseline.json", *wrong) == 2


def test_a_floor_lets_a_small_loss_pass(folder, monkeypatch):
    save_baseline(Path("baseline.json"), figures({"unet": [0.8, 0.8]}))
    save_results(Path("reports/results.json"), results({"unet": [0.79, 0.79]}))
    assert run_gate(monkeypatch, "--baseline", "baseline.json") == 1
    assert run_gate(monkeypatch, "--baseline", "baseline.json", "--floor", "0.02") == 0


def test_speed_is_gated_with_the_same_statuses(folder, monkeypatch, capsys):
    stored = {"fullname": "test_x.py::test", "extra_info": {"ratio": 2.0}}
    slower = stored | {"extra_info": {"ratio": 1.0}}
    for name, benchmark in (("stored", stored), ("slower", slower)):
        content = {"machine_info": {}, "benchmarks": [benchmark]}
        Path(f"{name}.json").write_text(json.dumps(content))
    baseline = ("--baseline", "speed.json")
    assert run_gate(monkeypatch, "--speed", "stored.json", *baseline) == 2
    capsys.readouterr()
    assert run_gate(monkeypatch, "--speed", "stored.json", *baseline, "--update-baseline") == 0
    assert capsys.readouterr().out == "gate: speed.json holds 1 ratio\n"
    assert run_gate(monkeypatch, "--speed", "stored.json", *baseline) == 0
    assert capsys.readouterr().out.startswith("**Gate: all 1 pass** (speed)\n")
    slower_by_half = ("--speed", "slower.json", *baseline)
    assert run_gate(monkeypatch, *slower_by_half) == 1
    assert "| test_x.py::test | ratio | 2 | 1 | 1 | 0.4 |" in capsys.readouterr().out
    assert run_gate(monkeypatch, *slower_by_half, "--tolerance", "0.5") == 0


@pytest.mark.parametrize(
    "arguments",
    [[], ["--tier", "c"], ["--tier", "a", "--baseline", "x"], ["--tier", "d"], ["--speed", "x"]],
)
def test_arguments_that_do_not_go_together_end_with_status_2(folder, monkeypatch, arguments):
    assert run_gate(monkeypatch, *arguments) == 2


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("dice", "Dice"),
        ("dice on ham10000", "Dice on ham10000"),
        ("validation_dice", "Dice, validation"),
        ("train_bce", "BCE, training"),
        ("test_hausdorff_95", "Hausdorff distance 95 %, test"),
        ("encoder_learning_rate", "Encoder's learning rate"),
        ("failed runs", "failed runs"),
    ],
)
def test_metrics_are_told_in_words(metric, words):
    assert gate.in_words(metric) == words


def test_every_figure_of_tier_a_is_told_in_words():
    stored = json.loads((REPOSITORY / "studies" / "gate" / "tier-a.json").read_text())
    for part, found in stored["figures"].items():
        assert part in gate.SUBJECTS
        for metric in found:
            assert "_" not in gate.in_words(metric), metric

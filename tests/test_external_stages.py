"""External test sets: prepared, scored on by every run, compared, and told of everywhere."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import REPOSITORY, change_params
from fake_study import make_study
from PIL import Image

from models import build_model
from pipeline import compare, download, evaluate, preprocess
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import save_weights
from pipeline.gate.baseline import load_figures
from pipeline.gate.regression import compare_studies
from pipeline.reporting.tables import all_tables
from pipeline.statistics.results import load_results
from pipeline.study.errors import UserError
from pipeline.study.files import read_json
from pipeline.study.reading import load_study
from pipeline.tracking.outcomes import summary

VARIANT = "gated_attention"


def add_flat(raw, id, image, mask):
    for folder, pixels in (("images", image), ("masks", mask)):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        picture.save(raw / folder / f"{id}.png")


def photograph(number):
    """Rich enough for local features, (192, 256, 3), and its mask."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    mask = np.zeros((192, 256), np.uint8)
    mask[60:120, 80:160] = 255
    return np.asarray(coarse.resize((256, 192), Image.Resampling.BICUBIC)), mask


def set_external(*sets):
    return change_params(evaluate={"external": list(sets)})


OTHER = {"name": "other", "raw": "other", "on_problem": "skip"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a study of one's own cases, in its raw/, and the working folder."""
    params = yaml.safe_load((REPOSITORY / "studies/demo/params.yaml").read_text())
    params["data"] = {"source": "directory", "raw": "raw", "on_problem": "stop"}
    split = {"method": "random", "seed": 0, "training": 0.5, "validation": 0.25, "test": 0.25}
    params["prepare"] |= {"height": 32, "width": 64, "split": split}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prepared(own):
    """That study of twelve photographs, prepared, and the folder `other` of an external set: two
    new cases, one with the bytes of a study's image, one that shows another smaller."""
    for number in range(12):
        add_flat(own / "raw", f"own-{number:02d}", *photograph(number))
    download.main()
    preprocess.main()
    for number in (100, 101):
        add_flat(own / "other", f"new-{number}", *photograph(number))
    add_flat(own / "other", "same", *photograph(3))
    image, mask = photograph(5)
    small = Image.fromarray(image).resize((200, 150)), Image.fromarray(mask).resize((200, 150), 0)
    add_flat(own / "other", "smaller", *small)
    return own


def prepare(on_problem="skip"):
    set_external(OTHER | {"on_problem": on_problem})
    preprocess.main(["--name", "other", "--raw", "other", "--on_problem", on_problem])
    return load_study().on("other")


@pytest.mark.slow
def test_a_case_that_the_study_has_is_told_and_stops(prepared):
    with pytest.raises(UserError) as told:
        prepare("stop")
    text = str(told.value)
    assert text.startswith(
        "2 files cannot be used; mend or remove them, then run dvc repro --force"
    )
    assert "the on_problem of other: skip" in text
    assert "same.png: has the bytes of the study's own-03" in text
    assert "smaller.png: shows what the study's own-05 shows (near-duplicates)" in text
    assert not (prepared / "external/other/prepared").exists()


@pytest.mark.slow
def test_a_case_that_the_study_has_is_left_out_of_the_tested(prepared, capsys):
    before = (prepared / "data/prepared/prepared.json").read_bytes()
    (prepared / "other/images/broken.png").write_bytes(b"")
    (prepared / "other/masks/broken.png").write_bytes(b"")
    on = prepare()
    cases = PreparedCases.open(on.prepared_dir)
    tested = cases.table["id"].iloc[cases.indices("test")]
    assert tested.tolist() == ["new-100", "new-101"]
    assert cases.images.shape[1:3] == (on.prepare.height, on.prepare.width)
    card = read_json(on.prepared_dir / "card.json", "")
    assert (card["cases"], card["of_the_study"], card["unusable"]) == (2, 2, 1)
    assert card["problems"]["left out"]["of the study"] == 2
    problems = pd.read_csv(on.prepared_dir / "problems.csv")
    assert set(problems["id"]) == {"same", "smaller", "broken"}
    assert (prepared / "external/other/manifest.csv").is_file()
    assert (prepared / "data/prepared/prepared.json").read_bytes() == before
    assert "2 cases to test; left out, for the study has them: 2" in capsys.readouterr().out


@pytest.mark.slow
def test_a_set_whose_cases_are_all_the_studys_is_refused(prepared):
    for id in ("new-100", "new-101"):
        for folder in ("images", "masks"):
            (prepared / "other" / folder / f"{id}.png").unlink()
    with pytest.raises(UserError, match="2 files cannot be used"):
        prepare()


@pytest.mark.slow
def test_near_duplicates_are_looked_for_where_the_study_looks(prepared):
    change_params(prepare={"near_duplicates": None})
    on = prepare()
    cases = PreparedCases.open(on.prepared_dir)
    assert "smaller" in cases.table["id"].iloc[cases.indices("test")].tolist()
    assert read_json(on.prepared_dir / "card.json", "")["of_the_study"] == 1


@pytest.mark.slow
def test_raw_cases_that_are_drawn_on_the_way_are_no_change(tiny_study, tmp_path):
    """As in a clone that has the study's results and not its raw cases."""
    study = tiny_study
    set_external({"name": "other", "raw": str(tmp_path / "other"), "on_problem": "stop"})
    shutil.copytree(study.folder / "data", tmp_path / "data")
    (study.folder / "data").unlink()  # a link to data that other tests have
    shutil.move(tmp_path / "data", study.folder / "data")
    shutil.rmtree(study.raw_dir)
    for number in (100, 101):
        add_flat(tmp_path / "other", f"new-{number}", *photograph(number))
    preprocess.main(["--name", "other"])
    assert study.raw_dir.is_dir()
    assert len(PreparedCases.open(load_study().on("other").prepared_dir).table) == 2


@pytest.mark.usefixtures("own")
def test_a_missing_folder_names_its_key():
    with pytest.raises(UserError, match=r"raw of other, must be an existing folder .* 'other'"):
        prepare()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--name", "another"], r"external test set must be one of evaluate\.external .*\(other\)"),
        (
            ["--name", "other", "--raw", "x"],
            r"--raw must be what .* has of other, 'other', got 'x'",
        ),
        (["--name", "other", "--on_problem", "stop"], r"--on_problem must be .* 'skip', got"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_command_that_is_not_of_params_is_refused(given, told):
    set_external(OTHER)
    with pytest.raises(UserError, match=told):
        preprocess.main(given)


@pytest.mark.slow
def test_a_run_is_scored_on_the_set_as_on_its_own_cases(tiny_study, monkeypatch):
    """On a set that holds the study's very test images the scores are the same, to the bit."""
    study = tiny_study
    torch.manual_seed(0)
    model = build_model(study.models[VARIANT])
    save_weights(model, study.run_dir(VARIANT, 0) / "weights.safetensors")
    set_external({"name": "twin", "raw": "twin", "on_problem": "skip"})
    on = load_study().on("twin")
    on.prepared_dir.mkdir(parents=True)
    for path in study.prepared_dir.iterdir():
        if path.is_file():
            (on.prepared_dir / path.name).write_bytes(path.read_bytes())
    for command in (["evaluate"], ["evaluate", "--external", "twin"]):
        monkeypatch.setattr(sys, "argv", [*command, VARIANT, "0"])
        evaluate.main()
    own, other = study.evaluation_dir(VARIANT, 0), on.evaluation_dir(VARIANT, 0)
    assert other == study.folder / "external/twin/runs" / VARIANT / "0/0"
    for name in ("cases.csv", "metrics.json"):
        assert (own / name).read_bytes() == (other / name).read_bytes()
    assert {path.name for path in other.iterdir()} == {
        "cases.csv", "metrics.json", "evaluation.json"
    }  # fmt: skip
    records = [json.loads((folder / "evaluation.json").read_text()) for folder in (own, other)]
    assert records[0] == records[1]
    assert "external" not in records[0]["params"]["evaluate"]
    (on.prepared_dir / "masks.npy").unlink()
    with pytest.raises(UserError, match=r"external/twin/.*; run the stage prepare_external$"):
        evaluate.main()


@pytest.fixture
def study(tmp_path, monkeypatch):
    study = make_study(
        tmp_path,
        variants=("gated_attention", "resunet", "unet"),
        seeds=range(8),
        test_ids=[f"own-{index}" for index in range(20)],
        external={"ham10000": 30, "ph2": 12},
    )
    monkeypatch.chdir(study.folder)
    return study


def results(study):
    compare.main()
    return load_results(study.results_file)


@pytest.mark.slow
def test_each_set_has_its_estimates_its_comparison_and_its_changes(study):
    found = results(study)
    assert [each.name for each in found.external] == ["ham10000", "ph2"]
    ham = found.external[0]
    assert (ham.cases, ham.of_the_study, ham.unusable) == (30, 2, 1)
    scores = [
        pd.read_csv(study.on("ham10000").evaluation_dir("unet", seed) / "cases.csv")
        for seed in study.seeds
    ]
    row = ham.estimate("unet", "iou")
    assert row.mean == pytest.approx(np.mean([table["iou"].mean() for table in scores]))
    assert (row.seeds, row.cases, row.paper) == (8, 30, None)
    assert (ham.comparison.cases, ham.comparison.seeds) == (30, study.seeds)
    assert ham.comparison.ordering.paper == []
    change = ham.changes[2]
    assert change.variants == ["unet"]
    assert change.here == pytest.approx(found.estimate("unet", "dice").typical)
    assert change.there == pytest.approx(ham.estimate("unet", "dice").typical)
    run = next(run for run in ham.runs if (run.variant, run.seed) == ("unet", 3))
    assert run.metrics["dice"] == pytest.approx(scores[3]["dice"].mean())


@pytest.mark.slow
def test_a_study_without_sets_is_compared_as_before(study):
    """To the last figure of its own cases."""
    found = results(study)
    set_external()
    alone = results(load_study())
    assert alone.external == []
    assert alone.study.external == {}
    assert alone.estimates == found.estimates
    assert alone.comparison == found.comparison
    kept = [each for each in found.verdict if "ham10000" not in each and "ph2" not in each]
    assert kept == alone.verdict


@pytest.mark.slow
def test_where_a_run_failed_the_typical_run_stands_beside_its_interval(study):
    for folder in (study.evaluation_dir("unet", 3), study.on("ph2").evaluation_dir("unet", 3)):
        table = pd.read_csv(folder / "cases.csv")
        table["dice"] = 0.0
        table.to_csv(folder / "cases.csv", index=False)
    tables = {table.key: table for table in all_tables(results(study))}
    table = tables["external-ph2"]
    place = table.header.index("Typical run")
    row = table.rows[2].cells
    low, high = map(float, row[place + 1].text.split(" to "))
    assert low <= float(row[place].text) <= high
    assert float(row[0].text.split()[0]) < low


@pytest.mark.slow
def test_one_case_is_told_and_nothing_untrue(study):
    on = study.on("ph2")
    path = on.prepared_dir / "cases.csv"
    table = pd.read_csv(path)
    table.loc[1:, "split"] = "training"
    table.to_csv(path, index=False)
    for run in study.runs():
        scores = on.evaluation_dir(*run) / "cases.csv"
        pd.read_csv(scores).iloc[:1].to_csv(scores, index=False)
    told = [each for each in results(study).verdict if "ph2" in each]
    assert told[0] == "On ph2: With one test case nothing can be said of others."
    assert not any("shown" in each.lower() for each in told)


@pytest.mark.slow
def test_two_seeds_describe_what_is_lost_and_test_nothing(tmp_path, monkeypatch):
    study = make_study(tmp_path, seeds=[0, 1], external={"ph2": 12})
    monkeypatch.chdir(study.folder)
    found = results(study)
    (loss,) = (each for each in found.verdict if each.startswith("From the study's own cases"))
    assert "(" not in loss
    tables = {table.key: table for table in all_tables(found)}
    assert "Shown on" not in tables["agreement-ph2"].header
    assert "Change" in tables["external-ph2"].header


@pytest.mark.slow
def test_the_verdict_tells_orders_changes_and_losses_of_each_set(study):
    verdict = results(study).verdict
    for name, cases in (("ham10000", 30), ("ph2", 12)):
        (order,) = (each for each in verdict if each.startswith(f"On {name} ({cases} cases) the"))
        assert order.count(" > ") in (2, 4)
        assert any(
            each.startswith(f"From the study's own cases to {name} Dice") for each in verdict
        )


@pytest.mark.slow
def test_tables_page_summary_and_mlflow_have_the_sets(study):
    found = results(study)
    tables = {table.key: table for table in all_tables(found)}
    assert [row.name for row in tables["external-ph2"].rows] == study.variants
    assert "Left out, for the study has them: 2 cases." in tables["external-ph2"].caption
    pairs = [row.name for row in tables["agreement-ham10000"].rows]
    assert pairs == ["gated_attention - resunet", "gated_attention - unet", "resunet - unet"]
    figures = json.loads(study.summary_file.read_text())["external"]["ham10000"]
    expected = found.external[0].estimate("unet", "dice")
    assert figures["dice"]["unet"]["mean"] == pytest.approx(expected.mean, abs=1e-5)
    assert figures["test_cases"] == 30
    told = summary(study).figures
    assert told["dice_ham10000/typical/unet"] == expected.typical


@pytest.mark.slow
def test_scores_of_other_weights_or_cases_are_refused(study):
    on = study.on("ph2")
    path = on.evaluation_dir("unet", 2) / "cases.csv"
    whole = path.read_bytes()
    table = pd.read_csv(path)
    table.iloc[1:].to_csv(path, index=False)
    with pytest.raises(UserError, match=r"12 prepared test cases .*stage evaluate_external again"):
        results(study)
    path.unlink()
    with pytest.raises(UserError, match=r"external/ph2/.*cases.csv is missing.*evaluate_external"):
        results(study)
    path.write_bytes(whole)
    record = on.evaluation_dir("unet", 2) / "evaluation.json"
    record.write_text(json.dumps({"weights_sha256": "another"}))
    with pytest.raises(UserError, match=r"not of the weights .*stage evaluate_external again"):
        results(study)
    (on.prepared_dir / "images.npy").unlink()
    with pytest.raises(UserError, match=r"external/ph2/.*; run the stage prepare_external$"):
        results(study)


@pytest.mark.slow
def test_the_gate_sees_a_fall_on_an_external_set_alone(study):
    results(study)
    before = load_figures(study.results_file)
    assert "dice on ph2" in before.spreads["unet"]
    checks = compare_studies(before, before)
    assert all(check.passed for check in checks)
    assert {check.metric for check in checks} >= {"dice on ham10000", "dice on ph2", "focal_loss"}
    on = study.on("ph2")
    for seed in study.seeds:
        path = on.evaluation_dir("unet", seed) / "cases.csv"
        table = pd.read_csv(path)
        table["dice"] *= 0.5
        table.to_csv(path, index=False)
    results(study)
    failed = [
        check
        for check in compare_studies(before, load_figures(study.results_file))
        if not check.passed
    ]
    assert {(check.subject, check.metric) for check in failed} == {
        ("unet", "dice on ph2"), ("all variants", "dice on ph2")
    }  # fmt: skip


@pytest.mark.slow
def test_the_gate_refuses_a_set_of_other_cases_or_none(study):
    results(study)
    before = load_figures(study.results_file)
    path = study.on("ph2").prepared_dir / "masks.npy"
    masks = np.load(path)
    masks[0, 0, 0] ^= 1
    np.save(path, masks)
    results(study)
    with pytest.raises(UserError, match=r"cases of external test sets differ, .*: ph2"):
        compare_studies(before, load_figures(study.results_file))
    set_external({"name": "ham10000", "raw": "data/ham10000", "on_problem": "skip"})
    results(load_study())
    with pytest.raises(UserError, match=r"cases of external test sets differ, .*: ph2"):
        compare_studies(before, load_figures(study.results_file))
    after = load_figures(study.results_file)
    results(study)
    assert all(each.passed for each in compare_studies(after, load_figures(study.results_file)))

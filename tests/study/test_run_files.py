"""study/run_files.py: what is refused of run.json and metrics.json, whoever reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_study import make_study
from run_folders import make_run

from pipeline import compare
from pipeline.deployment.loading import open_run
from pipeline.statistics.definitions import METRICS
from pipeline.status.overview import look
from pipeline.study.errors import UserError
from pipeline.study.run_files import range_of, read_metrics, read_run

# Text of run.json -> what is said of it.
UNUSABLE = [
    ("", "is missing or unusable"),
    ("[1]", "must hold a JSON object"),
    ("[" * 100_000, "recursion limit"),
    ('{"commit": "\\ud800"}', "is missing or unusable"),
    ('{"seed": ' + "9" * 5000 + "}", "number out of range"),
    ('{"seed": true}', "seed: input should be a valid integer, got 'True'"),
    ('{"seed": "1"}', "seed: input should be a valid integer, got '1'"),
    ('{"wall_seconds": NaN}', "is missing or unusable"),
    ('{"wall_seconds": 1e999}', "wall_seconds: input should be"),
    ('{"wall_seconds": -1}', "wall_seconds: input should be greater than or equal to 0"),
    ('{"parameters": "many"}', "parameters: input should be a valid number, got 'many'"),
    ('{"peak_memory_bytes": [1]}', "peak_memory_bytes: input should be a valid number"),
    ('{"params": {"train": 5}}', "params.train: input should be a valid dict"),
    ('{"sources": ["train.py"]}', "sources: input should be a valid dict"),
    ('{"versions": {"torch": 2}}', "versions.torch: input should be a valid string"),
]


@pytest.mark.parametrize(("text", "told"), UNUSABLE)
def test_an_unusable_run_json_is_told(tmp_path, text, told):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match="run the stage train") as caught:
        read_run(path)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)


def test_whoever_reads_a_run_tells_the_same(tmp_path, monkeypatch):
    study = make_study(tmp_path)
    monkeypatch.chdir(study.folder)
    (study.run_dir("resunet", 1) / "run.json").write_text('{"wall_seconds": "long"}')
    for read in (
        compare.main,
        lambda: compare.main(partial=True),
        lambda: look(study),
        lambda: open_run(study.run_dir("resunet", 1)),
    ):
        with pytest.raises(UserError, match=r"run.json: wall_seconds: input should be a valid num"):
            read()


@pytest.mark.parametrize("height", [10**9, 10**400, True, "32"])
def test_a_run_of_pictures_that_cannot_be_is_not_opened(tmp_path, height):
    folder, _ = make_run(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    record["params"]["prepare"]["height"] = height
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run.json: params.prepare.height: .* 32 to 16384, got"):
        open_run(folder)


@pytest.mark.parametrize("change", [{"plain_width": 10**12}, {"encoder_attention": [3] * 100_000}])
def test_a_run_of_a_network_that_cannot_be_is_told_in_a_line(tmp_path, change):
    folder, _ = make_run(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    config = record["params"]["model"]
    config |= change
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"run.json: params.model") as caught:
        open_run(folder)
    assert len(str(caught.value)) < 600


def test_a_run_of_metrics_that_cannot_be_is_not_opened(tmp_path):
    folder, _ = make_run(tmp_path)
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text('{"dice": {"mean": 0.5}}')
    with pytest.raises(UserError, match=r"metrics.json: dice: input should be a valid number"):
        open_run(folder)


def test_a_needed_key_that_is_missing_or_null_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"started": null, "parameters": 5}')
    with pytest.raises(UserError, match=r"run.json: started, gflops is missing; run the stage tra"):
        read_run(tmp_path / "run.json", ("started", "parameters", "gflops"))


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"dice": "good"}, "dice: input should be a valid number"),
        ({"dice": True}, "dice: input should be a valid number"),
        ({"dice": {"mean": 0.5}}, "dice: input should be a valid number"),
        ({"dice": 7.5}, "dice must be from 0 to 1"),
        ({"cases": -1}, "cases must be from 0 to 3.4e+38"),
        ({"focal_loss": 1e308}, "focal_loss must be from 0 to 3.4e+38"),
    ],
)
def test_metrics_that_cannot_be_are_told(tmp_path: Path, metrics, told):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics))
    with pytest.raises(UserError, match="run the stage evaluate") as caught:
        read_metrics(path)
    assert told in str(caught.value)


def test_the_metrics_that_are_no_share_are_losses_and_distances():
    unbounded = {name for name in METRICS if range_of(name)[1] > 1}
    assert unbounded == {"focal_loss", "hausdorff_95", "native_hausdorff_95"}

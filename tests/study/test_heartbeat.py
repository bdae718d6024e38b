"""study/heartbeat.py: who is at a run, and how far it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.study import heartbeat
from pipeline.study.errors import UserError
from pipeline.study.heartbeat import Heartbeat, beating, heartbeat_file
from pipeline.study.params import Run
from pipeline.study.reading import load_study

DEMO = Path(__file__).parents[2] / "studies" / "demo" / "params.yaml"
RUN = Run("unet", 1, 0)


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "studies" / "demo"
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(DEMO.read_text())
    return load_study(folder)


def test_a_record_is_written_at_once_for_a_new_epoch_and_else_now_and_then(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    told = Heartbeat(tmp_path / "a.json")
    told.beat(epoch=1, images=0)
    told.beat(images=8)
    assert json.loads(told.path.read_text()) == {"epoch": 1, "images": 0}
    told.beat(epoch=2, images=0)
    assert json.loads(told.path.read_text()) == {"epoch": 2, "images": 0}
    now[0] += heartbeat.INTERVAL
    told.beat(images=16)
    assert json.loads(told.path.read_text()) == {"epoch": 2, "images": 16}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_disk_that_refuses_does_not_cost_the_run(tmp_path):
    Heartbeat(tmp_path / "no folder" / "a.json").beat(epoch=1)


def test_a_training_that_ends_well_leaves_no_record_and_an_evaluation_its_seconds(study):
    for work in ("train", "evaluate"):
        with beating(study, RUN, work):
            assert heartbeat_file(study, RUN, work).is_file()
    assert not heartbeat_file(study, RUN, "train").exists()
    record = json.loads(heartbeat_file(study, RUN, "evaluate").read_text())
    assert record.keys() == {"seconds"}
    assert 0 <= record["seconds"] < 10


@pytest.mark.parametrize("work", ["train", "evaluate"])
def test_an_error_leaves_its_first_line_and_ctrl_c_none(study, work):
    with pytest.raises(UserError), beating(study, RUN, work):
        raise UserError(" first line\nlast")
    record = heartbeat_file(study, RUN, work)
    assert json.loads(record.read_text()) == {"error": "first line"}
    with pytest.raises(KeyboardInterrupt), beating(study, RUN, work):
        raise KeyboardInterrupt
    assert json.loads(record.read_text()) == {}

"""fanout/stage_graph.py: what is read is what DVC reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from light_study import LightStudy

pytestmark = pytest.mark.slow

pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")

from dvc.repo import Repo  # noqa: E402  it takes a second
from dvc.repo.index import Index  # noqa: E402

from pipeline.fanout.matrix import Matrix  # noqa: E402
from pipeline.fanout.stage_graph import StageGraph  # noqa: E402


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LightStudy:
    made = LightStudy(tmp_path / "repository", variants=2, seeds=2)
    made.params["evaluate"]["external"] = [{"name": "ham", "raw": "h am", "on_problem": "stop"}]
    made.write_params()
    made.take_real_stages()
    monkeypatch.chdir(made.folder)
    return made


def record_a_run(study: LightStudy) -> None:
    """One training and its evaluation, as DVC would; then a source of both is another."""
    matrix = Matrix(Path())
    names = [name for name in matrix.stages if "@limit_encoder_attention-0-0" in name]
    for name in names:
        for out in matrix.stages[name].outs:
            Path(out.fs_path).parent.mkdir(parents=True, exist_ok=True)
            Path(out.fs_path).write_text(out.def_path)
    assert matrix.record(names, []) == {}
    assert len(names) == 2


def contents(stage: Any) -> dict[str, Any]:
    """All that a stage is, in plain words."""
    apart = ("deps", "outs", "path_in_repo", "relpath")  # the last two are known once asked for
    found = {key: repr(value) for key, value in vars(stage).items() if key not in apart}
    for number, entry in enumerate((*stage.deps, *stage.outs)):
        assert entry.stage is stage
        known = {key: repr(value) for key, value in vars(entry).items() if key != "fs"}
        found |= {f"{number} {key}": value for key, value in known.items()}
        found[f"{number}"] = (type(entry), type(entry.fs), entry.is_in_repo)
    return found


def both(study: LightStudy) -> tuple[StageGraph, Index]:
    repo, path = Repo("."), str(study.folder / "dvc.yaml")
    return StageGraph(repo, path), Index.from_file(repo, path)


@pytest.mark.parametrize("recorded", [False, True])
def test_stages_are_those_of_dvc(study, recorded):
    if recorded:
        record_a_run(study)
    ours, theirs = both(study)
    assert list(map(contents, ours.stages)) == list(map(contents, theirs.stages))
    needed = {"download", "preprocess", "networks"}
    needed |= {stage.name for stage in ours.stages if "@" in stage.name}
    assert {"prepare_external@set0", "evaluate_external@set0-limit_encoder_attention-0-0"} < needed
    assert {stage.name for stage in ours.graph} == needed
    found = {(one.name, other.name) for one, other in ours.graph.edges}
    expected = {(one.name, other.name) for one, other in theirs.graph.edges}
    assert found == {edge for edge in expected if edge[0] in needed}


def test_what_is_made_of_raw_cases_is_not_given_out(study):
    """They lie on this machine: it is run before, as the stage preprocess is."""
    matrix = Matrix(Path())
    assert not [name for name in matrix.stages if name.startswith("prepare_external")]
    assert "evaluate_external@set0-limit_encoder_attention-0-0" in matrix.stages
    assert {"preprocess", "prepare_external@set0"} <= set(matrix.before())


@pytest.mark.parametrize(
    "outs",
    [
        "outs: ['${item.seed}/a', {'${item.seed}/b': {cache: false, desc: why}}]",
        "outs: ['${item.seed}/a', '${item.seed}/a']",
        "outs: ['../${item.seed}']\n    wdir: data",
        "outs: ['./${item.seed}/../a${item.seed}', 'b b/${item.seed}']",
        "metrics: ['${item.seed}/a.json', '${item.seed}/b.json']",
        "plots: ['${item.seed}/a.csv', {'${item.seed}/b.csv': {x: epoch}}]",
    ],
)
def test_outputs_of_any_form_are_those_of_dvc(study, outs):
    stage = f"  drawn:\n    matrix: {{seed: '${{seeds}}'}}\n    cmd: draw\n    {outs}\n"
    (study.folder / "dvc.yaml").write_text(f"stages:\n{stage}")
    ours, theirs = both(study)
    assert len(ours.stages) == 2
    assert list(map(contents, ours.stages)) == list(map(contents, theirs.stages))


@pytest.mark.parametrize("what", ["source", "data", "params", "model", "output", "nothing"])
def test_verdicts_are_those_of_dvc(study, what):
    record_a_run(study)
    changed = {
        "source": study.root / "pipeline/training/loop.py",
        "data": study.folder / "data/prepared/native_masks.zip",
        "output": study.folder / "runs/limit_encoder_attention/0/0/history.csv",
    }
    if what in changed:
        changed[what].unlink()
        changed[what].write_text("another")
    elif what == "params":
        study.write_params(epochs=7)
    elif what == "model":
        study.params["models"]["limit_encoder_attention"]["encoder"] = "resnet50"
        study.write_params()
    matrix = Matrix(Path())
    said: dict[Any, Any] = {}
    found = {name for name, stage in matrix.stages.items() if matrix._changed(stage, said)}
    assert found == {name for name in study.status() if name in matrix.stages}
    assert len(found) == {"nothing": 12, "model": 14}.get(what, 13)

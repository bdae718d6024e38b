"""study/stages.py: no stage puts in place what other files or params made than those there are."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, change_params
from PIL import Image

from pipeline import preprocess
from pipeline.data.synthetic import draw_case
from pipeline.study import stages
from pipeline.study.errors import UserError
from pipeline.study.files import before_placing, replacing
from pipeline.study.reading import load_study
from pipeline.study.stages import at_stage, read_stage

RUN = ("gated_attention", "0")


def params(**changes: object) -> Callable[[], None]:
    return lambda: change_params(**changes) and None


def append(path: str, text: str = "\n") -> Callable[[], None]:
    def edit() -> None:
        with Path(path).open("a") as file:
            file.write(text)

    return edit


# In the pipeline's order: what is edited while the stage runs, and how the error names it.
EDITS = {
    "download": (params(data={"seed": 8}), "params.yaml: data.seed"),
    "preprocess": (params(prepare={"width": 32}), "params.yaml: prepare.width"),
    "prepare_external": (params(prepare={"resize": "pad"}), "params.yaml: prepare.resize"),
    "networks": (params(prepare={"height": 64}), "params.yaml: prepare.height"),
    "train": (params(focal={"gamma": 3.0}), "params.yaml: focal.gamma"),
    "evaluate": (params(evaluate={"threshold": 0.9}), "params.yaml: evaluate.threshold"),
    "evaluate_external": (params(evaluate={"threshold": 0.9}), "params.yaml: evaluate.threshold"),
    "average": (append("runs/gated_attention/0/0/run.json"), "runs/gated_attention"),
    "export": (append("runs/gated_attention/0/0/run.json"), "runs/gated_attention/0/0/run.json"),
    "compare": (params(compare={"equivalence_margin": 0.5}), "params.yaml: compare.equ"),
    "attention": (append("reports/results.json"), "reports/results.json"),
    "plot": (append("data/prepared/cases.csv"), "data/prepared/cases.csv"),
    "report": (append("reports/figures/extra.svg"), "reports/figures"),
    "track": (append("reports/table.md"), "reports"),
}
SET = {"name": "other", "raw": "../other", "on_problem": "skip"}
MODULES = {
    "evaluate_external": "evaluate",
    "networks": "describe_networks",
    "export": "export_variants",
    "track": "tracking.__main__",
}


def run(stage: str) -> None:
    if stage == "prepare_external":
        preprocess.main([f"--{key}={value}" for key, value in SET.items()])
        return
    module = import_module(f"pipeline.{MODULES.get(stage, stage)}")
    items = dict.fromkeys(("train", "evaluate", "export"), RUN) | {"average": RUN[:1]}
    items["evaluate_external"] = ("--external", SET["name"], *RUN)
    sys.argv = [stage, *(items | {"track": ("sync",)}).get(stage, ())]
    module.main()


def outputs(stage: str) -> list[Path]:
    found = [*read_stage(stage).get("outs", []), *read_stage(stage).get("metrics", [])]
    names = [name if isinstance(name, str) else next(iter(name)) for name in found]
    item = {"variant": RUN[0], "seed": RUN[1], "fold": "0", "set.name": SET["name"]}
    for field, value in item.items():
        names = [name.replace(f"${{item.{field}}}", value) for name in names]
    return [Path(name) for name in names]


def run_edited(stage: str, edit: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a stage; the edit is made as soon as it has its first output made."""
    outs = [out.resolve() for out in outputs(stage)]
    edited = []

    def once(path: Path) -> None:
        path = path.resolve()
        ours = any(out == path or out in path.parents or path in out.parents for out in outs)
        if ours and not edited:
            edited.append(path)
            edit()

    with monkeypatch.context() as patch:
        if outs:
            before_placing.insert(0, once)
        else:  # track writes no file of the study
            patch.setattr("pipeline.tracking.__main__.sync", lambda _: edit() or (0, 0))
        try:
            run(stage)
        finally:
            before_placing[:] = [check for check in before_placing if check is not once]


@pytest.mark.slow
def test_every_stage_refuses_to_place_what_was_made_of_other_inputs(
    tiny_study, tmp_path, monkeypatch
):
    """DVC would record it as the result of what is there now, and give it back for ever."""
    pipeline = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert list(EDITS) == [stage for stage in pipeline if "deps" in pipeline[stage]]
    monkeypatch.setattr(sys, "argv", [])
    Path("data").unlink()  # a link to data that other tests have
    change_params(variants=[RUN[0]], compare={"baseline": None}, evaluate={"external": [SET]})
    other = tmp_path / "other"
    for folder in ("images", "masks"):
        (other / folder).mkdir(parents=True)
    for index in range(2):
        image, mask = draw_case(99, index, height=48, width=64)
        Image.fromarray(image).save(other / "images" / f"{index}.png")
        Image.fromarray(255 * mask).save(other / "masks" / f"{index}.png")
    whole = Path.cwd()
    for stage, (edit, told) in EDITS.items():
        edited = tmp_path / stage
        shutil.copytree(whole, edited)
        monkeypatch.chdir(edited)
        with pytest.raises(UserError) as error:
            run_edited(stage, edit, monkeypatch)
        assert told in str(error.value), stage
        assert "changed while" in str(error.value), stage
        assert not [out for out in outputs(stage) if out.exists()], stage
        monkeypatch.chdir(whole)
        if outputs(stage):
            run(stage)
            assert all(out.exists() for out in outputs(stage)), stage


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """Another root of sources, with a stage of one file."""
    root = tmp_path / "sources"
    (root / "pipeline").mkdir(parents=True)
    (root / "pipeline" / "compare.py").write_text("one\n")
    stage = {
        "deps": ["${code}/pipeline/compare.py", "runs"],
        "params": ["compare"],
        "outs": ["reports/results.json"],
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"compare": stage}}))
    monkeypatch.setattr(stages, "ROOT", root)
    monkeypatch.setattr(stages, "STARTED", time.time() + 1)
    return root


def compare(edit: Callable[[], None], out: str = "reports/results.json") -> None:
    with at_stage(load_study(), "compare"):
        edit()
        with replacing(Path(out)) as temporary:
            temporary.write_text("{}")


def test_a_source_that_is_edited_while_its_stage_runs_is_told(tiny_study, sources):
    with pytest.raises(UserError, match=r"^pipeline/compare\.py changed while the stage compare"):
        compare(append(str(sources / "pipeline" / "compare.py")))
    assert not Path("reports/results.json").exists()


def test_a_change_after_the_result_is_in_place_is_told_as_that(tiny_study, sources):
    def edited_late() -> None:
        with at_stage(load_study(), "compare"):
            with replacing(Path("reports/results.json")) as temporary:
                temporary.write_text("{}")
            change_params(compare={"draws": 5000})

    told = r"^params\.yaml: compare\.draws changed .* what of it is in place already is not to be"
    with pytest.raises(UserError, match=told):
        edited_late()
    assert Path("reports/results.json").exists()


def test_a_source_that_is_edited_while_it_is_imported_is_told(tiny_study, sources, monkeypatch):
    monkeypatch.setattr(stages, "STARTED", time.time() - 1)
    with pytest.raises(UserError, match=r"compare\.py changed while the stage compare was started"):
        compare(lambda: None)


def test_a_source_that_is_replaced_by_an_older_one_while_it_is_imported_is_told(
    tiny_study, sources, monkeypatch
):
    """As rsync -a and cp -p do, which keep the time of its content."""
    monkeypatch.setattr(stages, "STARTED", time.time() - 1)
    os.utime(sources / "pipeline" / "compare.py", (0, 0))
    with pytest.raises(UserError, match=r"compare\.py changed while the stage compare was started"):
        compare(lambda: None)


def test_what_a_stage_does_not_depend_on_may_be_edited(tiny_study, sources):
    (sources / "pipeline" / "report.py").write_text("one\n")

    def edit() -> None:
        change_params(evaluate={"threshold": 0.9}, tracking={"live": True})
        append("params.yaml", "# a comment\n")()
        append(str(sources / "pipeline" / "report.py"))()
        os.utime(sources / "pipeline" / "compare.py")

    compare(edit)
    assert Path("reports/results.json").exists()


def test_params_that_change_between_their_reading_and_the_stage_are_told(tiny_study, sources):
    change_params(compare={"draws": 5000})
    with pytest.raises(UserError, match=r"compare\.draws"), at_stage(tiny_study, "compare"):
        pass
    compare(lambda: None)


def test_files_that_are_no_outputs_may_be_written_whatever_changes(tiny_study, sources):
    with pytest.raises(UserError, match=r"compare\.draws"):
        compare(params(compare={"draws": 5000}), out="notes.txt")
    assert Path("notes.txt").exists()


def test_a_part_of_a_study_is_compared_while_its_runs_change(tiny_study, sources):
    with at_stage(tiny_study, "compare", partial=True):
        Path("runs").mkdir()


def test_what_dvc_ignores_may_change(tiny_study, sources, monkeypatch):
    stage = {"stages": {"compare": {"deps": ["reports"], "params": ["compare"]}}}
    (sources / "dvc.yaml").write_text(yaml.safe_dump(stage))
    Path("reports/partial").mkdir(parents=True)
    compare(append("reports/partial/table.md"), out="notes.txt")
    compare(append("reports/.gitignore"), out="notes.txt")
    with pytest.raises(UserError, match=r"^reports changed"):
        compare(append("reports/table.md"), out="notes.txt")


def test_a_large_input_is_known_by_its_size_and_time_of_change(tiny_study, sources, monkeypatch):
    monkeypatch.setattr(stages, "_SMALL", 3)
    Path("runs").mkdir()
    Path("runs/weights").write_text("0000")
    os.utime("runs/weights", (0, 0))
    with pytest.raises(UserError, match=r"^runs changed"):
        compare(lambda: Path("runs/weights").write_text("0001") and None)


@pytest.mark.parametrize("linked", ["images", "masks"])
def test_what_lies_in_a_linked_folder_is_seen_to_change(tmp_path, monkeypatch, linked):
    monkeypatch.chdir(tmp_path)
    for name in ("cases/images", "cases/masks", "elsewhere"):
        Path(name).mkdir(parents=True)
        Path(name, "1.png").write_text("one")
    shutil.rmtree(f"cases/{linked}")
    Path("cases", linked).symlink_to(Path("elsewhere").resolve())
    Path("cases/round").symlink_to(Path("cases").resolve())
    before = stages.state(["cases"])
    assert stages.state(["cases"]) == before
    Path("elsewhere/1.png").write_text("two")
    assert stages.state(["cases"]) != before


def test_a_second_process_at_a_stage_says_so(tiny_study, sources, monkeypatch):
    def refused(*_: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr("fcntl.lockf", refused)
    with pytest.raises(UserError, match="the stage compare is being run by another process"):
        compare(lambda: None)

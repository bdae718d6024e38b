"""pipeline/export.py: what is exported computes what the network computes, and says what it is."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import REPOSITORY
from results_by_hand import results, study
from run_folders import GATED, SIZE, make_run

from models import build_model
from models.attenresunet import AttenResUNetConfig
from pipeline import export
from pipeline.data.geometry import lay_image, place
from pipeline.deployment import graphs
from pipeline.deployment.loading import open_run
from pipeline.deployment.measurements import load_exported
from pipeline.engine.compute import to_input
from pipeline.reporting import modelcard
from pipeline.reporting.modelcard import check_results, write_card
from pipeline.statistics.results import Estimate, FailureRate, Interval, save_results
from pipeline.study.errors import UserError
from pipeline.study.files import write_json
from pipeline.study.locks import alone, owning
from pipeline.study.reading import load_study

DEMO = load_study(REPOSITORY / "studies" / "demo")
READINGS = "every-other-reading"  # of what the paper leaves open
NETWORKS = {
    **DEMO.models,
    READINGS: AttenResUNetConfig(
        encoder="plain",
        plain_width=2,
        decoder_gates=True,
        encoder_attention=(3, 4),
        attention_scale="sqrt",
        attention_residual=True,
        head="relu",
    ),
}
# With the plain network of `exported` they have every module of models/; an export takes ten
# seconds or more, so the others are for long runs.
QUICK = ("encoder_and_gated_attention", READINGS)
FILES = ["export.json", "model-card.md", "model.onnx", "model.pt2"]


def pictures(count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), np.uint8)


def probabilities(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model(to_input(torch.from_numpy(images), torch.device("cpu")))
    return torch.sigmoid(logits[:, 0]).numpy()


def onnx_probabilities(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0]


def pt2_probabilities(path: Path, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.export.load(path).module()(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder that the command fills for a made run, and its network."""
    root = tmp_path_factory.mktemp("export")
    folder, model = make_run(root / "study")
    write_json(folder / "evaluation" / "metrics.json", {"dice": 0.8125, "iou": 0.7, "cases": 24})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export", str(folder), "--out", str(root / "out")])
        export.main()
    return root / "out", model, folder


@pytest.mark.slow
def test_both_files_give_the_networks_probabilities_for_any_number_of_pictures(exported):
    out, model, _ = exported
    assert sorted(path.name for path in out.iterdir()) == FILES
    for count in (1, 2, 5):
        images = pictures(count)
        expected = probabilities(model, images)
        assert expected.std() > 0.01  # not one value everywhere
        for found in (
            onnx_probabilities(out / "model.onnx", images),
            pt2_probabilities(out / "model.pt2", images),
        ):
            assert (found.shape, found.dtype) == ((count, *SIZE), np.float32)
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", NETWORKS)
def test_every_variant_is_exported_as_the_eager_network(variant, tmp_path):
    if variant not in QUICK and "LESION_LONG_BENCHMARKS" not in os.environ:
        pytest.skip("takes 10 s: set LESION_LONG_BENCHMARKS=1 to run it, as CI does every week")
    size = (32, 32)
    folder, model = make_run(tmp_path, config=NETWORKS[variant], variant=variant, size=size)
    made = graphs.export(open_run(folder), tmp_path)
    assert max(made.largest_difference.values()) < 1e-4
    images = pictures(4, size)
    expected = probabilities(model, images)
    for found in (
        onnx_probabilities(tmp_path / "model.onnx", images),
        pt2_probabilities(tmp_path / "model.pt2", images),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.slow
def test_the_onnx_file_says_what_it_takes_and_gives(exported):
    out, _, folder = exported
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    versions = {"opset": model.opset_import[0].version, "ir": model.ir_version}
    assert versions == {"opset": 18, "ir": 8}  # of 2023
    assert load_exported(out / "export.json").onnx == versions
    assert "opset 18 and IR version 8" in (out / "model-card.md").read_text()
    (images,), (found,) = model.graph.input, model.graph.output
    shapes = [
        [dim.dim_value or "any" for dim in value.type.tensor_type.shape.dim]
        for value in (images, found)
    ]
    assert shapes == [["any", *SIZE, 3], ["any", *SIZE]]
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["images"] == "uint8 (N, 32, 64, 3), RGB, 0 to 255; normalised inside"
    assert "Not a medical device" in metadata["description"]
    record = json.loads((folder / "run.json").read_text())
    assert metadata["weights_sha256"] == record["weights_sha256"]
    assert metadata["resize"].startswith("stretch to 32x64")


@pytest.mark.slow
def test_nothing_of_this_machine_is_in_either_file(exported):
    out, _, _ = exported
    with zipfile.ZipFile(out / "model.pt2") as archive:
        held = b"".join(archive.read(name) for name in archive.namelist())
    for content in ((out / "model.onnx").read_bytes(), held):
        assert b"network.bridge.0.weight" in content
        for here in (REPOSITORY, sys.prefix, sys.base_prefix, Path.home(), out.parent):
            assert os.fsencode(here) not in content
        assert b".py" not in content


@pytest.mark.slow
def test_an_export_is_repeated_to_the_byte(exported, tmp_path):
    out, _, folder = exported
    graphs.export(open_run(folder), tmp_path)
    for name in ("model.onnx", "model.pt2"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_sizes_and_latency_are_read_back(exported):
    out, model, folder = exported
    figures = load_exported(out / "export.json")
    assert (figures.variant, figures.seed, figures.height, figures.width) == ("gated", 0, *SIZE)
    assert figures.bytes == {
        "weights.safetensors": (folder / "weights.safetensors").stat().st_size,
        "model.onnx": (out / "model.onnx").stat().st_size,
        "model.pt2": (out / "model.pt2").stat().st_size,
    }
    assert figures.parameters == sum(one.numel() for one in model.parameters())
    assert all(value > 0 for value in figures.latency_milliseconds.model_dump().values())
    assert max(figures.largest_difference.values()) < 1e-4
    with pytest.raises(UserError, match=r"cannot be read .* run python -m pipeline.export"):
        load_exported(out / "other.json")
    with pytest.raises(UserError, match="schema_version"):
        load_exported(folder / "run.json")


def test_the_card_has_the_runs_own_metrics_and_no_interval(exported):
    card = (exported[0] / "model-card.md").read_text()
    assert card.startswith("# gated, seed 0, fold 0\n")
    assert card.count("Not a medical device") == 2
    assert "| Dice | 0.8125 |" in card
    assert "On 24 test cases, this network alone: one run, no interval" in card
    assert "these figures say nothing about real ones" in card
    assert "encoder_attention:\n- 3" in card


def test_the_card_counts_one_as_one(exported):
    out, _, folder = exported
    run = open_run(folder)
    figures = load_exported(out / "export.json")
    one = replace(run, metrics={"cases": 1.0}, record=run.record | {"epochs_trained": 1})
    card = write_card(one, figures, None)
    assert "On 1 test case, this network alone" in card
    assert "Trained for 1 epoch, kept" in card
    card = write_card(replace(run, metrics={}), figures, None)
    assert "On an unknown number of test cases, this network alone" in card
    assert "Trained for an unknown number of epochs, kept" in card


def test_the_cards_code_runs_and_gives_the_networks_probabilities(exported, tmp_path, monkeypatch):
    from PIL import Image

    out, model, _ = exported
    (code,) = re.findall(r"```python\n(.*?)```", (out / "model-card.md").read_text(), re.DOTALL)
    monkeypatch.chdir(out)
    photograph = Image.fromarray(pictures(1, (90, 120))[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # as a phone stores it that is held upright
    stored = photograph.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "photograph.png", exif=exif)
    scope: dict[str, object] = {}
    exec(code.replace("photograph.jpg", str(tmp_path / "photograph.png")), scope)
    picture = np.array(photograph.resize(SIZE[::-1], Image.Resampling.BILINEAR))[None]
    np.testing.assert_allclose(scope["probabilities"], probabilities(model, picture)[0], atol=1e-4)


@pytest.mark.parametrize("resize", ["stretch", "center_crop", "pad"])
@pytest.mark.parametrize("size", [(500, 1024), (1024, 500), (90, 120), (97, 33), (64, 64)])
def test_the_cards_code_lays_a_photograph_as_preprocess_does(tmp_path, size, resize):
    from PIL import Image, ImageOps

    wanted = (64, 96)
    folder, _ = make_run(tmp_path, size=wanted)
    run = replace(open_run(folder), resize=resize)
    image = Image.fromarray(pictures(1, size)[0])
    scope: dict[str, object] = {"image": image, "Image": Image, "ImageOps": ImageOps}
    exec("\n".join(modelcard._resize_lines(run)), scope)
    expected = lay_image(image, place(size, wanted, resize))
    assert np.abs(np.asarray(scope["picture"]).astype(int) - expected).max() <= 1


def test_a_network_without_a_graph_costs_no_traceback(tmp_path, monkeypatch):
    folder, _ = make_run(tmp_path)
    run = open_run(folder)

    class Branching(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, :1] if images.sum() > 0 else images[:, 1:2]

    monkeypatch.setattr(type(run), "load", lambda *_: Branching())
    with pytest.raises(
        UserError, match=r"gated seed 0 cannot be exported \(.*take the variant out"
    ):
        graphs.export(run, tmp_path / "out")


def with_estimates(name: str = "made", variant: str = "gated", failed: Sequence[int] = ()):
    found = results({variant: [0.80, 0.82]}, record=study(name=name, variants=[variant]))
    estimate = Estimate(
        variant=variant,
        metric="dice",
        mean=0.81,
        standard_deviation=0.0141,
        typical=0.8123,
        interval=Interval(low=0.7512, high=0.8688),
        seeds=2,
        cases=24,
        paper=None,
        paper_rounding=None,
        paper_interval=None,
    )
    rate = FailureRate(
        variant=variant,
        runs=2,
        failed=list(failed),
        rate=len(failed) / 2,
        interval=Interval(low=0.0, high=0.9),
        upper_quartile=0.81,
        drop=0.03,
    )
    params = {"evaluate": {"threshold": 0.4}}
    changes = {"estimates": [estimate], "failures": [rate], "params": params}
    return found.model_copy(update=changes)


def test_with_results_the_card_has_the_typical_run_with_its_interval(exported):
    out, _, folder = exported
    card = write_card(open_run(folder), load_exported(out / "export.json"), with_estimates())
    assert "On 24 test cases. A typical run is one that does not fail." in card
    assert "It and its 95 % interval are over 2 seeds and the cases" in card
    assert "| Metric | Typical run | 95 % interval | Mean over seeds |" in card
    assert "| Dice | 0.81 | 0.75 to 0.87 | 0.81 | 0.01 | 0.80 |" in card  # 0.12 wide
    assert "more than 0.03 Dice below the variant's upper quartile: 0 of 2 runs." in card
    assert "This network is of a run that failed" not in card
    assert "2 TP / (2 TP + FP + FN)" in card
    assert "above 0.4 its study calls it lesion" in card


def test_without_an_interval_the_card_has_no_column_for_it(exported):
    out, _, folder = exported
    found = with_estimates()
    few = [each.model_copy(update={"interval": None}) for each in found.estimates]
    found = found.model_copy(update={"estimates": few})
    card = write_card(open_run(folder), load_exported(out / "export.json"), found)
    assert "95 % interval" not in card
    assert "| Metric | Typical run | Mean over seeds |" in card
    assert "| Dice | 0.812 | 0.810 | 0.014 | 0.800 |" in card


def test_the_card_of_a_run_that_failed_says_so(exported):
    out, _, folder = exported
    run, figures = open_run(folder), load_exported(out / "export.json")
    card = write_card(run, figures, with_estimates(failed=[run.seed]))
    assert "upper quartile: 1 of 2 runs." in card
    assert "**This network is of a run that failed.**" in card
    other = write_card(run, figures, with_estimates(failed=[run.seed + 1]))
    assert "upper quartile: 1 of 2 runs." in other
    assert "This network is of a run that failed" not in other


@pytest.mark.parametrize("other", [{"name": "demo"}, {"variant": "unet"}])
def test_the_results_of_another_study_are_refused_before_the_export(
    other, exported, tmp_path, monkeypatch
):
    folder = exported[2]
    with pytest.raises(UserError, match=r"name the results\.json of its own study"):
        check_results(open_run(folder), with_estimates(**other))
    save_results(tmp_path / "results.json", with_estimates(**other))
    arguments = [
        "export",
        folder,
        "--out",
        tmp_path / "out",
        "--results",
        tmp_path / "results.json",
    ]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(UserError, match="its own study"):
        export.main()
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(exported, monkeypatch):
    out, _, folder = exported
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    monkeypatch.setattr(sys, "argv", ["export", str(folder), "--out", str(out)])
    with pytest.raises(UserError, match="is not empty"):
        export.main()
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def export_as_before(exported, out: Path, monkeypatch, meanwhile=lambda: None) -> None:
    """The command, with the figures that `exported` has; `meanwhile` comes while it computes."""

    def export_quickly(*_: object) -> object:
        meanwhile()
        return load_exported(exported[0] / "export.json")

    monkeypatch.setattr(export, "export", export_quickly)
    monkeypatch.setattr(sys, "argv", ["export", str(exported[2]), "--out", str(out)])
    export.main()


def test_what_comes_while_it_exports_is_not_removed(exported, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def arrive() -> None:
        out.mkdir()
        (out / "notes.txt").write_text("mine")

    with pytest.raises(UserError, match="out is not empty"):
        export_as_before(exported, out, monkeypatch, arrive)
    assert (out / "notes.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


@contextmanager
def held_elsewhere(lock: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Another process holds that lock."""
    context = multiprocessing.get_context("fork")
    held = context.Event()

    def hold() -> None:
        with lock():
            held.set()
            signal.pause()

    process = context.Process(target=hold)
    process.start()
    try:
        assert held.wait(30)
        yield
    finally:
        process.kill()
        process.join()


def test_two_do_not_export_into_one_folder(exported, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with (
        held_elsewhere(partial(owning, out)),
        pytest.raises(UserError, match="out is being written by another process"),
    ):
        export_as_before(exported, out, monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_folder_that_predict_began_in_is_not_replaced(exported, tmp_path, monkeypatch, when):
    out = tmp_path / "out"
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(held_elsewhere(partial(alone, out / ".lock", "the test")))

        if when == "before":
            begin()
        with pytest.raises(UserError, match="out is being written by another process"):
            export_as_before(
                exported, out, monkeypatch, begin if when == "meanwhile" else lambda: None
            )
        assert [path.name for path in out.iterdir()] == [".lock"]


def test_a_link_to_an_empty_folder_stays_a_link(exported, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    export_as_before(exported, tmp_path / "link", monkeypatch)
    assert (tmp_path / "link").is_symlink()
    written = [path.name for path in (tmp_path / "empty").iterdir()]
    assert sorted(written) == ["export.json", "model-card.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


@pytest.mark.parametrize("name", ["e" * 252, "\u0436" * 127])  # 252 and 254 bytes, of 255
def test_a_folder_may_have_any_name(exported, tmp_path, monkeypatch, name):
    export_as_before(exported, tmp_path / name, monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    folder = exported[2]
    wrong = graphs.Segmenter(build_model(GATED))
    monkeypatch.setattr(graphs, "save_onnx", lambda *_: None)
    monkeypatch.setattr(graphs, "onnx_call", lambda _: graphs.torch_call(wrong))
    monkeypatch.setattr(graphs, "export_program", lambda *_: None)
    monkeypatch.setattr(
        graphs, "save_program", lambda _, path: shutil.copy(exported[0] / "model.pt2", path)
    )
    monkeypatch.setattr(sys, "argv", ["export", str(folder), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"model.onnx of gated seed 0 differs from the network by"):
        export.main()
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    segmenter = graphs.Segmenter(build_model(GATED))
    with pytest.raises(UserError, match=r"pip install lesion-ablation\[export\]"):
        graphs.save_onnx(segmenter, tmp_path / "model.onnx", {})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install lesion-ablation\[export\]"):
        graphs.onnx_call(tmp_path / "model.onnx")

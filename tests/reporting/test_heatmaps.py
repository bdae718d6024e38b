"""reporting/stage_maps.py and reporting/heatmaps.py on small untrained networks."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from models import build_model
from models.attenresunet import AttenResUNetConfig
from models.attenresunet.attention import attention_maps
from pipeline.data.synthetic import draw_case
from pipeline.engine.compute import to_input
from pipeline.engine.prepared import PreparedCases
from pipeline.engine.weights import save_weights
from pipeline.reporting.heatmaps import CAPTION, SCALES, draw_attention
from pipeline.reporting.stage_maps import AttentionStage, attention_of_run, attention_stages
from pipeline.reporting.style import STYLE, save_png, save_webp
from pipeline.study.errors import UserError

REPOSITORY = Path(__file__).parents[2]
IDS = ["$x^2$ \\{y}", "<script>alert(1)</script>"]
EVERY = AttenResUNetConfig(encoder="resnet18", encoder_attention=(1, 3), decoder_gates=True)


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context(STYLE):
        yield


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(EVERY).eval()


def make_cases(side=64):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (3, side, side, 3), np.uint8)
    masks = np.zeros((3, side, side), np.uint8)
    masks[:, 10:30, 20:50] = 1
    table = pd.DataFrame({"id": ["other", *IDS], "width": [4, 4, 3], "height": [3, 3, 4]})
    return PreparedCases(images, masks, table, "")


def test_stages_are_in_the_networks_order_and_named_in_words(model):
    stages = attention_stages(model, make_cases().images)
    assert [(stage.name, stage.size, stage.kind) for stage in stages] == [
        ("encoder layer 1, attention received", "1/4 size", "received"),
        ("encoder layer 1, gate", "1/4 size", "alpha"),
        ("encoder layer 3, attention received", "1/16 size", "received"),
        ("encoder layer 3, gate", "1/16 size", "alpha"),
        ("decoder gate 1", "1/16 size", "alpha"),
        ("decoder gate 2", "1/8 size", "alpha"),
        ("decoder gate 3", "1/4 size", "alpha"),
        ("decoder gate 4", "1/2 size", "alpha"),
    ]


def test_alpha_is_the_gates_own_and_attention_received_is_in_units_of_uniform(model):
    images = make_cases().images
    _, maps = attention_maps(model, to_input(torch.from_numpy(images), torch.device("cpu")))
    received, gate, *_ = attention_stages(model, images)
    assert received.maps.shape == gate.maps.shape == (3, 16, 16)
    np.testing.assert_allclose(received.maps.mean(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_array_equal(gate.maps, maps["encoder_attention.1.gate"][:, 0].numpy())


def test_a_gate_on_the_images_own_size_is_said_to_be_of_full_size():
    plain = AttenResUNetConfig(encoder="plain", plain_width=4, decoder_gates=True)
    stages = attention_stages(build_model(plain).eval(), make_cases().images)
    assert stages[-1].size == "full size"


@pytest.mark.slow
def test_the_maps_of_a_run_are_those_of_its_weights(tmp_path, model):
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)
    images = make_cases().images
    for ours, theirs in zip(
        attention_of_run(EVERY, path, images), attention_stages(model, images), strict=True
    ):
        np.testing.assert_allclose(ours.maps, theirs.maps, rtol=1e-4)
    with pytest.raises(UserError, match="run the stage train"):
        attention_of_run(AttenResUNetConfig(encoder="resnet18"), path, images)


def test_a_network_without_attention_has_no_stages_and_no_figure():
    stages = attention_stages(
        build_model(AttenResUNetConfig(encoder="resnet18")).eval(), make_cases().images
    )
    assert stages == []
    assert draw_attention(stages, IDS, make_cases(), "stretch") is None


def made_stages():
    """A gate's map and a self-attention's, of two cases, that rise from left to right."""
    rise = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (2, 8, 1))
    return [
        AttentionStage("decoder gate 1", "1/8 size", "alpha", rise),
        AttentionStage("encoder layer 2, attention received", "1/8 size", "received", 40 * rise),
    ]


def test_a_row_is_a_case_and_a_column_a_stage():
    figure = draw_attention(made_stages(), IDS, make_cases(), "stretch")
    maps = np.reshape(figure.axes[:6], (2, 3))
    titles = [" ".join(ax.get_title().split()) for ax in maps[0]]
    assert titles == [
        "image",
        "decoder gate 1 (1/8 size)",
        "encoder layer 2, attention received (1/8 size)",
    ]
    assert maps[0, 0].get_ylabel() == IDS[0]
    for row, place in zip(maps, (1, 2), strict=True):  # the first prepared case is another
        np.testing.assert_array_equal(row[0].images[0].get_array(), make_cases().images[place])
        assert all(ax.collections for ax in row)  # the true border


def test_the_colours_mean_the_same_in_every_figure():
    alpha, received = made_stages()
    figure = draw_attention([alpha, received], IDS, make_cases(), "stretch")
    for place, stage in ((1, alpha), (2, received)):
        shown = figure.axes[place].images[0].get_array()
        np.testing.assert_array_equal(shown, SCALES[stage.kind].to_rgba(stage.maps[0]))
    assert SCALES["alpha"].get_clim() == (0, 1)
    low, high = SCALES["received"].get_clim()
    assert low * high == 1
    assert "0 to 1" in CAPTION
    assert "relative to uniform" in CAPTION
    assert f"{high:g} times" in CAPTION


@pytest.mark.slow
def test_the_same_maps_give_the_same_bytes():
    def drawn():
        file = io.BytesIO()
        figure = draw_attention(made_stages(), IDS, make_cases(), "stretch")
        figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    assert drawn() == drawn()


@pytest.mark.slow
def test_a_webp_keeps_the_colours_of_a_scale_in_fewer_bytes_than_a_png(tmp_path):
    noise = make_cases()
    skin = np.stack([draw_case(0, index, height=64, width=64)[0] for index in range(3)])
    figure = draw_attention(made_stages(), IDS, replace(noise, images=skin), "stretch")
    save_png(figure, tmp_path / "a.png")
    save_webp(figure, tmp_path / "a.webp")
    png, webp = (
        np.asarray(Image.open(tmp_path / name).convert("RGB"), dtype=float)
        for name in ("a.png", "a.webp")
    )
    assert png.shape == webp.shape
    coloured = np.ptp(png, axis=-1) > 20
    assert np.median(np.abs(png - webp)[coloured]) <= 5  # of 255 levels
    assert 2 * (tmp_path / "a.webp").stat().st_size < (tmp_path / "a.png").stat().st_size


@pytest.mark.slow
def test_the_figures_module_imports_no_torch():
    check = "import sys, pipeline.reporting.heatmaps; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=REPOSITORY, check=True)

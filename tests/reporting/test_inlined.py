"""reporting/inlined.py: drawings that follow the page's colour scheme, photographs that do not."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from browser import FLAGS, NAMES
from made_results import make_results
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from pipeline.reporting.inlined import DARK_PAPER, follow_scheme, inline_figure
from pipeline.reporting.result_figures import draw_runs
from pipeline.reporting.style import COLOURS, STYLE


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawing") / "runs.svg"
    with mpl.rc_context(STYLE):
        draw_runs(make_results(["unet", "resunet"])).savefig(path, metadata={"Date": None})
    return path


def svg_of(figure):
    head, _, content = figure.source.partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(content).decode()


def test_every_grey_is_a_variable_with_a_value_for_both_schemes_and_colours_stay(drawing):
    before, text = drawing.read_text(), svg_of(inline_figure(drawing, "", "", "plot"))
    ElementTree.fromstring(text)
    style, drawn = re.search(r"<style>:root.*?</style>", text, re.DOTALL)[0], ""
    drawn = text.replace(style, "")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    assert not re.search(r"#([0-9a-f]{2})\1\1\b", drawn)
    used = set(re.findall(r"var\((--grey-..)\)", drawn)) | {"--grey-00"}
    assert "--grey-ff" in used
    for scheme in (light, dark):
        assert set(re.findall(r"(--grey-..):", scheme)) == used
    assert "--grey-ff: #ffffff" in light
    assert "--grey-00: #000000" in light
    for colour in COLOURS[:2]:
        assert drawn.count(to_hex(colour)) == before.count(to_hex(colour)) > 0


def test_a_darker_grey_is_a_lighter_one_in_the_dark():
    greys = [f"{grey:02x}" for grey in range(0, 256, 15)]
    text = follow_scheme("<svg>" + "".join(f'<g fill="#{grey * 3}"/>' for grey in greys) + "</svg>")
    dark = text.partition("@media")[2]
    found = [int(re.search(rf"--grey-{grey}: #(..)", dark)[1], 16) for grey in greys]
    assert found == sorted(found, reverse=True)
    assert found[-1] == DARK_PAPER


def test_a_picture_of_one_tag_and_photographs_stay_as_they_are(tmp_path):
    assert follow_scheme('<svg width="9"/>') == '<svg width="9"/>'
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG #ffffff")
    figure = inline_figure(path, "", "", "plot")
    assert figure.photograph
    assert base64.b64decode(figure.source.partition(",")[2]) == path.read_bytes()


def luminance(colour):
    """Of WCAG 2.2."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_each_colour_has_a_contrast_of_three_to_the_dark_paper():
    paper = luminance(f"#{DARK_PAPER:02x}{DARK_PAPER:02x}{DARK_PAPER:02x}")
    assert min((luminance(colour) + 0.05) / (paper + 0.05) for colour in COLOURS) >= 3


@pytest.mark.slow
def test_a_browser_draws_on_black_where_the_page_is_dark_and_on_white_where_it_is_light(
    drawing, tmp_path
):
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on the PATH (Debian's package chromium)")
    source = inline_figure(drawing, "", "", "plot").source
    images = "".join(
        f'<img src="{source}" style="color-scheme: {scheme}; width: 600px; display: block">'
        for scheme in ("light", "dark")
    )
    (tmp_path / "page.html").write_text(f'<body style="margin: 0">{images}')
    shot = tmp_path / "shot.png"
    subprocess.run(
        [
            browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
            "--window-size=600,1200", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB"))
    root = ElementTree.fromstring(drawing.read_text())
    width, height = (float(root.get(side).removesuffix("pt")) for side in ("width", "height"))
    end = int(600 * height / width)
    light, dark = pixels[: end - 2], pixels[end + 2 : 2 * end - 2]
    assert (light == 255).all(axis=-1).mean() > 0.7
    assert (dark == DARK_PAPER).all(axis=-1).mean() > 0.7
    assert dark.min(axis=-1).max() > 150  # the letters, a pixel wide
    for part in (light, dark):
        assert (np.abs(part - 255 * np.array(to_rgb(COLOURS[0]))) < 3).all(axis=-1).any()

"""judge/publish.py and the command: what a table gives, as a reader finds it."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.judge import cli
from pipeline.statistics.results import load_results
from pipeline.study.errors import UserError
from studies import as_table, simulate

PAPER = """paper:
  title: A <paper>
  reference: Somebody 2024
  rows:
    a: {label: A net, figures: {dice: "0.80"}}
    b: {label: B net, figures: {dice: "0.83"}}
  claims: [b > a]
"""


def table(folder, seeds=8, effects=(0.80, 0.83)):
    values = simulate(np.random.default_rng(0), effects, seeds=seeds, cases=30).clip(0, 1)
    frame = as_table(values).rename(columns={"value": "dice"})
    frame.to_csv(folder / "scores.csv", index=False)
    (folder / "paper.yaml").write_text(PAPER)


def run(monkeypatch, folder, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["judge", *map(str, arguments)])
    cli.main()
    return folder / "judged"


class Page(HTMLParser):
    """What is open when the page ends, and its pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.sources.append(dict(attributes)["src"])
        elif tag not in ("meta", "wbr", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_table_gives_results_tables_figures_and_a_page(tmp_path, monkeypatch, capsys):
    table(tmp_path)
    out = run(monkeypatch, tmp_path, "scores.csv", "--paper", "paper.yaml")
    results = load_results(out / "results.json")
    assert results.comparison.claims == [("b", "a")]
    page = (out / "index.html").read_text()
    found = Page(page)
    assert not found.open
    assert len(found.sources) == 4  # every run is the page's own picture
    assert all(source.startswith("data:image/svg+xml;base64,") for source in found.sources)
    assert "A &lt;paper&gt;" in page
    text = (out / "table.md").read_text()
    assert text.startswith("# Scores of scores\n\nHeld against: A \\<paper> (Somebody 2024).")
    assert "| b > a | +0.0" in text
    assert "\\label{tab:scores-claims}" in (out / "table.tex").read_text()
    assert (out / "table.csv").read_text().startswith("variant,paper_row,seeds,cases,dice_mean")
    names = {path.name for path in (out / "figures").iterdir()}
    assert names == {
        f"{name}.{kind}"
        for name in ("runs", "forest", "ranks", "ordering", "variance")
        for kind in ("svg", "png")
    }
    assert capsys.readouterr().out.startswith("judge: judged/index.html, 2 variants: ")


def test_what_a_table_has_nothing_for_is_not_shown(tmp_path, monkeypatch):
    table(tmp_path)
    run(monkeypatch, tmp_path, "scores.csv")
    table(tmp_path, seeds=1)
    out = run(monkeypatch, tmp_path, "scores.csv")
    # Of one run there are no ranks; what the earlier table gave is gone.
    assert {path.name for path in (out / "figures").glob("*.svg")} == {"runs.svg", "forest.svg"}
    page = (out / "index.html").read_text()
    assert not [word for word in ("Held against", "paper", "Failed run", "Rank") if word in page]
    assert "over cases alone" in page


def test_the_same_table_gives_the_same_bytes(tmp_path, monkeypatch):
    table(tmp_path)
    out = run(monkeypatch, tmp_path, "scores.csv")
    first = {path: path.read_bytes() for path in out.rglob("*.*")}
    run(monkeypatch, tmp_path, "scores.csv")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == first


def test_names_from_a_table_are_escaped(tmp_path, monkeypatch):
    table(tmp_path)
    text = (tmp_path / "scores.csv").read_text().replace("\na,", "\n<b>&x_1,")
    (tmp_path / "scores.csv").write_text(text)
    out = run(monkeypatch, tmp_path, "scores.csv")
    assert "<b>&x" not in (out / "index.html").read_text()
    assert "\\<b>\\&x_1" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        (None, "paper.yaml is missing: name a YAML file with a block paper"),
        ("paper: null\n", "paper.yaml: paper is null: there is nothing to hold the table against"),
        ("factors: {}\n", "paper.yaml: paper is missing"),
        ("papier: {}\n", "paper.yaml: papier is an unknown key"),
        ("paper: {title: T, reference: R, cases: few}\n", "paper.cases must be a whole number"),
        (PAPER + "factors: {a: [x]}\n", "factors must be crossed"),
        (PAPER.replace("b > a", "b"), "paper.claims must be orderings of two variants or more"),
    ],
)
def test_a_paper_with_a_mistake_is_one_clear_line_and_writes_nothing(
    tmp_path, monkeypatch, yaml, told
):
    table(tmp_path)
    if yaml is None:
        (tmp_path / "paper.yaml").unlink()
    else:
        (tmp_path / "paper.yaml").write_text(yaml)
    with pytest.raises(UserError, match=told):
        run(monkeypatch, tmp_path, "scores.csv", "--paper", "paper.yaml")
    assert not (tmp_path / "judged").exists()


def test_a_studys_params_are_a_paper_file_too(tmp_path, monkeypatch):
    table(tmp_path)
    (tmp_path / "params.yaml").write_text("name: x\nmodels: {}\n" + PAPER)
    run(monkeypatch, tmp_path, "scores.csv", "--paper", "params.yaml")


def test_the_command_ends_with_one_line_for_a_mistake(tmp_path):
    (tmp_path / "x.csv").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.judge", str(tmp_path / "x.csv")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr

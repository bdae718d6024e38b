"""judge/printed.py: claims of a printed table, against the published formula and scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_results import make_results
from scipy import stats

from pipeline.judge import cli
from pipeline.judge.arguments import parse_source
from pipeline.judge.challenge import as_paper, is_scorers
from pipeline.judge.paper_file import PaperFile
from pipeline.judge.printed import (
    USUAL,
    choose_spread,
    claimed,
    false_of_means,
    sensitivity,
    sentences,
    spreads_of,
)
from pipeline.statistics.claims import false_over_cases
from pipeline.study.errors import UserError

ROWS = {
    "a": {"label": "A net", "figures": {"dice": "0.8660"}},
    "b": {"label": "B net", "figures": {"dice": "86.15 %"}},
    "c": {"label": "C net"},
}


def paper(**changes):
    block = {"title": "T", "reference": "R", "cases": 1000, "rows": ROWS, "claims": ["a > c > b"]}
    return PaperFile.model_validate({"paper": block | changes})


def test_over_cases_alone_it_is_what_the_cases_themselves_give():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.1, 200)
    a, b = 0.86 + common + rng.normal(0, 0.05, 200), 0.855 + common + rng.normal(0, 0.05, 200)
    spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    # r such that 2 s^2 (1 - r) is the variance of the differences.
    correlation = 1 - (a - b).var(ddof=1) / (2 * spread**2)
    found = false_of_means(a.mean() - b.mean(), 200, spread, correlation)
    assert found == pytest.approx(false_over_cases(a - b))


def test_a_small_gap_is_nearly_sure_over_cases_and_open_with_seeds():
    """n 1,000, a gap of 0.0045, s 0.12, r 0.8, a run's deviation 0.006, worked out by hand."""
    alone = false_of_means(0.0045, 1000, 0.12, 0.8)
    assert alone == pytest.approx(stats.t.cdf(-0.0045 / np.sqrt(5.76e-6), 999))
    seeds = false_of_means(0.0045, 1000, 0.12, 0.8, 0.006)
    assert seeds == pytest.approx(stats.t.cdf(-0.0045 / np.sqrt(5.76e-6 + 7.2e-5), 999))
    assert (round(alone, 2), round(seeds, 2)) == (0.03, 0.3)
    several = false_of_means(0.0045, 1000, 0.12, 0.8, 0.006, of=10)
    assert alone < several < seeds


def test_means_of_simulated_runs_are_false_as_often_as_told():
    """The gap known without error but for cases and seeds: of claims told p, p are false."""
    rng = np.random.default_rng(1)
    truth = rng.uniform(-0.1, 0.1, 200_000)
    error = np.sqrt(2 * 0.1**2 * (1 - 0.7) / 500 + 2 * 0.01**2)
    gaps = truth + rng.normal(0, error, truth.size)
    for gap in (0.005, 0.015, 0.03):
        near = abs(gaps - gap) < 0.001
        told = false_of_means(gap, 500, 0.1, 0.7, 0.01)
        assert (truth[near] < 0).mean() == pytest.approx(told, abs=0.03)


@pytest.mark.parametrize(("gap", "expected"), [(0.1, 0), (0.0, 0.5), (-0.1, 1)])
def test_without_any_spread_the_gap_is_the_truth(gap, expected):
    assert false_of_means(gap, 10, 0.0, 0.5) == expected


def test_a_claim_is_of_neighbours_with_a_printed_dice():
    (pair,) = claimed(paper(), "p.yaml")
    assert (pair.better, pair.worse, pair.figures) == ("a", "b", ("0.8660", "86.15 %"))
    assert pair.gap == pytest.approx(0.0045)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cases": None}, "p.yaml: paper.cases must be the number of test cases .* got nothing"),
        ({"claims": []}, "p.yaml: paper.claims must have an ordering of two variants with"),
        (
            {"claims": ["a > c"]},
            "paper.claims must have an ordering of two variants with a printed",
        ),
        ({"averaging": "pixels"}, "paper.averaging must not be pixels"),
    ],
)
def test_what_allows_no_probability_is_refused(changes, told):
    with pytest.raises(UserError, match=told):
        claimed(paper(**changes), "p.yaml")


def test_what_the_file_states_goes_before_what_is_measured_and_that_before_what_is_usual():
    assert choose_spread(paper(), None) == USUAL
    results = make_results(seeds=8, ids=[f"c{number}" for number in range(40)], failed={})
    measured = spreads_of(results)
    assert choose_spread(paper(), measured) == measured
    stated = PaperFile.model_validate(paper().model_dump() | {"spreads": {"runs": 0.5}})
    found = choose_spread(stated, measured)
    assert (found.runs, found.of_runs, found.cases) == (0.5, "as stated", measured.cases)


def test_spreads_are_those_of_the_studys_runs():
    results = make_results(["a", "b"], seeds=30, ids=[f"c{n}" for n in range(200)], failed={})
    found = spreads_of(results)
    scores = np.array([list(runs.values()) for runs in results.cases.dice.values()])
    assert found.cases == pytest.approx(scores.std(axis=2, ddof=1).mean())
    assert found.runs == pytest.approx(np.sqrt(scores.mean(axis=2).var(axis=1, ddof=1).mean()))
    assert found.correlation == pytest.approx(np.corrcoef(scores[0, 0], scores[1, 0])[0, 1])
    with pytest.raises(UserError, match="--like must be of a study with two variants at least"):
        spreads_of(make_results(["a"], seeds=8))


def test_a_failed_run_is_no_part_of_the_spread():
    ids = [f"c{number}" for number in range(40)]
    sound = spreads_of(make_results(["a", "b"], seeds=8, ids=ids, failed={}))
    failing = spreads_of(make_results(["a", "b"], seeds=8, ids=ids, failed={"b": [3]}))
    assert failing.runs < 3 * sound.runs


def test_a_reviewer_is_given_the_claim_and_what_it_assumes():
    file = paper(runs=None)
    pairs = claimed(file, "p.yaml")
    told = sentences(pairs, file, USUAL)
    assert told[0] == (
        "T (R) gives each figure on 1,000 test cases, of a number of runs that is not said, which "
        "we take for one."
    )
    assert told[1] == (
        "The claim that A net (0.8660) is better than B net (86.15 %) is, from these figures "
        "alone, false with a probability of 18 % over the test cases, and of 32 % if both networks "
        "were trained anew with other seeds, too."
    )
    assert (
        "standard deviation of 0.197 over cases (of segmentations in arXiv 2511.02453)" in told[2]
    )


def test_the_table_of_assumptions_has_the_assumed_ones_in_it():
    file = paper()
    (pair,) = claimed(file, "p.yaml")
    table = sensitivity(pair, 1, file, choose_spread(file, None))
    assert table.header == ["0", "0.002", "0.004", "0.006", "0.01"]
    assert [row.name for row in table.rows] == ["0.50", "0.60", "0.70", "0.80", "0.90"]
    assert table.rows[2].cells[3].text == "32 %"
    assert table.rows[2].cells[0].text == "18 %"


def scorers(folder, name, dice):
    """What isic-challenge-scoring 5.0.0 writes: `--output json segmentation`."""
    means = {"accuracy": 0.95, "sensitivity": 0.9, "specificity": 0.96, "jaccard": 0.79}
    means |= {"threshold_jaccard": 0.72, "dice": dice}
    content = {"overall": 0.72, "validation": 0.72, "macro_average": means}
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_the_challenges_scorers_files_are_means_of_runs(tmp_path, monkeypatch, capsys):
    for name, dice in (("u0", 0.85), ("u1", 0.87), ("d0", 0.89), ("d1", 0.90)):
        scorers(tmp_path, f"{name}.json", dice)
    monkeypatch.chdir(tmp_path)
    named = ["unet/0=u0.json", "unet/1=u1.json", "deep/0=d0.json", "deep/1=d1.json"]
    sources = [parse_source(text) for text in named]
    assert all(map(is_scorers, sources))
    file = as_paper(sources, 500)
    assert file.paper.values("dice") == {"deep": 0.895, "unet": 0.86}
    assert file.paper.runs == 2
    assert file.spreads.runs == pytest.approx(np.sqrt((0.0002 + 0.00005) / 2))
    monkeypatch.setattr("sys.argv", ["judge", *named, "--cases", "500"])
    cli.main()
    assert "The claim that deep (0.8950) is better than unet (0.8600)" in capsys.readouterr().out
    assert "deep &gt; unet" in (tmp_path / "judged" / "index.html").read_text()


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (["a=x.json"], "must be of two variants or more"),
        (["a/0=x.json", "a/1=x.json", "b=x.json"], r"as many runs each, got runs: a 2, b 1"),
        (["a/0=x.json", "a/0=x.json", "b=x.json"], "a, seed 0 is given twice"),
        (["a=x.json", "b=bad.json"], "macro_average.dice must be a number from 0 to 1, got 86.1"),
    ],
)
def test_scorers_files_that_allow_no_comparison_are_refused(tmp_path, monkeypatch, named, told):
    scorers(tmp_path, "x.json", 0.8)
    scorers(tmp_path, "bad.json", 86.1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        as_paper([parse_source(text) for text in named], 100)


def test_printed_means_give_the_tables_and_a_page(tmp_path, monkeypatch, capsys):
    text = json.dumps({"paper": paper().paper.model_dump(mode="json")})
    (tmp_path / "p.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["judge", "--means", "p.yaml", "--cases", "200"])
    cli.main()
    assert "on 200 test cases" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "judged").iterdir()}
    assert names == {"index.html", "table.csv", "table.md", "table.tex"}
    page = (tmp_path / "judged" / "index.html").read_text()
    assert "How likely is a &gt; b false" in page
    assert "95 % interval" not in page

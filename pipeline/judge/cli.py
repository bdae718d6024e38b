"""The verdict for those who bring a table of scores: no study, no training.

    python -m pipeline.judge scores.csv [--paper paper.yaml] [--baseline unet] [--out judged]
    python -m pipeline.judge --means paper.yaml [--like studies/demo/reports/results.json]

docs/judge.md has the formats, and what is concluded from what.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline.judge.arguments import parse_source
from pipeline.judge.challenge import KIND, as_paper, is_scorers
from pipeline.judge.collect import Asked, judge
from pipeline.judge.formats import read_scores
from pipeline.judge.paper_file import PaperFile, read_paper
from pipeline.judge.printed import STATED, choose_spread, claimed, sentences, spreads_of
from pipeline.judge.publish import publish, publish_means
from pipeline.statistics.results import load_results
from pipeline.study.errors import UserError
from pipeline.study.values import Count, Positive, option, printable, quantity

OUT = Path("judged")
TABLES = ("paper", "metric", "better", "baseline", "margin", "failure_drop")  # options of tables
MEANS = ("like", "cases")  # of printed means


def main() -> None:
    arguments = parse()
    if arguments.means is not None:
        judge_means(arguments)
    else:
        judge_table(arguments)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.judge",
        description="The verdict from a table of scores that other tools wrote, or from the means "
        "that a paper prints. No study, no training. docs/judge.md has the formats.",
    )
    parser.add_argument(
        "table",
        nargs="*",
        help="a file or folder of scores; NAME=path and NAME/SEED=path say which variant and seed "
        "it is, where the file does not",
    )
    parser.add_argument(
        "--paper",
        type=Path,
        metavar="YAML",
        help="a paper's figures and claims, as under paper: in a params.yaml; or that file itself",
    )
    parser.add_argument("--baseline", metavar="NAME", help="the variant to hold the others against")
    parser.add_argument("--metric", metavar="NAME", help="the primary one; default: the Dice")
    parser.add_argument(
        "--better",
        choices=["higher", "lower"],
        help="of the primary metric; default: what its name says",
    )
    parser.add_argument(
        "--margin",
        type=option(Positive),
        help="by which two variants may differ and be called equal; default: 0.005 of a Dice",
    )
    parser.add_argument(
        "--failure-drop",
        type=option(Positive),
        help="Dice by which a failed run lies below its variant's good ones; default: 0.03",
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help=f"where to write; default: {OUT} in this folder"
    )
    parser.add_argument(
        "--means",
        type=Path,
        metavar="YAML",
        help="instead of a table: a paper, of whose printed means each claim's probability to be "
        "false is told",
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="RESULTS_JSON",
        help="of printed means: a study's results.json, whose spreads over cases and seeds hold",
    )
    parser.add_argument(
        "--cases",
        type=option(Count),
        help="of printed means: the test cases behind each, where paper.cases does not tell them",
    )
    given = parser.parse_args(arguments)
    if (given.means is None) == (not given.table):
        parser.error("name a table of scores, or --means with a paper")
    return given


def judge_table(arguments: argparse.Namespace) -> None:
    sources = [parse_source(text) for text in arguments.table]
    if all(is_scorers(source) for source in sources):
        _refuse(arguments, TABLES, f"goes with a table of cases, not with {KIND}")
        if arguments.cases is None:
            raise UserError(
                f"--cases must be the number of test images, which {KIND} does not tell"
            )
        file = as_paper(sources, arguments.cases)
        told_means(file, "the scores", arguments, "measured over these seeds")
        return
    _refuse(arguments, MEANS, "goes with --means, or with " + KIND)
    scores = read_scores(sources)
    paper = None if arguments.paper is None else read_paper(arguments.paper)
    results = judge(
        scores,
        Asked(
            metric=arguments.metric,
            better=arguments.better,
            baseline=arguments.baseline,
            margin=arguments.margin,
            failure_drop=arguments.failure_drop,
        ),
        name=name_of(arguments.table),
        paper=None if paper is None else paper.paper,
        factors=None if paper is None else paper.factors,
    )
    publish(results, arguments.out, [f"Read as {scores.kind}.", *scores.notes])
    print(
        f"judge: {arguments.out / 'index.html'}, "
        f"{quantity(len(results.study.variants), 'variant')}: {results.answer}"
    )


def _refuse(arguments: argparse.Namespace, options: Sequence[str], told: str) -> None:
    """Raise UserError for an option that would do nothing."""
    for name in options:
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} {told}: take it out")


def name_of(tables: Sequence[str]) -> str:
    """The first table's file without ending, or its folder's."""
    path = parse_source(tables[0]).path
    return printable(path.stem if path.suffix else path.resolve().name)


def judge_means(arguments: argparse.Namespace) -> None:
    _refuse(arguments, TABLES, "goes with a table of cases, not with --means")
    file = read_paper(arguments.means)
    if arguments.cases is not None:
        paper = file.paper.model_copy(update={"cases": arguments.cases})
        file = file.model_copy(update={"paper": paper})
    told_means(file, str(arguments.means), arguments)


def told_means(
    file: PaperFile, name: str, arguments: argparse.Namespace, source: str = STATED
) -> None:
    """Of printed means: the claims' probabilities, on the page and printed. source: of the spreads
    in `file`."""
    pairs = claimed(file, name)
    measured = None if arguments.like is None else spreads_of(load_results(arguments.like))
    spread = choose_spread(file, measured, source)
    told = sentences(pairs, file, spread)
    publish_means(pairs, file, spread, told, arguments.out)
    print("\n".join(told))
    print(f"judge: {arguments.out / 'index.html'}")

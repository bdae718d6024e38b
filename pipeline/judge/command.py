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
from pipeline.judge.collect import Asked, judge
from pipeline.judge.formats import read_scores
from pipeline.judge.paper_file import read_paper
from pipeline.judge.publish import publish
from pipeline.study.errors import UserError
from pipeline.study.values import Positive, option, printable, quantity

OUT = Path("judged")


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
        help="with --means: a study's results.json, whose spreads over cases and seeds are taken",
    )
    given = parser.parse_args(arguments)
    if (given.means is None) == (not given.table):
        parser.error("name a table of scores, or --means with a paper")
    if given.like is not None and given.means is None:
        parser.error("--like goes with --means")
    return given


def judge_table(arguments: argparse.Namespace) -> None:
    scores = read_scores([parse_source(text) for text in arguments.table])
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
    told = results.verdict[0] if results.verdict else "nothing to compare"
    print(
        f"judge: {arguments.out / 'index.html'}, "
        f"{quantity(len(results.study.variants), 'variant')}: {told}"
    )


def name_of(tables: Sequence[str]) -> str:
    """The first table's file without ending, or its folder's."""
    path = parse_source(tables[0]).path
    return printable(path.stem if path.suffix else path.resolve().name)


def judge_means(arguments: argparse.Namespace) -> None:
    raise UserError("--means: not yet")

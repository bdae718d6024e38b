"""Has a change made anything worse? Three tiers, and the benchmarks' speed:

    python -m pipeline.gate --tier a        predictions and a tiny training, to the bit
    python -m pipeline.gate --tier b        a stored network's metrics of each case, within 1e-4
    python -m pipeline.gate --baseline studies/demo/baseline.json    a study retrained: tier C
    python -m pipeline.gate --speed benchmark.json --baseline speed.json

`--update-baseline` stores what it is now. pipeline/gate/regression.py says what tier C allows.
Prints a line of verdict and a Markdown table fit for a pull request's comment. Exit status 0: pass;
1: something regressed, or is missing or not finite; 2: no verdict, and why: the two do not compare,
or the gate itself failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.gate import NO_VERDICT, PASSED, REGRESSED
from pipeline.gate.baseline import ON, Baseline, load_figures, save_baseline
from pipeline.gate.regression import ALPHA, FLOOR, Check, alarms, compare_studies, sight
from pipeline.gate.speed import TOLERANCE, compare_speeds, load_speeds, read_benchmarks, save_speeds
from pipeline.reporting.tables import DASH
from pipeline.statistics.definitions import METRICS
from pipeline.study.errors import UserError
from pipeline.study.values import Fraction, NotNegative, escape_markdown, option, quantity

HEADER = ("Compared", "Metric", "Baseline", "Candidate", "Worse by", "Allowed", "Verdict", "")
ALIGNMENT = ("---", "---", "---:", "---:", "---:", "---:", "---", "---")


def main() -> None:
    arguments = parse()
    try:
        if arguments.speed is not None:
            status = gate_speed(arguments)
        elif arguments.tier == "c":
            status = gate_study(arguments)
        else:
            status = gate_code(arguments)
    except UserError as error:
        # On stdout, so that a pull request's comment says it too.
        print(f"**Gate: cannot compare.** {escape_markdown(str(error))}")
        status = NO_VERDICT
    sys.exit(status)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.gate",
        description="Has a change made anything worse? Exit status: 0 pass, 1 regression, 2 cannot "
        "compare.",
    )
    parser.add_argument(
        "--tier",
        choices=["a", "b", "c"],
        default="c",
        help="a: predictions and a tiny training repeat; b: a stored network scores as it did; "
        "c: a study retrained is no worse than its baseline, in a typical run and in how many fail "
        "(default)",
    )
    parser.add_argument(
        "--speed",
        type=Path,
        metavar="BENCHMARK_JSON",
        help="compare the ratios that pytest --benchmark-json wrote, instead of a tier",
    )
    parser.add_argument(
        "--baseline",
        type=Path,
        help="tier c and --speed: what it was, a file that --update-baseline wrote; tier c takes a "
        "results.json too",
    )
    parser.add_argument(
        "--candidate",
        type=Path,
        default=Path("reports/results.json"),
        help="tier c: what it is now; default: %(default)s",
    )
    parser.add_argument(
        "--update-baseline", action="store_true", help="store what it is now, and compare nothing"
    )
    parser.add_argument(
        "--alpha",
        type=option(Fraction),
        default=ALPHA,
        help="tier c: probability that an unharmed change fails; default: %(default)s",
    )
    parser.add_argument(
        "--floor",
        type=option(NotNegative),
        default=FLOOR,
        help="tier c: a typical run worse by no more passes, in the metric's units; default: "
        "%(default)s",
    )
    parser.add_argument(
        "--tolerance",
        type=option(Fraction),
        default=TOLERANCE,
        help="--speed: share of its ratio that a benchmark may lose; default: %(default)s",
    )
    given = parser.parse_args(arguments)
    if given.speed is not None and given.tier != "c":
        parser.error("--speed and --tier are two comparisons: ask for one")
    needed = given.speed is not None or given.tier == "c"
    if needed != (given.baseline is not None):
        parser.error(
            "--baseline is missing"
            if needed
            else "--baseline is for tier c and --speed: tiers a and b have theirs in studies/gate"
        )
    return given


def gate_study(arguments: argparse.Namespace) -> int:
    """Tier C, a retrained study against its baseline; returns the exit status."""
    candidate = load_figures(arguments.candidate)
    if arguments.update_baseline:
        if not candidate.runs or min(_seeds(candidate)) < 2:
            raise UserError(
                f"{arguments.candidate} has fewer than two seeds of a variant: without a deviation "
                "over seeds no later change could be told from luck"
            )
        if missing := candidate.missing():
            told = escape_markdown(", ".join(missing))
            print(f"**Gate: no baseline written.** Missing or not finite: {told}")
            return REGRESSED
        save_baseline(arguments.baseline, candidate)
        runs = quantity(len(candidate.runs), "run")
        print(f"gate: {arguments.baseline} holds the figures of {runs}")
        return PASSED
    baseline = load_figures(arguments.baseline)
    checks = compare_studies(baseline, candidate, alpha=arguments.alpha, floor=arguments.floor)
    found = "; ".join(filter(None, (alarms(checks), sight(checks))))
    return report(f"tier c, study {candidate.study.name}", checks, found)


def _seeds(figures: Baseline) -> list[int]:
    """How many seeds each variant has."""
    return [metrics["dice"].seeds for metrics in figures.spreads.values()]


def gate_code(arguments: argparse.Namespace) -> int:
    """Tiers A and B, the code against what it computed; returns the exit status."""
    from pipeline.gate import frozen  # torch takes seconds; other comparisons need not wait

    if arguments.update_baseline:
        print(f"gate: {frozen.update(arguments.tier)} holds what the code computes now")
        return PASSED
    return report(f"tier {arguments.tier}", frozen.check(arguments.tier))


def gate_speed(arguments: argparse.Namespace) -> int:
    """Benchmarks' ratios against the stored ones; returns the exit status."""
    found = read_benchmarks(arguments.speed)
    if arguments.update_baseline:
        save_speeds(arguments.baseline, found)
        print(f"gate: {arguments.baseline} holds {quantity(len(found.ratios), 'ratio')}")
        return PASSED
    stored = load_speeds(arguments.baseline)
    return report("speed", compare_speeds(stored, found, arguments.tolerance))


def report(what: str, checks: Sequence[Check], found: str = "") -> int:
    """Print the verdict, what was `found` and would be seen, and the table of `checks`; returns the
    exit status."""
    if not checks:
        raise UserError(
            f"nothing is stored to compare with ({what}): write it anew with --update-baseline"
        )
    failed = sum(not check.passed for check in checks)
    verdict = f"{failed} of {len(checks)} regressed" if failed else f"all {len(checks)} pass"
    words = f": {escape_markdown(found)}" if found else ""
    print(f"**Gate: {verdict}** ({escape_markdown(what)}){words}\n")
    print(markdown_table(checks))
    return REGRESSED if failed else PASSED


# What a reader calls a part of tiers A and B, and the columns of a training that are no metric.
SUBJECTS = {
    "predictions": "drawn predictions",
    "untrained": "a network before its training",
    "training": "a training",
    "scheduled": "a training with schedule, decay and clipping",
    "stopped": "a training that stops early",
    "frozen": "a training with a frozen encoder",
    "checkpoint": "the stored network",
}
SPLITS = {"train_": "training", "validation_": "validation", "test_": "test"}
COLUMNS = {
    "loss": "Loss",
    "bce": "BCE",
    "dice_loss": "Dice loss",
    "pooled_iou": "Pooled IoU",
    "learning_rate": "Learning rate",
    "encoder_learning_rate": "Encoder's learning rate",
    "dice_by_threshold": "Dice by threshold",
    "cases": "Cases",
    "both_empty": "Cases without a lesion in both",
}


def in_words(metric: str) -> str:
    """`Dice`, `Dice on ham10000`, `Dice, validation`, `BCE, training`; else the metric as it is."""
    name, on, others = metric.partition(ON)
    label = METRICS[name].label if name in METRICS else COLUMNS.get(name)
    if label is not None:
        return label + on + others
    for prefix, split in SPLITS.items():
        if metric.startswith(prefix):
            return f"{in_words(metric.removeprefix(prefix))}, {split}"
    return metric


def markdown_table(checks: Sequence[Check]) -> str:
    """A row a check, in the order given."""
    lines: list[Sequence[str]] = [HEADER, ALIGNMENT]
    for check in checks:
        lines.append(
            (
                escape_markdown(SUBJECTS.get(check.subject, check.subject)),
                escape_markdown(in_words(check.metric)),
                *map(_number, (check.baseline, check.candidate, check.worse_by, check.allowed)),
                "pass" if check.passed else "**FAIL**",
                escape_markdown(check.note),
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"

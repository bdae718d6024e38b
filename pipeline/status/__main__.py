"""What the runs of a study are at: `python -m pipeline.status [study]`

It reads files alone and changes none, so it can be asked at any time, and answers in a second.
With --estimate it trains each variant for some steps and tells what the study would take here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.status.overview import (
    RunStatus,
    counts,
    disk_use,
    look,
    progress,
    scored_on_sets,
    table,
)
from pipeline.status.remaining import Remaining, remaining
from pipeline.study.errors import run_command
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.study.values import quantity

if TYPE_CHECKING:
    from pipeline.status.trial import Estimate


def main() -> None:
    arguments = parse()
    study = load_study(arguments.study)
    if not study.prepared_dir.is_dir():
        study.check_own_cases()
    runs = look(study)
    estimate = None
    if arguments.estimate:
        study.check_inputs()
        from pipeline.status.trial import estimate_study  # with torch: seconds

        estimate = estimate_study(study)
    left = remaining(runs, {name: study.of(name).train.epochs for name in study.variants})
    if arguments.json:
        print(json.dumps(as_json(study, runs, left, estimate), indent=2))
    else:
        print("\n".join(describe(study, runs, left, estimate)))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.status",
        description="What each run of a study is at, and how long the rest will take.",
    )
    parser.add_argument(
        "study", type=Path, nargs="?", default=Path(), help="the study's folder; default: this one"
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="train each variant for some steps, up to a minute each, and tell what all runs would "
        "take on this machine and what their number can show",
    )
    parser.add_argument("--json", action="store_true", help="the same for scripts")
    return parser.parse_args(arguments)


def describe(
    study: Study, runs: Sequence[RunStatus], left: Remaining, estimate: Estimate | None
) -> list[str]:
    """The lines to print."""
    states = ", ".join(f"{number} {state}" for state, number in counts(runs).items())
    lines = [f"Study {study.name}, {quantity(len(runs), 'run')}: {states}", "", table(study, runs)]
    lines += ["", *_told(study, runs)]
    if any(run.state != "done" for run in runs):
        lines += _time_left(left) if estimate is None else []
    lines += _changes(runs)
    lines += [
        f"On {name}: {scored} of {quantity(len(runs), 'run')} scored"
        for name, scored in scored_on_sets(study).items()
    ]
    if estimate is not None:
        lines += _estimate(study, estimate)
    used = disk_use(study)
    parts = ", ".join(f"{part} {_bytes(size)}" for part, size in used.items())
    lines.append(f"Disk: {_bytes(sum(used.values()))}" + (f" ({parts})" if len(used) > 1 else ""))
    return [line for line, after in zip(lines, [*lines[1:], "."], strict=True) if line or after]


def _told(study: Study, runs: Sequence[RunStatus]) -> list[str]:
    """A line a run that is not done and not waiting."""
    lines = []
    for found in runs:
        name = study.label(found.run)
        at = "" if found.epoch is None else f" in epoch {found.epoch} of {found.epochs}"
        if found.state == "running":
            lines.append(f"running: {name}: {progress(found)}")
        elif found.state == "evaluating":
            lines.append(f"evaluating: {name}")
        elif found.state == "interrupted":
            lines.append(f"interrupted: {name}{at}; run again, and it goes on")
        elif found.state == "failed":
            lines.append(f"failed: {name}{at}: {found.error}")
    return lines


def _time_left(left: Remaining) -> list[str]:
    if left.seconds is None:
        return ["Time left: not known before a training has begun; --estimate tries it"]
    told = f"Time left: about {duration(left.seconds / left.at_once)}"
    if left.at_once > 1:
        told += f" with {left.at_once} runs at once"
    lines = [told]
    if left.unknown:
        lines.append(f"  counted as the others, for none has begun: {', '.join(left.unknown)}")
    if not left.evaluated:
        lines.append("  evaluations come on top: none is finished")
    return lines


def _changes(runs: Sequence[RunStatus]) -> list[str]:
    """Of which runs DVC would repeat what is finished, by what they say they are made of."""
    stale = [run for run in runs if run.changed]
    if not stale:
        return []
    names = list(dict.fromkeys(name for run in stale for name in run.changed))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [
        f"Out of date: {quantity(len(stale), 'run')}, of which DVC will repeat the training or the "
        f"evaluation, because of {', '.join(names[:3])}{more}"
    ]


def _estimate(study: Study, estimate: Estimate) -> list[str]:
    longest = max(map(len, estimate.seconds))
    lines = [
        f"{name:{longest}}  {duration(seconds)} a run" for name, seconds in estimate.seconds.items()
    ]
    number = len(study.runs())
    lines.append(f"{quantity(number, 'run')}, about {duration(estimate.total)} here, one at a time")
    if estimate.cases == "random":
        lines.append("Cases are not prepared yet: tried on random ones, and on as many as expected")
    seeds = len(study.seeds)
    if estimate.detectable is None:
        lines.append(f"{quantity(seeds, 'seed')} can only describe: see docs/verdict.md")
    else:
        lines.append(
            f"{seeds} seeds can show a difference of {estimate.detectable:.3f} Dice in 80 % of "
            f"studies, if a variant's runs differ by {estimate.deviation:.4f} (standard deviation "
            "over seeds: resunet's on real cases, the smallest seen there)"
        )
    return lines


def as_json(
    study: Study, runs: Sequence[RunStatus], left: Remaining, estimate: Estimate | None
) -> dict[str, Any]:
    """For --json: seconds and bytes; null where a figure is not known."""
    return {
        "study": study.name,
        "counts": counts(runs),
        "runs": [
            {**found.run._asdict(), **{k: v for k, v in asdict(found).items() if k != "run"}}
            for found in runs
        ],
        "seconds_left": None if left.seconds is None else left.seconds / left.at_once,
        "runs_at_once": left.at_once,
        "bytes": disk_use(study),
        "estimate": None if estimate is None else estimate._asdict(),
    }


def duration(seconds: float) -> str:
    if seconds < 90:
        return quantity(round(seconds), "second")
    if seconds < 90 * 60:
        return quantity(round(seconds / 60), "minute")
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 10 else f"{hours:.0f} hours"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


if __name__ == "__main__":
    run_command(main)

"""Whether a variant's network does all that a study asks of it:

python -m pipeline.check_network <study> <variant>
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.deployment.contract import Subject, check
from pipeline.study.errors import UserError, run_command
from pipeline.study.reading import load_study

VERDICTS = {True: "passed", False: "FAILED", None: "not checked"}


def main() -> None:
    arguments = parse()
    study = load_study(arguments.study)
    if arguments.variant not in study.models:
        raise UserError(
            f"{arguments.study / 'params.yaml'}: variant must be one of models "
            f"({', '.join(study.models)}), got {arguments.variant!r}"
        )
    study.check_inputs()
    subject = Subject(
        study.models[arguments.variant],
        study.prepare.size,
        study.of(arguments.variant).train.batch_size,
    )
    failed = 0
    for found in check(subject):
        print(f"{found.name:18} {VERDICTS[found.passed]:11} {found.told}", flush=True)
        failed += found.passed is False
    if failed:
        print(f"{arguments.variant}: {failed} to be mended", file=sys.stderr)
        sys.exit(1)
    print(f"{arguments.variant}: ready for {arguments.study}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.check_network",
        description="Check a variant's network before it is trained. Exit status 1: something is "
        "to be mended.",
    )
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("variant", help="an entry under models in its params.yaml")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)

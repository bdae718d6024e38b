"""Stages in a checkout whose inputs and outputs travel through DVC's default remote.

`python -m pipeline.fanout.away <stage> ...` in the study's folder; fanout/worker.py runs it. As
`dvc repro --single-item --pull <stage> ...; dvc push --run-cache <the last stage>`, without the
seconds of starting DVC twice.
"""

from __future__ import annotations

import sys

from pipeline.study.errors import UserError, run_command


def main() -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    stages = sys.argv[1:]
    try:
        repo = Repo()
        repo.reproduce(stages, single_item=True, pull=True)
        repo.push(targets=stages[-1:], run_cache=True)
    except DvcException as error:
        raise UserError(f"DVC: {error}: {error.__cause__ or ''}") from None


if __name__ == "__main__":
    run_command(main)

"""Stages in a checkout whose inputs and outputs travel through DVC's default remote.

`python -m pipeline.fanout.away <stage> ...` in the study's folder; fanout/worker.py runs it. As
`dvc repro --single-item --pull <stage> ...; dvc push --run-cache <the last stage>`, without the
seconds of starting DVC twice, and without all that concerns other stages: dvc.lock and the graph
are not needed here.
"""

from __future__ import annotations

import sys

from pipeline.fanout import run_cache
from pipeline.study.errors import UserError, run_command


def main() -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    try:
        repo = Repo()
        with lock_repo(repo):
            for name in sys.argv[1:]:
                stage = repo.stage.load_one(name=name)
                if missing := [dep.def_path for dep in stage.deps if not dep.exists]:
                    repo.pull(missing)
                run_cache.ask(stage)
                run_cache.fetch(stage)
                stage.run(pull=True)  # takes them from the run-cache, if they are there
            run_cache.push(stage)
    except DvcException as error:
        raise UserError(f"DVC: {error}: {error.__cause__ or ''}") from None


if __name__ == "__main__":
    run_command(main)

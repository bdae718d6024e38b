"""Every stage of a study in one process, without DVC: it spares the imports of twenty.

    python tests/helpers/finished_study.py studies/demo

Sources and packages are found as by `python -m pipeline.<stage>`, so PYTHONPATH names the sources.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module


def main(folder: str) -> None:
    os.chdir(folder)
    from pipeline.study.reading import load_study

    runs = [tuple(map(str, run)) for run in load_study().runs()]
    stages: list[tuple[str, tuple[str, ...]]] = [("download", ()), ("preprocess", ())]
    stages += [(stage, run) for run in runs for stage in ("train", "evaluate")]
    stages += [
        (stage, ())
        for stage in ("average", "export_variants", "compare", "attention", "plot", "report")
    ]
    for stage, arguments in stages:
        sys.argv = [stage, *arguments]
        import_module(f"pipeline.{stage}").main()


if __name__ == "__main__":
    main(sys.argv[1])

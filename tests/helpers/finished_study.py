"""Every stage of a study in one process, without DVC: it spares the imports of twenty.

    python tests/helpers/finished_study.py <study's folder> [last stage]

Sources and packages are found as by `python -m pipeline.<stage>`, so PYTHONPATH names the sources.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

AFTER_RUNS = ("average", "export_variants", "compare", "attention", "plot", "report")


def main(folder: str, last: str = AFTER_RUNS[-1]) -> None:
    os.chdir(folder)
    from pipeline.study.reading import load_study
    from pipeline.study.stages import read_stage

    study = load_study()
    runs = [tuple(map(str, run)) for run in study.runs()]
    first = (str(study.seeds[0]), str(study.folds[0]))
    items = {
        "average": [(variant,) for variant in study.variants],
        "export_variants": [(variant, *first) for variant in study.export],
    }
    stages: list[tuple[str, ...]] = [("download",), ("preprocess",), ("describe_networks",)]
    for each in study.evaluate.external:
        settings = (f"--raw={each.raw}", f"--on_problem={each.on_problem}")
        stages.append(("preprocess", f"--name={each.name}", *settings))
    stages += [(stage, *run) for run in runs for stage in ("train", "evaluate")]
    names = [each.name for each in study.evaluate.external]
    stages += [("evaluate", f"--external={name}", *run) for name in names for run in runs]
    for stage in AFTER_RUNS[: AFTER_RUNS.index(last) + 1]:
        stages += [(stage, *item) for item in items.get(stage, [()])]
    for command in read_stage("folders")["cmd"]:
        subprocess.run(command, shell=True, check=True)
    for stage in stages:
        sys.argv = list(stage)
        given = [stage[1:]] if stage[0] == "preprocess" else []
        import_module(f"pipeline.{stage[0]}").main(*given)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Bring MLflow's store level with a study's run folders: `python -m pipeline.tracking sync`"""

from __future__ import annotations

import argparse

from pipeline.study.errors import run_command
from pipeline.study.reading import load_study
from pipeline.study.stages import at_stage
from pipeline.tracking.connection import faults_told
from pipeline.tracking.sync import sync


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "command", choices=["sync"], help="record the study's runs in MLflow's store"
    )
    parser.parse_args()
    study = load_study()
    again = (
        "; the runs are in their folders: run `python -m pipeline.tracking sync` again when it is "
        "back"
    )
    with faults_told(again), at_stage(study, "track"):
        recorded, unchanged = sync(study)
    print(f"tracking: {recorded} runs recorded, {unchanged} already there, study {study.name}")


if __name__ == "__main__":
    run_command(main)

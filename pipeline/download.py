"""Stage 1: put the raw cases in place, in the official folder layout.

`isic2018` fetches the official archives, `synthetic` draws lesions, `directory` reads what the user
has. Writes data/source.json: what the source was and which cases it has.
"""

from __future__ import annotations

from pipeline.data.sources import describe, raw_in_place
from pipeline.study.errors import run_command
from pipeline.study.files import write_json
from pipeline.study.reading import load_study
from pipeline.study.stages import at_stage


def main() -> None:
    study = load_study()
    study.check_inputs()
    study.check_exports()
    with raw_in_place(study), at_stage(study, "download"):
        write_json(study.source_file, describe(study))
    print(f"download: {study.data.source} cases in {study.raw_dir}")


if __name__ == "__main__":
    run_command(main)

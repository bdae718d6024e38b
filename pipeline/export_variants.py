"""Stage export: the network of one run of a variant, for use without this project.

`python -m pipeline.export_variants <variant> <seed> [fold]`; DVC asks for the first seed and fold
of each variant of `export` in params.yaml.

reports/exported/<variant>/ has model.onnx, model.pt2 and export.json, as
pipeline/deployment/graphs.py makes them; the report has their cards.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.study.errors import run_command
from pipeline.study.files import replacing
from pipeline.study.params import Run, Study
from pipeline.study.reading import load_study, parse_run
from pipeline.study.stages import at_stage


def main() -> None:
    study = load_study()
    run = parse_run(study)
    folder = study.exported_dir / run.variant
    with (
        at_stage(study, "export", run, variant=run.variant, networks=[run.variant]),
        replacing(folder) as temporary,
    ):
        temporary.mkdir()
        export_run(study, run, temporary)
    print(f"export: {study.label(run)} in {folder}")


def export_run(study: Study, run: Run, folder: Path) -> None:
    """Raises UserError without the packages of [export], for a run that is not there, and for an
    export that does not compute what the network does."""
    from pipeline.deployment.graphs import export  # with torch: seconds
    from pipeline.deployment.loading import open_run
    from pipeline.deployment.measurements import save_exported

    save_exported(folder / "export.json", export(open_run(study.run_dir(*run)), folder))


if __name__ == "__main__":
    run_command(main)

"""Stage export: the networks of `export` in params.yaml, for use without this project.

reports/exported/<variant>/ has model.onnx, model.pt2 and export.json of the variant's network of
the first seed and fold, as pipeline/deployment/graphs.py makes them; the report has their cards.
Without any variant there is a list of none, and nothing is imported for it.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.study.errors import run_command
from pipeline.study.files import replacing, write_json
from pipeline.study.params import Study
from pipeline.study.reading import load_study
from pipeline.study.stages import at_stage


def main() -> None:
    study = load_study()
    networks = study.export
    with at_stage(study, "export", networks=networks), replacing(study.exported_dir) as folder:
        folder.mkdir()
        write_json(folder / "variants.json", study.export)  # DVC warns of an empty folder
        if study.export:
            export_variants(study, folder)
    if study.export:
        print(f"export: {', '.join(study.export)} in {study.exported_dir}")
    else:
        print("export: nothing to export, params.yaml names no variant under export")


def export_variants(study: Study, folder: Path) -> None:
    """Raises UserError without the packages of [export], for a run that is not there, and for an
    export that does not compute what the network does."""
    from pipeline.deployment.graphs import export  # with torch: seconds
    from pipeline.deployment.loading import open_run
    from pipeline.deployment.measurements import save_exported

    for variant in study.export:
        out = folder / variant
        out.mkdir()
        run = open_run(study.run_dir(variant, study.seeds[0], study.folds[0]))
        save_exported(out / "export.json", export(run, out))


if __name__ == "__main__":
    run_command(main)

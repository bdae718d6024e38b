"""Stage attention: draw where each network looks, on the same cases (the paper's figures 7 and 8).

Apart from the stage plot because it computes the maps: it needs torch and the weights.
"""

from __future__ import annotations

import matplotlib as mpl

from pipeline.data import slices
from pipeline.engine.compute import make_deterministic
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting.heatmaps import draw_attention
from pipeline.reporting.stage_maps import attention_of_run
from pipeline.reporting.style import STYLE, as_pictures, save, save_webp
from pipeline.statistics.results import Results, open_results
from pipeline.statistics.runs import test_ids
from pipeline.statistics.scores import disputed_cases, example_cases
from pipeline.study.errors import run_command
from pipeline.study.files import replacing
from pipeline.study.params import Study
from pipeline.study.reading import load_study, wants_partial
from pipeline.study.stages import at_stage
from pipeline.study.values import quantity

DISPUTED = 2  # cases on which variants disagree, beside a best, a median and a worst one


def main(partial: bool = False) -> None:
    whole = load_study()
    with at_stage(whole, "attention", networks=whole.variants, partial=partial):
        study, results = open_results(whole, partial)
        drawn = draw(study, results)
    print(
        f"attention: maps of {quantity(drawn, 'variant')} in {study.reports_dir / 'attention'}, of "
        "each variant's first seed"
    )


def draw(study: Study, results: Results) -> int:
    """Draw the maps of each variant that has any; returns how many have."""
    cases = PreparedCases.open(study.prepared_dir)
    ids = chosen_cases(study, cases, results)
    positions = {id: place for place, id in enumerate(cases.table["id"])}
    places = [positions[id] for id in ids]
    images, pictures = cases.images[places], as_pictures(cases)
    shown = [slices.largest(cases.masks[place]) for place in places if cases.masks.ndim == 4]
    make_deterministic()
    drawn = 0
    with mpl.rc_context(STYLE), replacing(study.reports_dir / "attention") as folder:
        folder.mkdir()
        for variant in study.variants:
            run_dir = study.run_dir(variant, study.seeds_of(variant)[0], study.folds[0])
            weights = run_dir / "weights.safetensors"
            stages = attention_of_run(study.models[variant], weights, images, shown)
            figure = draw_attention(stages, ids, pictures, study.prepare.resize)
            if figure is not None:
                save(figure, folder / variant, photographs=True)
                save_webp(figure, folder / f"{variant}.webp")
                drawn += 1
    return drawn


def chosen_cases(study: Study, cases: PreparedCases, results: Results) -> list[str]:
    """A best, a median and a worst case and disputed ones, of those that the first fold tests."""
    scores = results.scores()
    scores = scores[scores["id"].isin(test_ids(cases, study.folds[0]))]
    chosen = [*example_cases(scores, each=1), *disputed_cases(scores, DISPUTED)]
    return list(dict.fromkeys(case.id for case in chosen))


if __name__ == "__main__":
    run_command(lambda: main(wants_partial("Draw where each network looks.")))

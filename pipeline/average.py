"""Stage average: score a variant's averaged probabilities, beside the single networks'.

`python -m pipeline.average <variant>`

reports/averaged/<variant>.csv: what `averaging` in params.yaml asks for, a row a test case:
variant, averaging, seed (empty for the ensemble of all), fold, id, metrics.PIXEL_METRICS at the
network's size. Surface metrics, which take a core 35 ms a case of 256x256 pixels, and the
originals' size are left out.
Without anything to average the table has its header alone, and torch is not imported.
"""

from __future__ import annotations

import pandas as pd
from tqdm import tqdm

from pipeline.evaluation.metrics import PIXEL_METRICS
from pipeline.statistics.runs import AVERAGE_KEYS, averages
from pipeline.study.errors import run_command
from pipeline.study.files import replacing
from pipeline.study.params import Study
from pipeline.study.reading import load_study, parse_variant
from pipeline.study.stages import at_stage
from pipeline.study.values import quantity

COLUMNS = [*AVERAGE_KEYS, *PIXEL_METRICS]


def main() -> None:
    study = load_study()
    variant = parse_variant(study)
    file, networks = study.averaged_file(variant), [variant] if study.averaging else []
    with at_stage(study, "average", variant=variant, networks=networks):
        table = score_averages(study, variant) if networks else pd.DataFrame(columns=COLUMNS)
        with replacing(file) as temporary:
            table.to_csv(temporary, index=False)
    print(
        f"average: {file}: {', '.join(study.averaging) or 'nothing is averaged'}, "
        f"{quantity(len(table), 'row')}"
    )


def score_averages(study: Study, variant: str) -> pd.DataFrame:
    """Every test case of each of `averages`, in their order."""
    from pipeline.deployment.ensemble import Averaged  # with torch: seconds
    from pipeline.engine.compute import choose_device, make_deterministic
    from pipeline.engine.prepared import PreparedCases
    from pipeline.engine.weights import load_model
    from pipeline.evaluation.inference import forward, score

    make_deterministic()
    device, tables = choose_device(), []
    for average in tqdm(averages(study), "average", unit="network", disable=None):
        averaging, seeds, fold = average
        cases = PreparedCases.open(study.prepared_dir, fold)
        networks = [
            load_model(
                study.models[variant],
                study.run_dir(variant, seed, fold) / "weights.safetensors",
                device,
            )
            for seed in seeds
        ]
        model = Averaged(networks, flips=averaging != "seeds")
        scored = [
            score(logits, targets, study).table
            for logits, targets in forward(model, cases, "test", study.evaluate)
        ]
        table = pd.concat(scored, ignore_index=True).assign(
            variant=variant,
            averaging=averaging,
            seed=pd.array([average.seed] * sum(map(len, scored)), dtype="Int64"),
            fold=fold,
            id=cases.table["id"].iloc[cases.indices("test")].to_numpy(),
        )
        tables.append(table[COLUMNS])
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    run_command(main)

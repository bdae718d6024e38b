"""The ISIC challenge's scorer's JSON: a run's means over all images, and no score of a case.

Source: isic-challenge-scoring 5.0.0, `isic-challenge-scoring --output json segmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic_core import from_json

from pipeline.judge.arguments import Source, printed
from pipeline.judge.paper_file import PaperFile, Spreads
from pipeline.study.errors import UserError
from pipeline.study.paper import Paper, PaperRow
from pipeline.study.values import shown

KIND = "the ISIC challenge's scorer's JSON"
MEANS = "macro_average"  # the key of the means over images
DECIMALS = 4


def is_scorers(source: Source) -> bool:
    """Whether it is a file that the scorer wrote; what cannot be read is none."""
    return _content(source) is not None


def _content(source: Source) -> dict[str, Any] | None:
    try:
        content = from_json(source.path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get(MEANS), dict) else None


def as_paper(sources: Sequence[Source], cases: int | None) -> PaperFile:
    """The runs' Dice as a printed table: a row a variant, the mean over its seeds; with several
    seeds the standard deviation of a run is measured. Claims: the order found.

    Raises UserError for a file without a finite Dice, a run that is given twice, one variant alone,
    and variants of unequal numbers of runs.
    """
    runs: dict[str, dict[int, float]] = {}
    for source in sources:
        variant = source.variant or source.path.stem
        if ">" in variant:  # an ordering could not be told from a name
            raise UserError(f"{shown(variant)}: a variant's name must have no >; name it otherwise")
        own = runs.setdefault(variant, {})
        seed = len(own) if source.seed is None else source.seed
        if seed in own:
            raise UserError(
                f"{printed(source.path)}: {variant}, seed {seed} is given twice; name each run "
                "once, NAME/SEED=path"
            )
        own[seed] = _dice(source)
    numbers = {len(own) for own in runs.values()}
    if len(runs) < 2 or len(numbers) > 1:
        told = ", ".join(f"{name} {len(own)}" for name, own in runs.items())
        raise UserError(
            f"{KIND}: must be of two variants or more with as many runs each, got runs: {told}; "
            "name them NAME=path or NAME/SEED=path"
        )
    means = {name: float(np.mean(list(own.values()))) for name, own in runs.items()}
    order = sorted(means, key=lambda name: -means[name])
    number = numbers.pop()
    deviation = None
    if number > 1:
        variances = [np.var(list(own.values()), ddof=1) for own in runs.values()]
        deviation = float(np.sqrt(np.mean(variances)))
    paper = Paper(
        title="The ISIC challenge's scorer",
        reference="isic-challenge-scoring",
        averaging="cases",
        cases=cases,
        runs=number,
        rows={
            name: PaperRow(label=name, figures={"dice": f"{means[name]:.{DECIMALS}f}"})
            for name in order
        },
        claims=[" > ".join(order)],
    )
    return PaperFile(paper=paper, spreads=Spreads(runs=deviation))


def _dice(source: Source) -> float:
    content = _content(source)
    dice = None if content is None else content[MEANS].get("dice")
    if not isinstance(dice, float | int) or not 0 <= dice <= 1:
        raise UserError(
            f"{printed(source.path)}: {MEANS}.dice must be a number from 0 to 1, got "
            f"{shown(dice)}; score the images anew"
        )
    return float(dice)

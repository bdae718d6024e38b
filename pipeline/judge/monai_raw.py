"""MONAI's raw metrics: a file a metric, a row a case, a column a class and their mean.

`MetricsSaver` and `write_metrics_reports` write them as `<metric>_raw.csv`. Source of the form:
https://docs.monai.io/en/stable/handlers.html
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.judge.arguments import Source
from pipeline.judge.assembly import (
    KEYS,
    Scores,
    check_cases,
    finish,
    join_metrics,
    naming_note,
    part_of,
    put_together,
)
from pipeline.judge.cases import name_cases
from pipeline.judge.delimited import Columns, numbers, texts
from pipeline.study.errors import UserError
from pipeline.study.values import printable, shown

KIND = "MONAI's raw metrics"
FILENAME, MEAN = "filename", "mean"


def is_raw(header: Sequence[str]) -> bool:
    """Whether these are the names of its columns: the file, a class at least, the mean."""
    return len(header) > 2 and (header[0], header[-1]) == (FILENAME, MEAN)


def read_raw(files: Sequence[tuple[Source, Columns]]) -> Scores:
    """Several files of one folder are several metrics of one run. A metric has its file's name.

    Raises UserError for text where numbers are expected, a case twice, and files of one run that do
    not score the same cases.
    """
    filenames = [texts(columns, FILENAME) for _, columns in files]
    parts = []
    notes = naming_note([source for source, _ in files])
    for (source, columns), cases in zip(files, name_cases(filenames), strict=True):
        check_cases(columns.file, cases)
        metric = printable(source.path.stem.removesuffix("_raw"))
        if not metric or metric in KEYS:
            raise UserError(
                f"{columns.file}: a metric has its file's name, got {shown(metric)}; rename the "
                "file, such as to mean_dice_raw.csv"
            )
        classes = [name for name in columns.names if name not in (FILENAME, MEAN)]
        table = pd.DataFrame({"case": cases})
        if len(classes) == 1:  # the mean is the same
            table[metric] = numbers(columns, classes[0])
        else:
            for name in [*classes, MEAN]:
                table[f"{metric} ({name})"] = numbers(columns, name)
            notes.append(
                f"{metric} is of {len(classes)} classes; the file does not tell whether "
                f"{classes[0]} is the background."
            )
        if cases == [str(number) for number in range(len(cases))]:
            notes.append(f"{columns.file} numbers its cases: each is told by its place alone.")
        parts.append(part_of(source, table))
    runs = join_metrics(parts)
    table, together = put_together(runs)
    metrics = list(runs[0].table.columns[1:])
    return finish(table, metrics, KIND, [*dict.fromkeys(notes), *together])

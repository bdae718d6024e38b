"""The page's order of questions: which table and which figure answers which, and what is folded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.reporting.inlined import InlineFigure
from pipeline.reporting.tables import Table

# Section -> its question; the first one is the study's own (statistics/verdict.py).
QUESTIONS = {
    "answer": "",
    "differences": "By how much?",
    "settings": "Does it hold at other settings?",
    "elsewhere": "Does it hold on other cases?",
    "failures": "Where does it fail?",
    "probabilities": "Can its probabilities be trusted?",
    "cost": "What does it cost?",
    "data": "What data?",
    "protocol": "What protocol?",
    "readings": "What was read into the paper?",
    "table": "How was the table read?",
    "definitions": "What do the words mean?",
}

# What answers each, in its order: the part, its title (None: the figure's own, or of a table its
# caption's beginning), and whether it is folded, as those are that repeat a figure.
PARTS: dict[str, list[tuple[str, str | None, bool]]] = {
    "answer": [
        ("table-comparison", "Every variant", False),
        ("table-claims", "The paper's claims", False),
        ("table-paper", "The paper's figures", True),
        ("table-secondary", "Other metrics", True),
        ("table-native", "At the originals' size", True),
    ],
    "differences": [
        ("figure-forest", None, False),
        ("table-effects", "What each factor changes", False),
        ("table-pairs", "Every two variants, as a table", True),
        ("table-averaging", "Averaged probabilities", True),
        ("figure-ranks", None, True),
        ("figure-ordering", None, True),
        ("figure-variance", None, True),
    ],
    "settings": [
        ("figure-settings", None, False),
        ("table-tuned", None, False),
        ("table-settings", None, True),
    ],
    "elsewhere": [
        ("table-external", None, False),
        ("table-agreement", None, True),
    ],
    "failures": [
        ("table-failures", "Runs that failed", False),
        ("figure-examples", None, False),
        ("table-subgroups", None, True),
        ("figure-disputed", None, True),
        ("figure-dice_by_case", None, True),
    ],
    "probabilities": [
        ("figure-reliability", None, False),
        ("table-boundary", "Borders and probabilities", False),
        ("figure-thresholds", None, True),
        ("table-thresholds", "Thresholds, as a table", True),
    ],
    "cost": [
        ("figure-cost", None, False),
        ("table-cost", "Parameters, time and memory", False),
    ],
    "protocol": [
        ("figure-validation_dice", None, True),
        ("figure-loss_curves", None, True),
    ],
}


@dataclass(frozen=True)
class Shown:
    """A table or a figure of a section."""

    id: str
    title: str
    folded: bool
    table: Table | None = None
    figure: InlineFigure | None = None


@dataclass(frozen=True)
class Section:
    """A question and what answers it."""

    key: str
    title: str
    shown: list[Shown] = field(default_factory=list)


def sections(
    question: str,
    tables: Sequence[Table],
    figures: Mapping[str, InlineFigure],
    others: Collection[str],
) -> list[Section]:
    """Those that have something to show, in their order; figures: by the name of their file.
    others: sections that the page fills otherwise. A table of no section stands in the first."""
    parts: dict[str, list[Table | InlineFigure]] = {}
    for name, figure in figures.items():
        parts[f"figure-{name}"] = [figure]
    known = {part for listed in PARTS.values() for part, _, _ in listed}
    for table in tables:
        part = f"table-{table.key.partition('-')[0]}"
        parts.setdefault(part if part in known else "table-", []).append(table)
    found = []
    for key, title in (QUESTIONS | {"answer": question}).items():
        listed = PARTS.get(key, [])
        if key == "answer":
            listed = [*listed, ("table-", None, False)]
        shown = [
            _shown(each, title_of, folded)
            for part, title_of, folded in listed
            for each in parts.get(part, [])
        ]
        if shown or key == "answer" or key in others:
            found.append(Section(key, title, shown))
    return found


def _shown(part: Table | InlineFigure, title: str | None, folded: bool) -> Shown:
    if isinstance(part, Table):
        named = title or re.split("[.:]", part.caption)[0]
        return Shown(f"table-{part.key}", named, folded, table=part)
    return Shown(f"figure-{part.name}", title or part.title, folded, figure=part)

"""A paper as data, under `paper:` in params.yaml: what it prints, claims, and leaves open.

What a paper does not say may be left out of its block: no other default stands behind it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, combinations
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from pipeline.study.blocks import Block
from pipeline.study.values import Count, Printed, expect, unique

DiceAveraging = Literal["cases", "pixels"]
Factor = Annotated[str, Field(min_length=1), expect("a name that is not empty")]
Factors = dict[str, Annotated[list[Factor], AfterValidator(unique)]]

# What every protocol decides, and a paper may leave open; beside these the keys of networks.
TOPICS = ("optimisation", "select", "split", "resize", "focal", "averaging", "seeds", "failures")


class PaperRow(Block):
    """A row of the paper's table. `label`: its name there. `figures`: of each metric that it
    prints, in quotes and as printed: the decimals say how far it was rounded."""

    label: str
    figures: dict[str, Printed] = Field(default_factory=dict)


class Paper(Block):
    """What a paper says of the study's variants.

    `averaging`: of its Dice, each case's (`cases`) or that of all pixels together (`pixels`);
    null where it does not say. `cases`, `runs`: test cases and runs behind a row, likewise. `rows`:
    by variant. `claims`: orderings of variants by Dice, best first, such as `a > b`. `leaves_open`:
    a choice -> what the paper says of it."""

    title: str
    reference: str
    averaging: DiceAveraging | None = None
    cases: Count | None = None
    runs: Count | None = None
    rows: dict[str, PaperRow] = Field(default_factory=dict)
    claims: list[str] = Field(default_factory=list)
    leaves_open: dict[str, str] = Field(default_factory=dict)

    @field_validator("claims")
    @classmethod
    def _are_orderings(cls, claims: list[str]) -> list[str]:
        for claim in claims:
            names = ordering(claim)
            if len(names) < 2 or not all(names):
                raise ValueError(
                    f"must be orderings of two variants or more, such as a > b, got {claim!r}"
                )
            if len(set(names)) < len(names):
                raise ValueError(f"must name each variant once in an ordering, got {claim!r}")
        pairs = {pair for claim in claims for pair in combinations(ordering(claim), 2)}
        for a, b in pairs:
            if (b, a) in pairs:
                raise ValueError(f"must not contradict each other, got {a} > {b} and {b} > {a}")
        return claims

    def figures(self, metric: str) -> dict[str, str]:
        """Of each variant, as printed, what is to be held against the suite's `metric`: a Dice of
        all pixels together is its pooled Dice."""
        named = metric
        if self.averaging == "pixels":
            named = {"dice": "", "pooled_dice": "dice"}.get(metric, metric)
        return {name: row.figures[named] for name, row in self.rows.items() if named in row.figures}

    def values(self, metric: str) -> dict[str, float]:
        """Of each variant the number that it prints under that name."""
        return {
            name: value_of(row.figures[metric])
            for name, row in self.rows.items()
            if metric in row.figures
        }

    def among(self, variants: Collection[str]) -> Paper:
        """What it prints of these variants."""
        return self.model_copy(
            update={"rows": {name: row for name, row in self.rows.items() if name in variants}}
        )

    def metrics(self) -> list[str]:
        """Those of which it prints a figure, in the order in which they come."""
        printed = chain.from_iterable(row.figures for row in self.rows.values())
        dice = "pooled_dice" if self.averaging == "pixels" else "dice"
        return list(dict.fromkeys(dice if name == "dice" else name for name in printed))

    def orderings(self) -> list[list[str]]:
        """The claims, each as its variants, best first."""
        return [ordering(claim) for claim in self.claims]

    def names(self) -> list[tuple[str, str]]:
        """Key and variant, wherever it names one."""
        named = [("rows", name) for name in self.rows]
        return named + [("claims", name) for claim in self.claims for name in ordering(claim)]


def ordering(claim: str) -> list[str]:
    """`a > b > c` as its variants, best first."""
    return [name.strip() for name in claim.split(">")]


def value_of(printed: str) -> float:
    """`0.8660` and `86.6 %` as numbers."""
    if printed.endswith("%"):
        return round(float(printed[:-1]) / 100, _decimals(printed) + 2)
    return float(printed)


def half_unit(printed: str) -> float:
    """By how much a figure may differ from what it was rounded from: 0.00005 of `0.8660`."""
    return 0.5 * 10.0 ** -(_decimals(printed) + 2 * printed.endswith("%"))


def _decimals(printed: str) -> int:
    found = re.search(r"\.(\d+)", printed)
    return len(found[1]) if found else 0


def levels(cells: Iterable[Collection[str]]) -> list[str]:
    """The factors of a design, in the order in which its variants name them."""
    return list(dict.fromkeys(chain.from_iterable(cells)))


def check_crossed(factors: Mapping[str, Collection[str]]) -> None:
    """Raise ValueError unless each combination of the factors is one variant's; factors: variant ->
    those that it has."""
    names = levels(factors.values())
    cells = [frozenset(having) for having in factors.values()]
    if not factors:
        return
    if not names:
        raise ValueError("must name a factor, got variants that have none")
    if len(names) > 10:  # more variants than anyone trains; and their combinations fill a machine
        raise ValueError(f"must be of at most 10 factors, got {len(names)}")
    for size in range(len(names) + 1):
        for having in combinations(names, size):
            found = cells.count(frozenset(having))
            if found != 1:
                told = " and ".join(having) or "none of them"
                raise ValueError(
                    f"must be crossed, one variant for each combination of {', '.join(names)}: "
                    f"{told} is {'missing' if not found else f'there {found} times'}"
                )

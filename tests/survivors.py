"""Which small changes of the code do its tests let pass? A table for readers; pytest collects none.

    mutmut results --all true | python tests/survivors.py

The share of changes that were caught by package, then those that were not: `mutmut show <name>`
prints one. Ends with status 1 where a package of LEAST has a smaller share.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable

LEAST = {"evaluation": 0.9, "statistics": 0.9}  # share of changes caught
CAUGHT = ("killed", "timeout", "segfault")
LET_PASS = ("survived", "no tests")


def main() -> None:
    table, survivors, poor = report(sys.stdin)
    print("\n".join([*table, "", *survivors]))
    if poor:
        sys.exit("too few are caught: " + ", ".join(poor))


def report(lines: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """mutmut's lines `<name>: <status>` -> the table, the survivors' lines, what is too poor."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for line in filter(str.strip, lines):
        name, _, status = line.strip().rpartition(": ")
        package = name.split(".")[1]
        found[package][status] += 1
        if status in LET_PASS:
            survivors.append(f"{name}: {status}")
    rows = [("Package", "Caught", "Survived", "Without a test", "Not tried", "Share caught")]
    poor = []
    for package, count in sorted(found.items()):
        caught = sum(count[status] for status in CAUGHT)
        tried = caught + sum(count[status] for status in LET_PASS)
        share = f"{caught / tried:.1%}" if tried else "-"
        if tried and caught / tried < LEAST.get(package, 0):
            poor.append(f"{package} {share}, at least {LEAST[package]:.0%}")
        passed = [count[status] for status in LET_PASS]
        numbers = (caught, *passed, count.total() - tried)
        rows.append((package, *map(str, numbers), share))
    rows.insert(1, ("---",) * len(rows[0]))
    return ["| " + " | ".join(row) + " |" for row in rows], survivors, poor


if __name__ == "__main__":
    main()

"""How far a fan-out is, in a line of the terminal."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

from tqdm import tqdm

from pipeline.fanout.worker import Job


class Progress:
    """The jobs of a fan-out in a line of the terminal: done, running, failed, remaining time."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.waiting: dict[str, int] = defaultdict(int)  # jobs of a kind, not done yet
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])  # sum, count
        for job in jobs:
            self.waiting[kind_of(job.name)] += 1
        self.names = {job.name for job in jobs}
        self.running: set[str] = set()
        self.done = self.failed = 0
        self.bar = tqdm(
            total=len(jobs),
            bar_format="{n_fmt} of {total_fmt} stages done, {desc}",
            disable=None,  # where no terminal shows it
        )
        self.show()

    def began(self, name: str) -> None:
        if name in self.names:  # and not of another client's
            self.running.add(name)

    def ended(self, name: str) -> None:
        self.running.discard(name)

    def over(self, name: str, seconds: float | None) -> None:
        """What ended is recorded; seconds: None for what failed instead."""
        self.waiting[kind_of(name)] -= 1
        if seconds is None:
            self.failed += 1
        else:
            self.done += 1
            known = self.seconds[kind_of(name)]
            known[0] += seconds
            known[1] += 1
            self.bar.update()
        self.show()

    def show(self) -> None:
        """Show the line as it is now."""
        self.bar.set_description_str(
            f"{len(self.running)} running, {self.failed} failed{self._remaining()}"
        )

    def _remaining(self) -> str:
        if not self.running or not any(count for _, count in self.seconds.values()):
            return ""
        total = sum(sum_ for sum_, _ in self.seconds.values())
        mean = total / sum(count for _, count in self.seconds.values())
        left = 0.0
        for kind, count in self.waiting.items():
            sum_, known = self.seconds[kind]
            left += count * (sum_ / known if known else mean)
        return f", about {tqdm.format_interval(left / len(self.running))} left"

    def tell(self, line: str) -> None:
        """Print a line above the bar, after how many are done."""
        self.bar.write(f"[{self.done}/{self.bar.total}] {line}", file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        self.bar.close()


def kind_of(name: str) -> str:
    """train of train@unet-0-0"""
    return name.partition("@")[0]

"""Networks each at the best of its settings, such as learning rates, as validation chooses them.

Who chooses the best of K settings by runs, and then reports these very runs, reports their luck as
well. So each seed's run is of the setting whose mean validation Dice over the other seeds is best:
no run has a part in its own choice, and the mean of such runs is that of the procedure "choose by
validation, then train". No test case has a part in it.

The runs are not independent, for every choice rests on the other seeds: where two settings are
nearly as good, all choices may turn together, of which the spread of the runs tells too little. The
error over seeds is therefore the jackknife's: each seed is left out of everything, choices too. It
is not too small on average for any such mean (Efron and Stein 1981, The jackknife estimate of
variance, Annals of Statistics 9:586), and where the choice never changes it is a typical run's own.
docs/simulation.md says what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.statistics.analysis import Design, FailedRuns, Protocol, as_groups, compare
from pipeline.statistics.crossed import Groups, Values, by_group
from pipeline.statistics.definitions import PRIMARY, metric_of
from pipeline.statistics.pairs import compare_pairs
from pipeline.statistics.results import Comparison, TunedVariant, Tuning, without_inference
from pipeline.statistics.typical import (
    Failed,
    TypicalRun,
    contrasts,
    is_descriptive,
    typical_interval,
    typical_mean,
    typical_run,
)

FEWEST = 3  # runs that did not fail, so that two are left where one is left out


@dataclass(frozen=True)
class Settings:
    """A network's runs at K settings: `scores` (K, S, C) of test cases, `validation` (K, S) Dice of
    its validation cases, which runs `failed` (K, S). Higher scores are better."""

    scores: Values
    validation: Values
    failed: Failed

    def of(self, seeds: NDArray[np.intp]) -> Settings:
        return Settings(self.scores[:, seeds], self.validation[:, seeds], self.failed[:, seeds])

    def grouped(self, groups: Groups | None) -> Settings:
        """With groups of cases in place of cases (crossed.by_group)."""
        return replace(self, scores=np.stack([by_group(own, groups) for own in self.scores]))

    def chosen(self, choice: NDArray[np.intp]) -> tuple[Values, Failed]:
        """The runs (S, C) of each seed's setting, choice (S,), and which of them failed (S,)."""
        seeds = np.arange(len(choice))
        return self.scores[choice, seeds], self.failed[choice, seeds]


def choose(validation: Values) -> NDArray[np.intp]:
    """Each seed's setting (S,), by validation (K, S): the best mean over the other seeds; of equals
    the first. Of one seed, which has no others, the best."""
    seeds = validation.shape[1]
    others = validation if seeds == 1 else validation.sum(axis=1, keepdims=True) - validation
    # Sums in another order differ by rounding: they are equal.
    best = np.round(others / max(1, seeds - 1), 12).argmax(axis=0)
    return np.asarray(best, dtype=np.intp)


def tuned_run(settings: Settings) -> TypicalRun | None:
    """The typical run of the network at the settings that validation chooses, with the error that
    the choices add; None with fewer than FEWEST runs that did not fail, or where a score is not a
    number."""
    choice = choose(settings.validation)
    values, failed = settings.chosen(choice)
    if (~failed).sum() < FEWEST or not np.isfinite(settings.scores).all():
        return None
    seeds = len(choice)
    by_choice = np.zeros(seeds)  # how the mean without a seed moves because others choose anew
    for seed in range(seeds):
        rest = np.delete(np.arange(seeds), seed)
        part, anew = settings.of(rest), choose(settings.validation[:, rest])
        runs, failures = part.chosen(anew)
        if not np.array_equal(anew, choice[rest]) and not failures.all():
            by_choice[seed] = typical_mean(runs, failures) - typical_mean(
                *part.chosen(choice[rest])
            )
    jackknife = np.sqrt((seeds - 1) / seeds) * (by_choice.mean() - by_choice)
    found = typical_run(values, failed)
    return replace(found, moves=found.moves + jackknife)


@dataclass(frozen=True)
class Tuned:
    """A network with the settings that validation chooses. names: of its settings. run: the typical
    run over cases, or their groups; None of one seed, and as of tuned_run."""

    names: Sequence[str]
    settings: Settings
    run: TypicalRun | None

    @property
    def choice(self) -> NDArray[np.intp]:
        return choose(self.settings.validation)

    @property
    def chosen(self) -> list[str]:
        """The name of each seed's setting."""
        return [self.names[place] for place in self.choice]


def tune(
    table: pd.DataFrame,
    validation: Mapping[str, Mapping[int, float]],
    settings: Mapping[str, Sequence[str]],
    protocol: Protocol,
    failed_runs: FailedRuns = (),
) -> Tuning:
    """Networks held against each other, each at the best of its settings.

    table: of every setting, with the columns variant, seed, case, value and group, as of `compare`;
    all with the same seeds and cases, higher values better. validation: setting -> seed -> its mean
    Dice over validation cases. settings: variant -> its settings, those of `table`, itself first.
    failed_runs: setting and seed of each. protocol: what is asked; effects, orderings by draws and
    a paper's figures are not told, for they are of settings as they are.
    """
    cases = list(dict.fromkeys(table["case"]))
    seeds = list(dict.fromkeys(table["seed"]))
    groups = as_groups(table.drop_duplicates("case")["group"]) if "group" in table else None
    scores = table.set_index(["variant", "seed", "case"])["value"]
    wide = scores.unstack()[cases]  # noqa: PD010 - pivot_table would average
    tuned = {}
    for variant, names in settings.items():
        own = Settings(
            np.stack([wide.loc[[(name, seed) for seed in seeds]].to_numpy() for name in names]),
            np.array([[validation[name][seed] for seed in seeds] for name in names]),
            np.array([[(name, seed) in failed_runs for seed in seeds] for name in names]),
        )
        run = tuned_run(own.grouped(groups)) if len(seeds) > 1 else None
        tuned[variant] = Tuned(names, own, run)
    return Tuning(
        variants=[_summary(variant, found, seeds, groups) for variant, found in tuned.items()],
        comparison=_compare(table, tuned, seeds, protocol, failed_runs),
    )


def _summary(
    variant: str, tuned: Tuned, seeds: Sequence[int], groups: Groups | None
) -> TunedVariant:
    settings, run = tuned.settings, tuned.run
    values, failed = settings.chosen(tuned.choice)
    usable = np.isfinite(settings.scores).all() and not failed.all()
    typical = typical_mean(values, failed) if usable else None
    interval = gain = gain_interval = None
    bounds, units = metric_of(PRIMARY).bounds, by_group(values, groups)
    if len(values) == 1 and typical is not None:
        interval = typical_interval(units, failed, bounds)
    elif run is not None and not is_descriptive(failed):
        (alone,) = contrasts([run], [[1.0]], paired=False)
        interval = alone.interval(bounds=bounds)
    own, own_failed = settings.scores[0], settings.failed[0]
    if len(tuned.names) > 1 and typical is not None and not own_failed.all():
        gain = typical - typical_mean(own, own_failed)
        if run is not None and not is_descriptive(failed) and not is_descriptive(own_failed):
            before = typical_run(by_group(own, groups), own_failed)
            (change,) = contrasts([run, before], [[1.0, -1.0]], paired=True)
            gain_interval = change.interval()
    return TunedVariant(
        variant=variant,
        settings=list(tuned.names),
        validation_dice={
            name: float(mean)
            for name, mean in zip(tuned.names, settings.validation.mean(axis=1), strict=True)
        },
        chosen={name: tuned.chosen.count(name) for name in tuned.names},
        failed=[seed for seed, has in zip(seeds, failed.tolist(), strict=True) if has],
        typical=typical,
        interval=interval,
        gain=gain,
        gain_interval=gain_interval,
    )


def _compare(
    table: pd.DataFrame,
    tuned: Mapping[str, Tuned],
    seeds: Sequence[int],
    protocol: Protocol,
    failed_runs: FailedRuns,
) -> Comparison:
    """The protocol's pairs on the chosen runs, with the error of the choices."""
    rows = {
        (variant, seed): setting
        for variant, found in tuned.items()
        for seed, setting in zip(seeds, found.chosen, strict=True)
    }
    own = table.groupby(["variant", "seed"], sort=False)
    chosen = pd.concat(
        [
            own.get_group((setting, seed)).assign(variant=variant)
            for (variant, seed), setting in rows.items()
        ]
    )
    failed = [key for key, setting in rows.items() if (setting, key[1]) in failed_runs]
    found = compare(chosen, replace(protocol, printed={}, factors={}), failed)
    pairs, several = found.pairs, len(found.seeds) > 1
    runs = [run for name in found.variants if (run := tuned[name].run) is not None]
    if several and len(runs) < len(found.variants):
        # Without the error of the choices nothing is shown.
        pairs = [without_inference(pair) for pair in pairs]
    elif several and found.pairing is not None:
        design = Design(chosen, failed)
        pairs = compare_pairs(
            design.scores,
            design.failed,
            design.variants,
            found.pairing.paired,
            margin=protocol.margin,
            groups=design.groups,
            runs=runs,
        )
    nothing = dict.fromkeys(("ranks", "ordering", "variance", "power"))
    return found.model_copy(update={"pairs": pairs, **nothing})

"""statistics/tuning.py: validation chooses settings, by seeds that have no part in the run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import simulation
from scipy import stats

from pipeline.statistics import pairs
from pipeline.statistics.analysis import Protocol, compare
from pipeline.statistics.tuning import Settings, choose, tune, tuned_run
from pipeline.statistics.typical import typical_run
from studies import as_table

DICE = Protocol(metric="dice", margin=0.005)


def settings(seed: int, *, apart: float = 0.0, seeds: int = 6, count: int = 3) -> Settings:
    """Of one network; the first setting is `apart` better than the others."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, 0.01, (count, seeds))
    luck[0] += apart
    scores = 0.8 + luck[:, :, None] + rng.normal(0, 0.05, (count, seeds, 40))
    validation = 0.8 + luck + rng.normal(0, 0.003, luck.shape)
    return Settings(scores, validation, np.zeros(luck.shape, dtype=bool))


def test_a_seeds_setting_is_the_best_of_the_other_seeds():
    """By hand: without its own seed, whose validation is beyond all others."""
    validation = np.array([[0.1, 0.9, 0.1], [0.5, 0.5, 0.5]])
    # Of seed 0 the others' means are 0.5 and 0.5, of which the first is taken; of seed 1 0.1 and
    # 0.5; of seed 2 0.5 and 0.5.
    assert choose(validation).tolist() == [0, 1, 0]
    assert choose(np.array([[0.4], [0.5], [0.3]])).tolist() == [1]


def test_a_runs_own_validation_has_no_part_in_its_choice():
    found = settings(0)
    before = choose(found.validation)
    for seed in range(6):
        changed = found.validation.copy()
        changed[:, seed] = [0.0, 1.0, 0.5]
        assert choose(changed)[seed] == before[seed]


def test_where_one_setting_is_far_ahead_its_typical_run_stands_with_its_own_error():
    for seeds in (6, 10):
        found = settings(1, apart=0.2, seeds=seeds)
        run, own = tuned_run(found), typical_run(found.scores[0], found.failed[0])
        assert run is not None
        assert np.array_equal(run.moves, own.moves)
        assert np.array_equal(run.by_case, own.by_case)


def test_the_error_over_seeds_is_the_jackknifes():
    """Six seeds, none trimmed: leave each out of the choices and of the mean."""
    found = settings(6)
    seeds = np.arange(6)

    def mean(kept: np.ndarray) -> float:
        validation, scores = found.validation[:, kept], found.scores[:, kept].mean(axis=2)
        chosen = [
            np.argmax(np.delete(validation, place, axis=1).mean(axis=1))
            for place in range(len(kept))
        ]
        return float(np.mean([scores[setting, place] for place, setting in enumerate(chosen)]))

    assert len(set(choose(found.validation).tolist())) > 1  # else there is nothing to see
    without = np.array([mean(np.delete(seeds, seed)) for seed in seeds])
    run = tuned_run(found)
    assert run is not None
    assert run.mean == pytest.approx(mean(seeds))
    assert run.seeds == pytest.approx(5 / 6 * np.square(without - without.mean()).sum())
    assert run.seeds > typical_run(*found.chosen(choose(found.validation))).seeds


def test_too_few_runs_that_did_not_fail_give_no_run():
    found = settings(3, count=1)
    failed = np.array([[True, True, True, True, False, False]])
    assert tuned_run(replace(found, failed=failed)) is None


def networks(seeds: int = 8) -> dict[str, Settings]:
    """`a` has three settings, of which the second is far ahead; `b` has its own alone."""
    a = settings(4, seeds=seeds)
    a.scores[1] += 0.2
    a.validation[1] += 0.2
    return {"a": a, "b": settings(5, seeds=seeds, count=1)}


NAMES = {"a": ["a", "a_slow", "a_fast"], "b": ["b"]}


def tuned(seeds: int = 8):
    found = networks(seeds)
    names = [name for own in NAMES.values() for name in own]
    table = as_table(np.concatenate([each.scores for each in found.values()]), names)
    rows = np.concatenate([each.validation for each in found.values()])
    validation = {
        name: dict(enumerate(map(float, own))) for name, own in zip(names, rows, strict=True)
    }
    return table, tune(table, validation, NAMES, DICE)


def test_variants_are_compared_at_their_best_settings():
    table, found = tuned()
    expected = compare(table[table["variant"].isin(["a_slow", "b"])], DICE)
    (pair,), (own,) = found.comparison.pairs, expected.pairs
    assert (pair.first, pair.second) == ("a", "b")
    assert pair == own.model_copy(update={"first": "a"})
    assert found.comparison.ranks is found.comparison.ordering is found.comparison.power is None
    a, b = found.variants
    assert a.chosen == {"a": 0, "a_slow": 8, "a_fast": 0}
    scores = networks()["a"].scores.mean(axis=2)
    trimmed = [np.sort(row)[1:-1].mean() for row in scores]
    assert a.typical == pytest.approx(trimmed[1])
    assert a.gain == pytest.approx(trimmed[1] - trimmed[0])
    assert a.interval is not None
    assert a.gain_interval is not None
    assert a.gain_interval.low < a.gain < a.gain_interval.high
    assert (b.chosen, b.gain, b.gain_interval) == ({"b": 8}, None, None)


def test_too_few_seeds_describe():
    _, found = tuned(seeds=3)
    a, _ = found.variants
    assert a.typical is not None
    assert a.interval is a.gain_interval is None
    (pair,) = found.comparison.pairs
    assert (pair.shown, pair.interval) == (None, None)


def test_one_seed_is_of_the_setting_with_its_best_validation():
    _, found = tuned(seeds=1)
    a, _ = found.variants
    assert a.chosen == {"a": 0, "a_slow": 1, "a_fast": 0}
    assert a.interval is not None  # over cases alone, as of estimates
    (pair,) = found.comparison.pairs
    assert pair.shown is None


@pytest.mark.slow
@pytest.mark.parametrize("truth", simulation.TUNED, ids=lambda truth: truth.name)
def test_choosing_makes_no_winner(truth, monkeypatch):
    """A short form of the table in docs/simulation.md."""
    monkeypatch.setattr(pairs, "tukey", pairs.tukey)  # put back what the simulation replaces
    studies = 60
    found = simulation.tuned(truth, 7, studies, seed=1)
    most = stats.binom.ppf(0.9999, studies, 0.05) / studies
    assert found["alarm"] <= most
    assert 1 - found["held"] <= most

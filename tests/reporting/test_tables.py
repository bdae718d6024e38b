"""reporting/tables.py and writers.csv on a study with a failed run: what each column is of."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_study import make_study

from pipeline import compare
from pipeline.engine.prepared import PreparedCases
from pipeline.reporting import writers
from pipeline.reporting.tables import (
    DASH,
    all_tables,
    averaging_table,
    bold_note,
    effects_table,
    failures_table,
    main_table,
    pairs_table,
    paper_table,
    subgroup_tables,
)
from pipeline.reporting.writers import latex_table, markdown, markdown_table
from pipeline.statistics.results import Effect, Interval, Results

SOUND, FAILING = "gated_attention", "resunet"
LOST = 5  # the seed of the run that failed
IDS = [f"case-{number}" for number in range(12)]


def collected(root, *, seeds, lost=(), averaging=(), groups=None) -> Results:
    """Dice near 0.85 in every run but those of FAILING with the seeds `lost`: 0.3 less."""
    study = make_study(
        root, variants=[SOUND, FAILING], seeds=range(seeds), test_ids=IDS, averaging=averaging,
        groups=groups,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    ease = rng.normal(0.85, 0.05, len(IDS))
    for run in study.runs():
        path = study.evaluation_dir(*run) / "cases.csv"
        dice = ease + rng.normal(0, 0.003) + rng.normal(0, 0.01, len(IDS))
        if run.variant == FAILING and run.seed in lost:
            dice -= 0.3
        table = pd.read_csv(path, dtype={"id": str})
        table.assign(dice=dice.clip(0, 1)).to_csv(path, index=False)
    return compare.collect(study, PreparedCases.open(study.prepared_dir))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failing")
    return collected(folder, seeds=8, lost=[LOST], averaging=["flips", "seeds"])


def cells(table, name):
    """Header -> text of the row of that name."""
    (row,) = (row for row in table.rows if row.name == name)
    return dict(zip(table.header, [cell.text for cell in row.cells], strict=True))


def bounds(interval, decimals=3):
    """The fixture's Dice intervals are 0.046 wide: three decimals."""
    return f"{interval.low:.{decimals}f} to {interval.high:.{decimals}f}"


def without_intervals(results):
    """As of too few seeds: no interval and no p-value."""
    estimates = [each.model_copy(update={"interval": None}) for each in results.estimates]
    none = {"interval": None, "p_value": None, "adjusted_p_value": None, "shown": None}
    pairs = [each.model_copy(update=none) for each in results.comparison.pairs]
    comparison = results.comparison.model_copy(update={"pairs": pairs})
    return results.model_copy(update={"estimates": estimates, "comparison": comparison})


def dice_with(results, **changes):
    """`results` whose Dice of each variant has these parts: variant -> part -> value."""
    estimates = [
        each.model_copy(update=changes[each.variant])
        if each.metric == "dice" and each.variant in changes
        else each
        for each in results.estimates
    ]
    return results.model_copy(update={"estimates": estimates})


def test_the_main_table_has_all_runs_the_typical_run_and_the_failed_ones(results):
    table = main_table(results)
    found = results.estimate(FAILING, "dice")
    assert found.mean < found.typical - 0.02
    row = cells(table, FAILING)
    assert row["Dice"] == f"{found.mean:.3f} ± {found.standard_deviation:.3f}"
    assert row["Typical run"] == f"{found.typical:.3f}"
    assert row["95 % interval"] == bounds(found.interval)
    assert (row["Failed runs"], cells(table, SOUND)["Failed runs"]) == ("1 of 8", "0 of 8")
    assert table.header[:5] == ["Dice", "Typical run", "95 % interval", "Failed runs", "Rank"]
    notes = dict(table.notes)
    assert notes["Typical run"].startswith("What a run gives that does not fail:")
    assert "of all runs, failed ones with them" in notes["Rank"]
    assert set(notes) <= set(table.header)


def test_the_best_mean_and_the_best_typical_run_are_bold_each_for_itself(results):
    """The variant whose run failed has the lower mean, whatever its typical run is."""
    table = main_table(results)
    bold = {
        title: [row.name for row in table.rows if row.cells[place].best]
        for place, title in enumerate(table.header)
    }
    typical = {name: results.estimate(name, "dice").typical for name in (SOUND, FAILING)}
    assert bold["Dice"] == [SOUND]
    assert bold["Typical run"] == [max(typical, key=typical.get)]
    assert bold["95 % interval"] == bold["Failed runs"] == []
    assert bold_note(results).startswith("Bold marks the best of a column, by the figures as they")
    assert bold_note(results).endswith("by more than chance, the table of pairs says.")
    assert "So few runs cannot say" in bold_note(without_intervals(results))


def test_the_table_of_failures_has_seeds_rate_quartile_and_the_mean_that_admits_more(results):
    table = failures_table(results)
    rate = next(found for found in results.failures if found.variant == FAILING)
    row = cells(table, FAILING)
    assert rate.failed == [LOST]
    assert row == {
        "Failed runs": f"1 of 8 (seed {LOST})",
        "Rate": "12.5 %",
        "95 % interval of the rate": "0.3 to 52.7 %",  # Clopper and Pearson's of 1 of 8
        "Upper quartile": f"{rate.upper_quartile:.3f}",
        "Drop": "0.03",
        "Mean over all runs": f"{results.estimate(FAILING, 'dice').mean:.2f}",
        "95 % interval of the mean": bounds(rate.mean_interval, 2),  # half of all Dice wide
    }
    assert cells(table, SOUND)["Failed runs"] == "0 of 8"
    assert dict(table.notes)["Drop"].startswith("0.03;")
    assert "admits failures not yet seen" in dict(table.notes)["95 % interval of the mean"]
    assert table in all_tables(results)


def test_several_failed_runs_are_named_and_one_run_alone_has_no_rate(tmp_path):
    several = collected(tmp_path / "several", seeds=9, lost=[2, 7])
    assert cells(failures_table(several), FAILING)["Failed runs"] == "2 of 9 (seeds 2, 7)"
    one = collected(tmp_path / "one", seeds=1)
    assert "failures" not in {table.key for table in all_tables(one)}
    row = cells(main_table(one), FAILING)
    assert not {"Failed runs", "Typical run", "Rank"} & set(row)
    found = one.estimate(FAILING, "dice").interval
    assert row["95 % interval"] == bounds(found)
    assert row["Dice"] == f"{one.estimate(FAILING, 'dice').mean:.3f}"
    notes = dict(main_table(one).notes)
    assert "Failed runs" not in notes
    assert "No other seed is in it." in notes["95 % interval"]
    pairs = pairs_table(one.comparison)
    assert pairs.header == ["Difference", "95 % interval", "Adjusted p", "Decided by"]
    assert dict(pairs.notes)["95 % interval"] == "Over cases alone, each for itself."
    assert "typical" not in pairs.caption


def test_of_fewer_than_five_runs_none_is_said_to_be_well(tmp_path):
    four = collected(tmp_path, seeds=4)
    assert "failures" not in {table.key for table in all_tables(four)}
    table = main_table(four)
    assert not {"Failed runs", "Typical run"} & {*table.header, *dict(table.notes)}


def test_the_words_of_the_tables_stand_below_them(results):
    text = markdown(results, all_tables(results))
    assert "**Failed run**: A run whose Dice lies below the upper quartile" in text
    assert "more than 0.03 and by more than four robust" in text


def test_pairs_follow_the_test_that_was_done(results):
    notes = dict(pairs_table(results.comparison).notes)
    assert notes["Adjusted p"].endswith(f"together: {results.comparison.pairing.test}.")
    assert notes["First wins"].startswith("The share of seeds")
    (pair,) = results.comparison.pairs
    row = cells(pairs_table(results.comparison), f"{SOUND} - {FAILING}")
    typical = [results.estimate(name, "dice").typical for name in (SOUND, FAILING)]
    assert 0.01 < pair.interval.high - pair.interval.low < 0.09
    assert row["Difference"] == f"{typical[0] - typical[1]:+.3f}"
    dice = {(run.variant, run.seed): run.metrics["dice"] for run in results.runs}
    wins = [dice[SOUND, seed] > dice[FAILING, seed] for seed in range(8)]
    assert wins[LOST]  # the failed run is counted
    assert row["First wins"] == f"{100 * sum(wins) / 8:.0f} %"
    assert pair.superiority == sum(wins) / 8


def test_effects_are_of_typical_runs_by_holm(results):
    effect = Effect(
        factors=["gates"], difference=0.01, interval=Interval(low=0.0, high=0.02), p_value=0.01,
        adjusted_p_value=0.03, shown=True,
    )  # fmt: skip
    found = results.comparison.model_copy(
        update={"factorial": [effect], "design": {"a": [], "b": ["gates"]}}
    )
    table = effects_table(found)
    notes = dict(table.notes)
    assert notes["Difference in Dice"].startswith("Of typical runs")
    assert notes["Adjusted p"] == "Holm over all rows."
    assert cells(table, "gates")["Difference in Dice"] == "+0.010"
    assert cells(table, "gates")["Adjusted p"] == "0.0300"


def test_the_papers_figures_are_held_against_a_run_that_does_not_fail(results):
    table = paper_table(results)
    found = results.estimate(SOUND, "dice")
    row = cells(table, f"{SOUND}, Dice")
    assert row["Typical run here"] == f"{found.typical:.3f}"
    assert row["One more run here"] == bounds(found.paper_interval)
    assert row["Paper"] == "0.856"
    note = dict(table.notes)["One more run here"]
    assert "of those that do not fail, on as many other cases" in note
    assert "95 % for all the paper's figures of a metric together" in note


def test_a_difference_with_flips_is_of_a_typical_run(results):
    table = averaging_table(results)
    found = {
        each.averaging: each
        for each in results.averaged
        if (each.variant, each.metric) == (FAILING, "dice")
    }
    flips = cells(table, f"{FAILING}, four flips")
    assert flips["Difference"] == f"{found['flips'].difference:+.2f}"  # known to 0.15
    gain = found["flips"].mean - results.estimate(FAILING, "dice").mean
    assert gain > found["flips"].difference + 0.02  # that of all runs is another
    assert "With four flips it is that of a typical run" in dict(table.notes)["Difference"]


def test_subgroups_are_of_typical_runs(results):
    (found,) = (
        each
        for each in results.subgroups
        if each.grouping == "lesion at the border" and each.variant == FAILING
    )
    (table,) = (each for each in subgroup_tables(results) if "lesion at the border" in each.caption)
    assert cells(table, found.group)[FAILING] == f"{found.typical:.3f} ({bounds(found.interval)})"
    assert found.typical == pytest.approx(results.estimate(FAILING, "dice").typical)
    assert "a typical run's mean over cases" in table.caption
    assert dict(table.notes)["Group"].startswith("Whether the lesion touches")


def test_the_number_of_groups_is_told_where_cases_belong_together(tmp_path, results):
    groups = {"case-1": "case-0", "case-11": "case-10"}
    found = collected(tmp_path, seeds=7, averaging=["seeds"], groups=groups)
    told, alone = ({t.key: t.caption for t in all_tables(each)} for each in (found, results))
    for key in ("comparison", "secondary", "boundary", "native", "averaging"):
        assert "on 12 test cases of 10 groups" in told[key], key
        assert "on 12 test cases" in alone[key], key
        assert "group" not in alone[key], key
    counted = "Near-duplicates, and cases of a known group, count as one case."
    tables = subgroup_tables(found)
    assert all(dict(table.notes)["Cases"] == counted for table in tables)
    assert not any("Cases" in dict(table.notes) for table in subgroup_tables(results))
    cases = {
        (each.grouping, each.group): (each.cases, each.groups)
        for each in found.subgroups
        if each.variant == SOUND
    }
    assert cases["image size", "128 x 96"] == (12, 10)
    assert [cells(t, "128 x 96")["Cases"] for t in tables if "image size" in t.caption] == [
        "12 of 10 groups"
    ]
    assert (
        "12 test cases of 10 groups: in errors over cases near-duplicates, and cases of a known "
        "group, count as one."
    ) in found.verdict
    assert not any(" groups" in sentence for sentence in results.verdict)


def test_no_column_is_without_figures_and_no_note_without_its_column(results, tmp_path):
    few = without_intervals(collected(tmp_path, seeds=2))
    for of in (few, results):
        for table in all_tables(of):
            columns = list(
                zip(*[[cell.text for cell in row.cells] for row in table.rows], strict=True)
            )
            assert all(set(column) != {DASH} for column in columns), table.key
            assert len(columns) == len(table.header)
            assert {title for title, _ in table.notes} <= {table.subject, *table.header}
            assert not any(f"± {DASH}" in text for column in columns for text in column)
    pairs = next(table for table in all_tables(few) if table.key == "pairs")
    assert pairs.header[0] == "Difference"
    assert not {"95 % interval", "Adjusted p", "Shown", "Equal"} & set(pairs.header)


def test_captions_are_one_or_two_short_sentences(results):
    for table in all_tables(results):
        assert len(table.caption) < 200, table.key


def test_of_few_seeds_the_lowest_and_the_highest_run_stand_in_place_of_the_interval(tmp_path):
    few = without_intervals(collected(tmp_path, seeds=3))
    table = main_table(few)
    assert "95 % interval" not in table.header
    dice = [run.metrics["dice"] for run in few.runs if run.variant == SOUND]
    deviation = min(few.estimate(name, "dice").standard_deviation for name in (SOUND, FAILING))
    assert 0.00095 < deviation < 0.0095  # two digits are four decimals
    row = cells(table, SOUND)
    assert row["Lowest to highest run"] == f"{min(dice):.4f} to {max(dice):.4f}"
    assert row["Dice"] == f"{np.mean(dice):.4f} ± {np.std(dice, ddof=1):.4f}"


def test_the_narrowest_interval_gives_the_column_its_decimals_and_bold_follows_them(results):
    wide = {"interval": Interval(low=0.72, high=0.95), "standard_deviation": 0.08}
    found = dice_with(
        results,
        **{
            SOUND: wide | {"mean": 0.8512, "typical": 0.8512},
            FAILING: wide | {"mean": 0.8549, "typical": 0.8449},
        },
    )
    table = main_table(found)
    first, second = (cells(table, name) for name in (SOUND, FAILING))
    assert (first["Dice"], second["Dice"]) == ("0.85 ± 0.08", "0.85 ± 0.08")
    assert (first["95 % interval"], first["Typical run"]) == ("0.72 to 0.95", "0.85")
    assert second["Typical run"] == "0.84"
    best = {
        title: [row.cells[place].best for row in table.rows]
        for place, title in enumerate(table.header)
    }
    assert best["Dice"] == [True, True]  # they read the same
    assert best["Typical run"] == [True, False]
    narrow = {"interval": Interval(low=0.845, high=0.856)}
    table = main_table(dice_with(found, **{SOUND: narrow}))
    assert cells(table, FAILING)["95 % interval"] == "0.720 to 0.950"
    assert cells(table, FAILING)["Dice"] == "0.855 ± 0.080"


def test_a_shown_difference_is_told_to_its_own_decimals(results):
    (pair,) = results.comparison.pairs
    close = pair.model_copy(
        update={"difference": 0.0021, "interval": Interval(low=0.0004, high=0.0038), "shown": True}
    )
    found = results.comparison.model_copy(update={"pairs": [close]})
    row = cells(pairs_table(found), f"{SOUND} - {FAILING}")
    assert (row["Difference"], row["95 % interval"]) == ("+0.0021", "+0.0004 to +0.0038")


def test_what_the_columns_mean_stands_below_the_table_in_markdown_and_latex(results):
    table = failures_table(results)
    text = markdown_table(table)
    assert text.index("| Variant |") < text.index("- *Rate*: The share of runs that failed.")
    tex = latex_table(table, table.caption, "x")
    assert tex.index(r"\end{tabular}") < tex.index(r"\emph{Rate}: The share of runs that failed.")
    bare = replace(table, notes=[])
    assert markdown_table(bare) == text.partition("\n\n")[0]
    assert "minipage" not in latex_table(bare, table.caption, "x")


def test_csv_has_the_typical_run_and_how_often_a_run_failed(results):
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(writers.csv(results)))}
    for name in (SOUND, FAILING):
        found, row = results.estimate(name, "dice"), rows[name]
        assert float(row["dice_typical"]) == pytest.approx(found.typical, abs=1e-6)
        assert float(row["dice_mean"]) == pytest.approx(found.mean, abs=1e-6)
        assert float(row["dice_low"]) == pytest.approx(found.interval.low, abs=1e-6)
    assert rows[FAILING]["failed_runs"] == "1"
    assert rows[SOUND]["failed_runs"] == "0"
    assert float(rows[FAILING]["failure_rate_low"]) == pytest.approx(0.00316, abs=1e-5)
    assert float(rows[FAILING]["failure_rate_high"]) == pytest.approx(0.52651, abs=1e-5)

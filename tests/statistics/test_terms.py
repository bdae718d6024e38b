"""statistics/terms.py: the words of the page, with the constants of the code."""

from __future__ import annotations

from pipeline.statistics import failures, pairs, typical
from pipeline.statistics.terms import state_terms


def test_the_words_state_the_codes_constants():
    told = dict(state_terms(0.04, paper=True))
    assert "more than 0.04 and by more than four robust" in told["Failed run"]
    assert (failures.SPREADS, typical.FEWEST_SEEDS) == (4, 7)
    assert "With fewer than seven seeds nothing is tested" in told["Shown"]
    assert f"is {pairs.THRESHOLD:g} or more" in told["Shown"]
    assert (typical.TRIMMED, typical.FEWEST_TRIMMED) == (0.1, 7)  # a tenth, of seven or more
    assert "of seven or more without the best and the worst tenth" in told["Typical run"]
    assert "Cases of one group, as photographs of one lesion or patient" in told["95 % interval"]
    assert "as far to either side on the scale of the logit" in told["95 % interval"]
    assert "Two to six runs, or fewer than four that did not fail" in told["95 % interval"]
    assert all("{" not in meaning for meaning in told.values())


def test_without_a_paper_no_word_is_of_one():
    bare = state_terms(0.04, paper=False)
    assert set(bare) < set(state_terms(0.04, paper=True))
    assert not any("paper" in text or "claim" in text for word in bare for text in word)

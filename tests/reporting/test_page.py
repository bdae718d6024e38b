"""reporting/page.html, page.css and page.js: the report's page in a real browser."""

from __future__ import annotations

import pytest
from browser import visit
from fake_study import make_study
from report_pages import write_reports

from pipeline.reporting.sections import QUESTIONS

pytestmark = pytest.mark.slow

SEVEN = (
    "limit_encoder_attention", "encoder_attention", "gated_attention",
    "encoder_and_gated_attention", "resunet", "attention_unet", "unet",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of seven variants and seven seeds, with a paper."""
    with pytest.MonkeyPatch.context() as patch:
        ids = [f"case-{number}" for number in range(12)]
        root = tmp_path_factory.mktemp("page")
        study = make_study(root, variants=SEVEN, seeds=range(7), test_ids=ids)
        return write_reports(study, patch)["index.html"]


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (400, 800)])
def test_the_first_screen_holds_question_answer_and_picture(page, tmp_path, width, height):
    script = """
        const bottom = (part) => document.querySelector(part).getBoundingClientRect().bottom;
        return {
          question: bottom("section.answer > h2"), answer: bottom(".sentence"),
          rows: document.querySelectorAll(".chart .row:not(.axis)").length,
          picture: bottom(".chart"), wide: document.documentElement.scrollWidth,
        };"""
    seen = visit(page, tmp_path, script, width=width)
    assert 0 < seen["question"] < seen["answer"] < seen["picture"] <= height
    assert seen["rows"] == len(SEVEN)
    assert seen["wide"] <= width


def test_every_link_of_the_navigation_reaches_the_heading_of_its_words(page, tmp_path):
    script = """
        const found = [];
        for (const link of document.querySelectorAll("nav a")) {
          link.click();
          await new Promise((done) => setTimeout(done, 50));
          const section = document.getElementById(link.hash.slice(1));
          found.push([link.textContent, section.querySelector("h2").textContent,
                      section.getBoundingClientRect().top]);
        }
        return found;"""
    found = visit(page, tmp_path, script)
    assert [link for link, _, _ in found] == [heading for _, heading, _ in found]
    assert [link for link, _, _ in found][1:] == [
        title
        for key, title in QUESTIONS.items()
        if key not in ("answer", "elsewhere", "table")  # every figure has a stand-in
    ]
    # All but the last, which the end of the page may keep from the top, stand at it.
    assert all(abs(top) < 60 for _, _, top in found[1:-1])


def test_a_link_to_a_folded_part_opens_it(page, tmp_path):
    script = """
        const part = document.getElementById("table-pairs");
        return [part.tagName, part.open, document.getElementById("table-secondary").open,
                part.getBoundingClientRect().top < 900];"""
    assert visit(page, tmp_path, script) == ["DETAILS", False, False, False]
    opened = ["DETAILS", True, False, True]
    assert visit(page, tmp_path, script, address="#table-pairs") == opened
    follow = f"""
        location.hash = "#table-pairs";
        await new Promise((done) => setTimeout(done, 100));
        {script}"""
    assert visit(page, tmp_path, follow) == opened


def test_for_print_all_is_open_and_afterwards_as_it_was(page, tmp_path):
    script = """
        const open = () => document.querySelectorAll("details[open]").length;
        const all = document.querySelectorAll("details").length;
        const before = open();
        dispatchEvent(new Event("beforeprint"));
        const printed = open();
        dispatchEvent(new Event("afterprint"));
        return [before, printed === all, open()];"""
    before, everything, after = visit(page, tmp_path, script)
    assert everything
    assert before == after


def test_a_table_is_sorted_by_a_click_on_a_columns_title_both_ways(page, tmp_path):
    script = """
        const main = document.querySelector("table.scores");
        const titles = [...main.tHead.rows[0].cells];
        const column = titles.findIndex((cell) => cell.textContent === "Dice");
        const title = titles[column];
        const name = (cell) => [...cell.childNodes].filter((part) => part.nodeName !== "SMALL")
          .map((part) => part.textContent).join("").trim();
        const read = () => [...main.tBodies[0].rows].map(
          (row) => [name(row.cells[0]), parseFloat(row.cells[column].textContent)]);
        const first = read();
        title.querySelector("button").click();
        const down = [title.getAttribute("aria-sort"), read()];
        title.querySelector("button").click();
        const up = [title.getAttribute("aria-sort"), read()];
        title.querySelector("button").click();
        const again = [title.getAttribute("aria-sort"), read()];
        titles[0].querySelector("button").click();
        titles[0].querySelector("button").click();
        return [first, down, up, again, read().map(([variant]) => variant)];"""
    first, (down, falling), (up, rising), (none, again), names = visit(page, tmp_path, script)
    assert [name for name, _ in first] == list(SEVEN)
    values = [value for _, value in first]
    assert values != sorted(values, reverse=True)
    assert (down, [value for _, value in falling]) == ("descending", sorted(values, reverse=True))
    assert (up, [value for _, value in rising]) == ("ascending", sorted(values))
    assert sorted(first) == sorted(falling) == sorted(rising)
    assert (none, again) == (None, first)
    assert names == sorted(SEVEN, reverse=True)


def test_times_in_minutes_are_longer_than_times_in_seconds(page, tmp_path):
    script = """
        const main = [...document.querySelectorAll("table.scores")].find((each) =>
          [...each.tHead.rows[0].cells].some((cell) => cell.textContent === "Training a run"));
        const column = [...main.tHead.rows[0].cells].findIndex(
          (cell) => cell.textContent === "Training a run");
        const times = ["90 s", "12 min", "\u2013", "2 min", "119 s", "1,200 s", "3 min"];
        [...main.tBodies[0].rows].forEach(
          (row, place) => { row.cells[column].textContent = times[place]; });
        main.tHead.rows[0].cells[column].querySelector("button").click();
        return [...main.tBodies[0].rows].map((row) => row.cells[column].textContent);"""
    longest_first = ["1,200 s", "12 min", "3 min", "2 min", "119 s", "90 s", "\u2013"]
    assert visit(page, tmp_path, script) == longest_first


def test_a_runs_dot_tells_its_run_and_leads_to_its_cases(page, tmp_path):
    script = """
        const dot = document.querySelector('.chart a.dot[href="#run=resunet,3"]');
        const shown = () => getComputedStyle(dot, "::after").display;
        const before = shown();
        dot.focus();
        dot.click();
        await new Promise((done) => setTimeout(done, 200));
        const seed = document.getElementById("explorer-seed");
        const variant = document.getElementById("explorer-variant");
        return [before, dot.dataset.told, seed.selectedOptions[0].textContent,
                variant.selectedOptions[0].textContent];"""
    before, told, seed, variant = visit(page, tmp_path, script)
    assert before == "none"
    assert told.startswith("seed 3: Dice 0.")
    assert (seed, variant) == ("3", "resunet")


def test_arrows_lead_from_a_variants_dot_to_the_next_and_the_tabulator_stops_once(page, tmp_path):
    script = """
        const dots = [...document.querySelector(".chart .track").querySelectorAll(".dot")];
        dots[0].focus();
        const press = (key) => document.activeElement.dispatchEvent(
          new KeyboardEvent("keydown", { key, bubbles: true }));
        press("ArrowRight");
        press("ArrowRight");
        press("ArrowLeft");
        return [dots.indexOf(document.activeElement), dots.map((dot) => dot.tabIndex)];"""
    assert visit(page, tmp_path, script) == [1, [0] + [-1] * 6]


def test_a_case_that_is_open_leaves_the_keys_to_what_is_looked_at(page, tmp_path):
    script = """
        await new Promise((done) => setTimeout(done, 200));
        const title = () => document.getElementById("explorer-title").textContent;
        const opened = title();
        document.activeElement.blur();
        document.getElementById("cost").scrollIntoView();
        document.body.dispatchEvent(
          new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
        const after = title();
        location.hash = "#cost";
        await new Promise((done) => setTimeout(done, 200));
        return [opened, after, document.getElementById("explorer-case").hidden];"""
    found = visit(page, tmp_path, script, address="#case=case-3")
    assert found == ["case-3", "case-3", True]


def test_a_wide_table_says_that_it_goes_on_and_a_narrow_one_does_not(page, tmp_path):
    script = """
        await new Promise((done) => setTimeout(done, 200));
        const frame = document.querySelector(".frame");
        const scroll = frame.querySelector(".scroll");
        const hint = getComputedStyle(frame.nextElementSibling).display;
        const wide = scroll.scrollWidth > scroll.clientWidth;
        scroll.scrollLeft = scroll.scrollWidth;
        scroll.dispatchEvent(new Event("scroll")); // which takes a frame to come by itself
        await new Promise((done) => setTimeout(done, 200));
        return [wide, hint, frame.classList.contains("more")];"""
    assert visit(page, tmp_path, script, width=400) == [True, "block", False]


CONTRAST = """
    const channel = (value) => {
      value /= 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    };
    const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) =>
      0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const behind = (element) => {
      for (let part = element; part; part = part.parentElement) {
        const found = parse(getComputedStyle(part).backgroundColor);
        if (found.length === 3 || found[3] === 1) return found;
      }
      return [255, 255, 255];
    };
    for (const part of document.querySelectorAll("details")) part.open = true;
    const poor = [];
    let seen = 0;
    for (const element of document.body.querySelectorAll("*")) {
      const own = [...element.childNodes].some(
        (node) => node.nodeType === 3 && node.textContent.trim());
      if (!own || !element.offsetParent || element.closest("script, style, [disabled]")) continue;
      const style = getComputedStyle(element);
      const [a, b] = [light(parse(style.color)), light(behind(element))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      seen += 1;
      const told = element.textContent.trim().slice(0, 30);
      if (ratio < 4.5) poor.push([element.tagName, element.className, told, ratio]);
    }
    return [seen, poor, getComputedStyle(document.body).backgroundColor];"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_a_contrast_of_four_and_a_half_in_both_modes(page, tmp_path, dark):
    seen, poor, behind = visit(page, tmp_path, CONTRAST, dark=dark)
    assert seen > 300
    assert (behind == "rgb(22, 24, 27)") == dark
    assert poor == []

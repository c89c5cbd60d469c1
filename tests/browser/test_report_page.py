"""The page as its readers meet it: on a screen, on a phone, by keyboard, by screen reader, in both themes."""

from itertools import pairwise
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from logitlake.storage.identity import recipe_id as id_of_recipe
from tests.browser.conftest import Page
from tests.strange_lake import CORPORA, RECIPES

pytestmark = pytest.mark.slow

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
PHONE = 360
# Points of the data; those of a legend have another role.
MARKS = ".mark-symbol.role-mark path"
CHARTS = ("growth", "bytes", "entropy", "surprise", "entries", "calibration", "compared", "curves", "cost")


def choose(page: Page, select: str, value: str) -> None:
    """As a person does: the value of a select, and the event that follows."""
    page.js(
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
        select,
        value,
    )


def shown(page: Page, selector: str) -> int:
    """How many elements that a selector names can be seen."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).length"
    return int(page.js(script, selector))


def marks(page: Page, chart: str) -> list[str]:
    """The places of a chart's points, in the order in which they are drawn."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.getAttribute('transform'))"
    found: list[str] = page.js(script, f"#chart-{chart} {MARKS}")
    return found


def test_it_is_drawn_without_an_error_or_a_warning_and_asks_for_nothing(page: Page, report: Path) -> None:
    page.open(report)
    assert page.console() == []
    addresses = [address for address in page.requested() if not address.startswith("data:")]
    assert addresses == [report.as_uri()]


def test_no_text_of_a_document_was_run(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    assert page.driver.title == "lake: logitlake report"


def test_every_chart_has_marks(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    assert page.js("return [...document.querySelectorAll('[data-chart]')].map(e => e.dataset.chart)") == list(CHARTS)
    assert all(marks(page, chart) for chart in CHARTS)


@pytest.mark.parametrize("width", [PHONE, 768, 1200])
def test_nothing_overflows(page: Page, report: Path, width: int) -> None:
    page.open(report, width=width)
    page.js("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert page.js("return document.documentElement.scrollWidth") <= width
    sticking_out = page.js(
        """
        return [...document.querySelectorAll('body *')].filter((e) => {
          const box = e.getBoundingClientRect();
          return box.width && box.right > arguments[0] + 1 && !e.closest('.scroll, .unseen, .live, caption, .skip');
        }).map((e) => `${e.tagName}.${e.className.baseVal ?? e.className} ${e.textContent.slice(0, 40)}`).slice(0, 9);
        """,
        width,
    )
    assert sticking_out == []


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_holds(page: Page, report: Path, dark: bool) -> None:
    page.open(report, dark=dark)
    page.js("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    found = page.js(CONTRAST)
    assert found["seen"] > 10
    assert found["poor"] == []


def test_the_theme_follows_the_system_and_the_switch_overrules_it(page: Page, strange_report: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    axis = "return getComputedStyle(document.querySelector('#chart-growth .role-axis-label text')).fill"
    page.open(strange_report)
    light = page.js(ground), page.js(axis)
    page.open(strange_report, dark=True)
    dark = page.js(ground), page.js(axis)
    assert light[0] != dark[0] and light[1] != dark[1]
    choose(page, "theme", "light")
    assert (page.js(ground), page.js(axis)) == light
    choose(page, "theme", "")
    assert (page.js(ground), page.js(axis)) == dark


def test_a_recipe_is_chosen_for_charts_tables_and_passages(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    first, second = (id_of_recipe(recipe) for recipe in RECIPES[:2])
    before = {chart: len(marks(page, chart)) for chart in CHARTS}
    rows, passages = shown(page, "#holdings tbody tr"), shown(page, ".passage")
    choose(page, "filter-recipe", second)
    page.wait(
        "return document.querySelectorAll('#chart-entropy .mark-symbol.role-mark path').length < arguments[0]",
        before["entropy"],
    )
    after = {chart: len(marks(page, chart)) for chart in CHARTS}
    assert after["entropy"] < before["entropy"] and after["growth"] < before["growth"]
    assert after["bytes"] == before["bytes"] - 2, "the other two recipes are gone, what is published stays"
    assert after["compared"] == 0, "no student was trained on this recipe"
    assert shown(page, "#chart-compared ~ .nothing") == 1 and shown(page, "#chart-entropy ~ .nothing") == 0
    assert 0 < shown(page, "#holdings tbody tr") < rows
    assert 0 < shown(page, ".passage") < passages
    assert shown(page, f".passage[data-recipes='{first}']") == 0
    choose(page, "filter-recipe", "")
    page.wait(
        "return document.querySelectorAll('#chart-entropy .mark-symbol.role-mark path').length === arguments[0]",
        before["entropy"],
    )
    assert {chart: len(marks(page, chart)) for chart in CHARTS} == before
    assert page.console() == []


def test_a_corpus_is_chosen_and_one_that_a_recipe_lacks_says_so(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    before = marks(page, "entropy")
    choose(page, "filter-corpus", CORPORA[1])
    page.wait(
        "return document.querySelectorAll('#chart-entropy .mark-symbol.role-mark path').length < arguments[0]",
        len(before),
    )
    assert shown(page, ".passage") == 4
    assert shown(page, ".none") == 0
    choose(page, "filter-recipe", id_of_recipe(RECIPES[1]))
    page.wait("return !document.querySelectorAll('#chart-entropy .mark-symbol.role-mark path').length")
    assert shown(page, ".passage") == 0
    assert shown(page, ".none") == 1
    assert "Showing" in page.js("return document.getElementById('filter-text').textContent")


@pytest.mark.parametrize("chart", CHARTS)
def test_a_mark_says_its_numbers_when_it_is_pointed_at(page: Page, strange_report: Path, chart: str) -> None:
    page.open(strange_report)
    mark = page.js(
        """
        const marks = [...document.querySelectorAll(arguments[0])].filter((e) => e.getBoundingClientRect().width);
        const mark = marks[Math.floor(marks.length / 2)];
        mark.scrollIntoView({ block: 'center', behavior: 'instant' });
        return mark;
        """,
        f"#chart-{chart} {MARKS}",
    )
    ActionChains(page.driver).move_to_element(mark).perform()
    text = page.wait("return document.querySelector('#vg-tooltip-element.visible')?.textContent")
    assert any(digit in text for digit in "0123456789")
    assert page.js("return document.querySelectorAll('#vg-tooltip-element script, #vg-tooltip-element b').length") == 0


def test_a_token_shows_what_the_teacher_expected_when_it_is_pointed_at(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    token = page.js(
        """
        const token = document.querySelectorAll('.passage .t')[5];
        token.scrollIntoView({ block: 'center', behavior: 'instant' });
        return token;
        """
    )
    ActionChains(page.driver).move_to_element(token).perform()
    said = page.wait("const c = document.getElementById('card'); return !c.hidden && c.textContent")
    assert "surprise" in said and "%" in said
    assert said.split(" surprise")[0] == page.js(
        "return document.querySelectorAll('.passage tbody tr')[5].cells[0].textContent"
    )
    box = page.js("return document.getElementById('card').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0 and box["right"] <= 1200
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    assert page.js("return document.getElementById('card').hidden")


def test_a_passage_is_one_stop_of_the_tab_key_and_arrows_move_within(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    stops = page.js(
        "return [...document.querySelectorAll('.passage')].map(p => p.querySelectorAll('.t[tabindex=\"0\"]').length)"
    )
    assert set(stops) == {1}
    page.js("document.querySelector('.passage .t').focus()")
    assert not page.js("return document.getElementById('card').hidden")
    where = "return [...document.querySelectorAll('.passage .t')].indexOf(document.activeElement)"
    steps = [(Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1), (Keys.HOME, 0), (Keys.ARROW_LEFT, 0)]
    for key, place in steps:
        ActionChains(page.driver).send_keys(key).perform()
        assert page.js(where) == place
    ActionChains(page.driver).send_keys(Keys.END).perform()
    assert page.js("return document.activeElement.nextElementSibling === null")


def test_everything_that_does_something_is_reached_by_the_tab_key(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    wanted = page.js(
        """
        const focusable = 'a[href], select, summary, button, input, [tabindex="0"]';
        window.wanted = [...document.querySelectorAll(focusable)].filter((e) => e.checkVisibility());
        window.reached = new Set();
        document.addEventListener('focusin', (event) => window.reached.add(event.target));
        return window.wanted.length;
        """
    )
    for _ in range(wanted + 1):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
    missed = page.js("return window.wanted.filter((e) => !window.reached.has(e)).map((e) => e.outerHTML.slice(0, 80))")
    assert missed == []


def test_focus_can_be_seen(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    ActionChains(page.driver).send_keys(Keys.TAB, Keys.TAB).perform()
    style = page.js("const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]")
    assert style == ["solid", "2px"]


def test_a_screen_reader_is_told_what_the_eye_sees(page: Page, report: Path) -> None:
    page.open(report)
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"] and "role" in node
    ]
    # Chromium calls every <details> a group: what names it is the summary inside.
    must_have_names = {"image", "button", "combobox", "link", "table", "region", "figure", "navigation", "form"}
    nameless = [role for role, name in named if role in must_have_names and not name.strip()]
    assert nameless == []
    levels = page.js("return [...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_a_token_is_read_out_with_its_surprise_and_the_candidates(page: Page, strange_report: Path) -> None:
    page.open(strange_report)
    label = page.js("return document.querySelector('.passage .t').getAttribute('aria-label')")
    assert "surprise" in label and "nats; expected" in label and "%" in label


def test_without_scripts_the_texts_and_the_numbers_are_all_there(page: Page, strange_report: Path) -> None:
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.driver.get(strange_report.as_uri())
        tree = page.driver.execute_cdp_cmd("DOMSnapshot.captureSnapshot", {"computedStyles": []})["strings"]
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "Growth" in tree and "Tokens that the teacher expected" in tree

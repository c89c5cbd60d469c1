"""The page: whole for any lake, closed to texts that mean harm, and put in its place at once."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from logitlake.flows.report import page
from logitlake.flows.report.findings import find_out
from logitlake.flows.report.page import render, write_report
from logitlake.flows.report.text import big, passage_text, token_text
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from tests.strange_lake import STRANGE, make_strange_lake

LARGEST = 5_000_000


class Parsed(HTMLParser):
    """Elements by tag with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._tag = ""
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._tag = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake.open(make_strange_lake(tmp_path_factory.mktemp("strange") / "lake")) as lake:
        yield lake


@pytest.fixture(scope="module")
def html(strange: Lake) -> str:
    return render(find_out(strange))


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


def test_the_page_has_no_element_but_its_own(parsed: Parsed) -> None:
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 3, "specifications, the plotting library, the page's own"
    assert not {"img", "b", "textarea", "iframe", "u", "i"} & set(tags)
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]


def test_the_page_names_no_address_and_its_policy_forbids_all(html: str, parsed: Parsed) -> None:
    policy = next(a["content"] for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    fetched = [
        value
        for _, attributes in parsed.elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action", "poster") or (name == "href" and not str(value).startswith("#"))
    ]
    assert fetched == ["data:,"]
    assert "cdn." not in html
    assert "@import" not in html and "url(" not in html.split("</style>")[0]


def test_the_page_is_small_enough_to_send(html: str) -> None:
    assert len(html.encode()) < LARGEST


def test_strange_texts_are_there_to_be_read(parsed: Parsed) -> None:
    text = "".join(parsed.text)
    for token in ("<script>document.title='owned'</script>", "{{ 7 * 7 }}", "שלום", "&amp;"):
        assert token in text


def test_a_character_that_is_split_over_tokens_is_shown_whole(parsed: Parsed) -> None:
    assert any(text == "€" for text in parsed.text)


def test_every_chart_has_a_title_a_description_and_a_table(strange: Lake, html: str) -> None:
    found = find_out(strange)
    charts = [b for make in page.SECTIONS if (s := make(found)) for b in s.blocks if hasattr(b, "spec")]
    assert len(charts) == 9
    for chart in charts:
        assert chart.title and len(chart.description) > 40 and chart.table.rows
        assert f'aria-labelledby="{chart.key}-title" aria-describedby="{chart.key}-description"' in html
        assert all(len(row.cells) == len(chart.table.columns) for row in chart.table.rows)


@pytest.mark.slow
def test_what_an_older_lake_does_not_keep_is_left_out(tmp_path: Path) -> None:
    location = make_strange_lake(tmp_path / "lake")
    with Lake.open(location, read_only=False) as lake:
        lake.connection.execute("DROP VIEW student_losses")
        lake.connection.execute("DROP TABLE store.student_losses")
    with Lake.open(location) as lake:
        assert "largest gap to the teacher" not in render(find_out(lake))


def test_the_specifications_survive_the_page(parsed: Parsed) -> None:
    specs = json.loads(parsed.scripts[0])
    assert "</select><script>" in json.dumps(specs)
    assert all("$schema" not in spec for spec in specs.values())


def test_an_empty_lake_gives_a_page_that_says_what_to_do(tmp_path: Path) -> None:
    location = LakeLocation.resolve(tmp_path / "lake")
    with Lake.create(location, held_out_salt="s", held_out_share=0.1) as lake:
        text = render(find_out(lake))
    assert "logitlake capture" in text and "logitlake train" in text
    assert "None" not in "".join(Parsed(text).text)


def test_a_captured_lake_without_students_gives_a_page_by_one_command(cli: Any, filled: Any, tmp_path: Path) -> None:
    result = cli("report", "--config", filled.config_file, "--output", tmp_path / "sub" / "page.html")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "sub" / "page.html").read_text(encoding="utf-8")
    assert "No student yet" in text
    assert "the cat sat on the" in re.sub(r"<[^>]+>", "", text)
    assert str(tmp_path / "sub" / "page.html") in result.stdout


def test_without_an_output_the_page_lies_in_the_lake(cli: Any, filled: Any) -> None:
    assert cli("report", "--config", filled.config_file).exit_code == 0
    assert (filled.config.lake.path / "report.html").is_file()


@pytest.mark.slow
def test_a_page_that_can_not_be_written_leaves_the_old_one(
    strange: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old page")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_report(strange, path)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "the old page"


def test_a_sampled_page_says_so(strange: Lake) -> None:
    text = render(find_out(strange, positions=100))
    assert "Counted over 4,644 of 12,384 positions: the 3 of 8 work units" in text


@pytest.mark.parametrize("text", [text for text in STRANGE if not text.isspace()])
def test_no_mark_that_reorders_or_hides_text_reaches_the_page(text: str) -> None:
    for shown in (passage_text(text), token_text(text)):
        assert not re.search("[\u0000-\u0008\u000b-\u001f\u007f\u202a-\u202e\ufeff]", shown)


def test_white_space_is_marked_where_a_token_stands_alone() -> None:
    assert token_text(" a\n\t") == "␣a↵⇥"
    assert token_text("") == "∅"
    assert len(token_text("─" * 200)) == 48
    assert passage_text("a\n\tb") == "a↵\n\tb"


def test_large_counts_are_rounded() -> None:
    assert (big(1234), big(2_345_678), big(3e9)) == ("1,234", "2.35 million", "3 billion")

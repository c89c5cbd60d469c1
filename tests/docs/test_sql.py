"""docs/sql.md says what the SQL face is now."""

from pathlib import Path

from storage.dictionary import with_dictionary

PAGE = Path("docs/sql.md").read_text(encoding="utf-8")


def test_the_reference_of_views_and_columns_is_that_of_the_lake() -> None:
    assert with_dictionary(PAGE) == PAGE, "out of date: python -m storage.dictionary docs/sql.md"
    assert "| `tv_at_least` |" in PAGE

"""What the docs show for Polars, pandas and datasets gives the rows of the lake, after upkeep and forgetting too."""

import re
from pathlib import Path
from typing import Any

import polars
import pytest

from logitlake.flows.maintain.run import MaintainRun
from logitlake.flows.settings import location_of
from logitlake.pipeline.settings.models import Config
from logitlake.storage.lake.lake import Lake
from logitlake.storage.sql.session import query
from logitlake.storage.upkeep.forgetting import forget

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "sql.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("For Polars, pandas and `datasets`")[2].partition("Do not read")[0]
(COMMAND,) = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)
(LINES,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture
def used(config: Config, captured: Any) -> tuple[Config, str]:
    """A lake whose shards were merged and whose old files are still there, and a document that it forgot after that."""
    with MaintainRun(config) as run:
        run.merge()
    assert run.report.files_merged > 1
    first = "SELECT min(doc_id) AS doc_id FROM sequences WHERE NOT held_out"
    doc_id = query(location_of(config), first).to_pylist()[0]["doc_id"]
    with Lake.open(location_of(config), read_only=False) as lake:
        forget(lake, [doc_id], reason="a test")
    return config, doc_id


@pytest.mark.slow
def test_the_documented_lines_read_the_rows_of_the_lake_and_no_others(
    used: tuple[Config, str], cli: Any, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, forgotten = used
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert COMMAND.startswith("logitlake ")
    done = cli(*COMMAND.split()[1:], "--config", config_file)
    assert done.exit_code == 0, done.stderr
    read: dict[str, Any] = {}
    exec(LINES, read)
    expected = query(
        location_of(config), "SELECT doc_id, window_index FROM sequences WHERE NOT held_out ORDER BY ALL"
    ).to_pylist()
    assert forgotten not in {row["doc_id"] for row in expected}
    rows = [(row["doc_id"], row["window_index"]) for row in expected]
    assert sorted(read["in_polars"].select("doc_id", "window_index").rows()) == rows
    assert sorted(read["in_pandas"][["doc_id", "window_index"]].itertuples(index=False, name=None)) == rows
    in_datasets = read["in_datasets"]
    assert sorted(zip(in_datasets["doc_id"], in_datasets["window_index"], strict=True)) == rows


def test_the_files_themselves_would_give_other_rows(used: tuple[Config, str]) -> None:
    """So the lake of the test above has what the docs warn of: old files, and rows of a forgotten document."""
    config, forgotten = used
    files = (config.lake.path / "data/store/sequences").rglob("*.parquet")
    paths = [path for path in files if not path.stem.endswith("-delete")]  # DuckLake notes deleted rows in these
    doc_ids = [doc_id for path in paths for doc_id in polars.read_parquet(path)["doc_id"]]
    n_rows = query(location_of(config), "SELECT count(*) AS n FROM sequences").to_pylist()[0]["n"]
    assert len(doc_ids) > n_rows
    assert forgotten in doc_ids


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), DOCS.parent / "README.md"]), ids=lambda path: path.name)
def test_no_page_shows_how_to_read_the_files_of_a_lake_directly(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(read_parquet|scan_parquet|load_dataset|dataset)\([^)]*(store|lake/data)", text)

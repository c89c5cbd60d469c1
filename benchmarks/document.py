"""Puts what is under benchmarks/results into docs/benchmarks.md: `python -m benchmarks.document`.

Between `<!-- results: NAME -->` and `<!-- end -->` stand figures, tables and plot of the last full run of NAME, and the
commit, the machine and the command that made them. The words around them are written by hand.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.reporting import RESULTS, cell_text
from benchmarks.surroundings import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
_PLACE = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_results(text: str, results: Path) -> str:
    """The document with the results of every benchmark that has any; the others keep what they have."""

    def replace(match: re.Match[str]) -> str:
        path = results / f"{match[2]}.json"
        if not path.exists():
            return match[0]
        return match[1] + "\n" + as_markdown(json.loads(path.read_text(encoding="utf-8"))) + "\n" + match[3]

    return _PLACE.sub(replace, text)


def as_markdown(record: Mapping[str, Any]) -> str:
    """Figures against their goals, tables, notes, plot, and where the numbers come from."""
    parts = [_figures(record)]
    for table in record["tables"]:
        parts.append(f"{table['title']}:\n\n{_table(table['columns'], table['rows'])}")
    parts += record["notes"]
    parts.append(f"![{record['title']}](../benchmarks/results/{record['benchmark']}.png)")
    parts.append(_provenance(record))
    return "\n\n".join(parts) + "\n"


def _figures(record: Mapping[str, Any]) -> str:
    rows: list[list[Any]] = []
    for key, value in record["figures"].items():
        goals = [goal for goal in record["reach"] if goal["key"] == key]
        for goal in goals:
            over = f" x `{goal['over']}`" if goal.get("over") else ""
            rows.append([f"`{key}`", value, f"{goal['kind']} {goal['bound']:g}{over}", "yes" if goal["met"] else "no"])
        rows += [] if goals else [[f"`{key}`", value, "", ""]]
    return _table(["figure", "measured", "goal", "reached"], rows)


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *([cell_text(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _provenance(record: Mapping[str, Any]) -> str:
    machine, versions = record["hardware"], record["versions"]
    changed = ", with changes that were not committed" if record["modified"] else ""
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"`{record['command']}` at commit `{record['commit'][:12]}`{changed}; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_gb']:g} GB, computing in {machine['computes_in']}, load "
        f"{machine['load_before']:g} before; {listed}."
    )


if __name__ == "__main__":
    DOCUMENT.write_text(with_results(DOCUMENT.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")

"""Is what is stored what was committed? Rows against their checksums, documents against their rows."""

from collections.abc import Iterator
from dataclasses import dataclass

from logitlake.storage.errors import IntegrityError, LakeError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.lake.schema import SEQUENCES
from logitlake.storage.shards.writing import check_rows

_IN_SAMPLE = "('0x' || substr(md5(unit_id || ?), 1, 8))::BIGINT < ?::DOUBLE * 4294967296"


@dataclass(frozen=True, slots=True)
class UnitCheck:
    """What was found of one work unit; `problem` is empty where all is well."""

    unit_id: str
    recipe_id: str
    n_sequences: int
    problem: str


def verify(lake: Lake, *, sample: float = 1.0, salt: str = "") -> Iterator[UnitCheck]:
    """Check a share of the work units (all by default), one at a time: memory does not grow with the lake.

    The sample is the units whose salted id falls lowest by hash: the same ones for the same share and salt, others for
    another salt, such as the date. Raises nothing for a bad unit.
    """
    units = lake.sql(
        f"""
        SELECT unit_id, recipe_id, sum(n_sequences)::BIGINT AS n_sequences
        FROM store.documents WHERE {_IN_SAMPLE} GROUP BY ALL ORDER BY unit_id
        """,
        [salt, sample],
    )
    for unit in units.to_pylist():
        yield UnitCheck(unit["unit_id"], unit["recipe_id"], unit["n_sequences"], _problem(lake, unit))


def count_units(lake: Lake, *, sample: float = 1.0, salt: str = "") -> int:
    """How many work units `verify` would check."""
    question = f"SELECT count(DISTINCT (unit_id, recipe_id)) AS n FROM store.documents WHERE {_IN_SAMPLE}"
    return int(lake.row(question, [salt, sample])["n"])


def _problem(lake: Lake, unit: dict[str, object]) -> str:
    columns = ", ".join(f'"{name}"' for name in SEQUENCES.names)
    try:
        rows = lake.sql(f"SELECT {columns} FROM store.sequences WHERE unit_id = ?", [unit["unit_id"]])
        check_rows(rows, f"unit {unit['unit_id']}")
    except (LakeError, IntegrityError) as error:
        return str(error)
    if rows.num_rows == unit["n_sequences"]:
        return ""
    # A document may have been forgotten since the units were listed; one statement sees one moment.
    now = lake.row(
        """
        SELECT
            (SELECT coalesce(sum(n_sequences), 0)::BIGINT FROM store.documents WHERE unit_id = $unit) AS expected,
            (SELECT count(*) FROM store.sequences WHERE unit_id = $unit) AS found
        """,
        {"unit": unit["unit_id"]},
    )
    return "" if now["expected"] == now["found"] else f"expected {now['expected']} sequences, found {now['found']}"

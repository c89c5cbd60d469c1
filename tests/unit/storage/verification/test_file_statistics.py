"""Statistics by which queries pass over files are compared with the rows."""

import sqlite3
from contextlib import closing

import pytest

from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.file_statistics import check_statistics


@pytest.mark.parametrize("change", ["", "max_value = '0'", "min_value = 'zzz'", "null_count = 1"])
def test_a_wrong_range_in_the_catalog_is_found(full_lake, location, change):
    full_lake.close()
    if change:
        with closing(sqlite3.connect(location.catalog_file)) as connection, connection:
            count = connection.execute(
                f"UPDATE ducklake_file_column_stats SET {change} WHERE min_value = 'promoted'"
            ).rowcount
            assert count == 1
    with Lake.open(location) as lake:
        problems = [check for check in check_statistics(lake) if check.problem]
    assert [check.table for check in problems] == ["promotions"] * bool(change)
    assert all("decision" in check.problem for check in problems)

"""Units of which a killed process wrote a part: their other documents are in the units that were committed later."""

from collections.abc import Collection

import pyarrow as pa

from logitlake.storage.lake.lake import Transaction


def count_again(transaction: Transaction, unit_ids: Collection[str]) -> None:
    """Let the commits of these units say what is held of them: their other documents are in other units."""
    if not unit_ids:
        return
    connection = transaction.connection
    connection.register("split_units", pa.table({"unit_id": sorted(unit_ids)}))
    rows = connection.execute(
        """
        SELECT
            c.* REPLACE (s.n_documents AS n_documents, s.n_sequences AS n_sequences, s.n_tokens AS n_tokens,
                s.n_targets AS n_targets)
        FROM store.commits AS c
        JOIN (
            SELECT
                unit_id, count(DISTINCT doc_id) AS n_documents, count(*) AS n_sequences,
                sum(n_tokens)::BIGINT AS n_tokens, sum(n_targets)::BIGINT AS n_targets
            FROM store.sequences WHERE unit_id IN (FROM split_units) GROUP BY unit_id
        ) AS s USING (unit_id)
        """
    ).to_arrow_table()
    connection.execute("DELETE FROM store.commits WHERE unit_id IN (FROM split_units)")
    connection.unregister("split_units")
    transaction.insert("commits", rows)

"""Rows that a killed transaction left in files, and that a later transaction wrote again: each counts once.

A process that is killed before COMMIT leaves the files that it wrote, and a rebuild reads them. Its work was done again
afterwards, so the last row is the one that was committed.
"""

from collections.abc import Collection

import pyarrow as pa

from logitlake.storage.lake.lake import Transaction


def drop_repeated_promotions(transaction: Transaction) -> None:
    """Keep the last of decisions that repeat each other: no alias is moved twice in a row to the same student."""
    transaction.connection.execute(
        """
        DELETE FROM store.promotions WHERE (alias, commit_number, decided_at) IN (
            SELECT (alias, commit_number, decided_at) FROM (
                SELECT
                    alias, commit_number, decided_at,
                    (student_id, decision) = lead((student_id, decision)) OVER (
                        PARTITION BY alias ORDER BY commit_number, decided_at
                    ) AS is_repeated
                FROM store.promotions WHERE decision <> 'rejected'
            ) WHERE is_repeated
        )
        """
    )


def drop_repeated_commits(transaction: Transaction) -> None:
    """Keep the last commit of each work unit."""
    transaction.connection.execute(
        """
        DELETE FROM store.commits WHERE (unit_id, commit_number, committed_at) IN (
            SELECT (unit_id, commit_number, committed_at) FROM (
                SELECT
                    unit_id, commit_number, committed_at,
                    row_number() OVER (PARTITION BY unit_id ORDER BY committed_at DESC, commit_number DESC) AS place
                FROM store.commits
            ) WHERE place > 1
        )
        """
    )


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

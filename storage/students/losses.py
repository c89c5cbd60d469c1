"""What each student lost on each document it was measured on, beside its teacher: where it has most to learn."""

from datetime import UTC, datetime

import pyarrow as pa

from logitlake.storage.lake.lake import Lake, Transaction

# Sums over the `n_targets` targets of a document, in nats; `kl` is null where the divergence is not known.
LOSSES = pa.schema(
    [
        ("doc_id", pa.string()),
        ("n_targets", pa.int64()),
        ("student_loss", pa.float64()),
        ("teacher_loss", pa.float64()),
        ("kl", pa.float64()),
    ]
)


def record_losses(lake: Lake, losses: pa.Table, *, student_id: str, recipe_id: str, run_id: str, exact: bool) -> None:
    """Keep the losses (LOSSES) of one measurement. The view `student_losses` shows the last of each document.

    `exact`: the teacher's part is from the teacher itself, not from the cache. Documents forgotten meanwhile stay out.
    """

    def insert(transaction: Transaction) -> None:
        connection = transaction.connection
        connection.register("incoming_losses", losses)
        connection.execute(
            """
            INSERT INTO store.student_losses BY NAME
            SELECT i.*, ? AS student_id, ? AS recipe_id, ? AS exact, ? AS run_id, ?::TIMESTAMPTZ AS measured_at
            FROM incoming_losses AS i
            WHERE NOT EXISTS (FROM store.tombstones AS t WHERE t.doc_id = i.doc_id)
            """,
            [student_id, recipe_id, exact, run_id, datetime.now(UTC)],
        )
        connection.unregister("incoming_losses")

    if losses.num_rows:
        lake.change(insert)

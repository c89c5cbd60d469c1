"""Loss of each student and of its teacher on each document that the student was evaluated on."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

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
    """Store the losses (LOSSES) of one evaluation. The view `student_losses` shows the last of each document.

    `exact`: the teacher's loss comes from the teacher itself, not from the cache. Forgotten documents are left out.
    """

    def insert(transaction: Transaction) -> None:
        forgotten = lake.sql("SELECT DISTINCT doc_id FROM store.tombstones")["doc_id"].combine_chunks()
        rows = losses.filter(pc.invert(pc.is_in(losses["doc_id"], value_set=forgotten)))
        shared = {
            "student_id": student_id,
            "recipe_id": recipe_id,
            "exact": exact,
            "run_id": run_id,
            "measured_at": datetime.now(UTC),
        }
        for name, value in shared.items():
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
        transaction.insert("student_losses", rows)

    if losses.num_rows:
        lake.change(insert)

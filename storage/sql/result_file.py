"""The answer to a question as a Parquet file, a batch at a time, whole or not at all."""

from pathlib import Path

import pyarrow.parquet as pq

from logitlake.storage.errors import QueryError
from logitlake.storage.sql.session import ReadSession


def write_parquet(session: ReadSession, sql: str, path: Path, *, timeout: float | None = None) -> int:
    """Write it, and return the number of rows.

    Raises QueryError for a query that fails or a place that can't be written.
    """
    staged = path.with_name(f".{path.name}.tmp")
    n_rows = 0
    try:
        with (
            session.batches(sql, timeout=timeout) as batches,
            pq.ParquetWriter(staged, batches.schema, compression="zstd") as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
                n_rows += batch.num_rows
        staged.replace(path)
    except OSError as error:
        raise QueryError(f"{path}: can't be written ({error.strerror or error})") from None
    finally:
        staged.unlink(missing_ok=True)
    return n_rows

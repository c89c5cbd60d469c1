"""The captured sequences that a benchmark reads, chosen by hash: the same on every run and machine."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from benchmarks.captured import captured_lake
from logitlake.pipeline.targets.arrow_lists import flat_lists
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.identity import digest
from logitlake.storage.lake.lake import Lake
from logitlake.storage.schema.sequences import SEQUENCES

SALT = b"benchmark sample"


def captured(*, held_out: bool) -> pa.Table:
    """The rows (SEQUENCES) of the shared lake that training may see, or the held-out ones."""
    columns = ", ".join(f'"{name}"' for name in SEQUENCES.names if name != "mean_nll")
    with Lake.open(captured_lake()) as lake:
        rows = lake.sql(
            f"SELECT {columns}, (-mean_logprob)::FLOAT AS mean_nll FROM sequences WHERE held_out = ? "
            "ORDER BY unit_id, doc_id, window_index",
            [held_out],
        )
    return rows.select(SEQUENCES.names).cast(SEQUENCES).combine_chunks()


def whole_documents(rows: pa.Table, n_targets: int) -> pa.Table:
    """Documents in the order of their hash, windows in theirs, until they hold `n_targets` targets or all are in."""
    return _first_by(rows, [_hash(doc_id) for doc_id in rows["doc_id"].to_pylist()], n_targets)


def single_windows(rows: pa.Table, n_targets: int) -> pa.Table:
    """Windows in the order of their hash, so that they come from many documents, until they hold `n_targets`."""
    names = zip(rows["doc_id"].to_pylist(), rows["window_index"].to_pylist(), strict=True)
    return _first_by(rows, [_hash(f"{doc_id}:{window}") for doc_id, window in names], n_targets)


def sequences_of(rows: pa.Table, n_targets: int | None = None) -> list[TokenSequence]:
    """The sequences that rows were made from; with `n_targets`, targets past so many are left out."""
    tokens, bounds = flat_lists(rows["input_ids"])
    has_target = rows["target_ids"].combine_chunks().flatten().value_lengths().to_numpy(zero_copy_only=False) > 0
    if n_targets is not None:
        has_target = has_target & (np.cumsum(has_target) <= n_targets)
    columns = ("doc_id", "window_index", "start")
    values = zip(*(rows[name].to_pylist() for name in columns), bounds[:-1], bounds[1:], strict=True)
    return [
        TokenSequence(doc_id, window, start, tokens[begin:end].astype(np.int32), has_target[begin:end])
        for doc_id, window, start, begin, end in values
    ]


def padded_ids(sequences: Sequence[TokenSequence]) -> torch.Tensor:
    """Input ids int64 [B, L], padded on the right, where causal attention never looks."""
    ids = [torch.from_numpy(sequence.input_ids.astype(np.int64)) for sequence in sequences]
    return torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)


def in_batches(sequences: Sequence[TokenSequence], tokens: int) -> list[list[TokenSequence]]:
    """Consecutive sequences of at most so many tokens together, one at least."""
    batches: list[list[TokenSequence]] = []
    held = tokens
    for sequence in sequences:
        if held + len(sequence.input_ids) > tokens:
            batches.append([])
            held = 0
        batches[-1].append(sequence)
        held += len(sequence.input_ids)
    return batches


def _hash(name: str) -> str:
    return digest(SALT, name.encode())


def _first_by(rows: pa.Table, keys: Sequence[str], n_targets: int) -> pa.Table:
    order = sorted(range(rows.num_rows), key=lambda row: (keys[row], row))
    reached = np.cumsum(rows["n_targets"].to_numpy()[order])
    count = min(int(np.searchsorted(reached, n_targets)) + 1, len(order))
    return rows.take(pa.array(order[:count])).combine_chunks()

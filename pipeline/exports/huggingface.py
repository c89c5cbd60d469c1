"""Plain columns for the Hugging Face Hub: ids with their probabilities, statistics in nats, no code to decode.

`logitlake.collate_rows` makes batches for training of such rows.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logitlake.pipeline.exports.entries import merged_entries
from logitlake.pipeline.exports.export_format import ExportContext, ExportFormat
from logitlake.storage.schema.row_bytes import one_chunk
from logitlake.storage.schema.sequences import STEPS_PER_NAT

_PLAIN = ("recipe_id", "doc_id", "corpus", "source", "window_index", "start", "n_tokens", "n_targets", "input_ids")
_OF_TRACES = ("writer", "verdict", "verdict_reason")
_NOTES = """| column | meaning |
|---|---|
| `doc_id`, `window_index`, `start` | the document, which window of it, and the offset of its first token |
| `corpus`, `source`, `recipe_id` | where the document was, and under which recipe the teacher read it |
| `n_tokens`, `n_targets` | tokens, and positions with a target |
| `input_ids` | the token ids that the teacher read |
| `target_ids`, `target_probs` | at position i: ids and their probabilities as token i+1; empty: no target |
| `entropy` | at position i: the teacher's entropy in nats; null: no target, or unknown |
| `logprob` | at position i: the teacher's log-probability of the real token i+1; null: no target, or unknown |
| `mean_entropy`, `mean_logprob` | their means |
| `writer`, `writer_logprob` | of a text that a model wrote: the model, its log-probabilities |
| `verdict`, `verdict_reason` | of the same: what a verifier said |
| `weight` | sampling weight of the row, if it was chosen with one |

To train on it: `logitlake.collate_rows` is a collate function for a `DataLoader` over this data set.
"""


def _convert(rows: pa.Table, context: ExportContext) -> pa.Table:
    entries = merged_entries(rows, cut_mass="ghost")
    columns = {name: rows[name] for name in _PLAIN}
    columns["target_ids"] = entries.nested(entries.ids)
    columns["target_probs"] = entries.nested(entries.probs.astype(np.float32))
    columns["entropy"] = _nats(rows["entropy_codes"], None, 1)
    columns["logprob"] = _nats(rows["nll_codes"], rows["nll_steps_per_nat"], -1)
    columns["mean_entropy"] = rows["mean_entropy"]
    columns["mean_logprob"] = pc.negate(rows["mean_nll"])
    columns["writer_logprob"] = _nats(rows["writer_nll_codes"], rows["writer_nll_steps_per_nat"], -1)
    columns |= {name: rows[name] for name in _OF_TRACES}
    if "weight" in rows.column_names:
        columns["weight"] = rows["weight"]
    return pa.table(columns)


def _nats(codes: pa.ChunkedArray, steps: pa.ChunkedArray | None, sign: int) -> pa.Array:
    """Codes of a statistic as nats, float32 lists; a null stays null."""
    lists = one_chunk(codes)
    flat = lists.flatten()
    steps_R = np.full(len(lists), STEPS_PER_NAT) if steps is None else pc.fill_null(steps, STEPS_PER_NAT).to_numpy()
    lengths_R = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    scale = pa.array(sign / np.repeat(steps_R, lengths_R))
    nats = pc.multiply(flat.cast(pa.float64()), scale).cast(pa.float32())
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths_R)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, nats, mask=lists.is_null())


HUGGING_FACE = ExportFormat(
    columns=(
        *_PLAIN,
        *("levels", "target_ids", "head_codes", "entropy_codes", "nll_codes", "nll_steps_per_nat"),
        *("mean_entropy", "mean_nll", "writer_nll_codes", "writer_nll_steps_per_nat", *_OF_TRACES),
    ),
    convert=_convert,
    notes=_NOTES,
)

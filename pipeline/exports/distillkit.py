"""Arcee DistillKit's compressed logits: what its `kind: dataset` teacher reads, without approximation.

Every position has k ids, bit-packed, and k float32 log-probabilities: `exact_k` is k, so no polynomial is fitted. A
position with fewer ids is filled up with other ids that are worth e^-100.

Shapes: N positions of all rows, P of one part of them, k entries of each, B bytes or bits.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray

from logitlake.pipeline.exports.entries import MergedEntries, merged_entries
from logitlake.pipeline.exports.export_format import ExportContext, ExportFormat
from logitlake.storage.errors import SettingsError

# Worth nothing beside the smallest stored probability, and finite: 0 · -inf would be NaN in DistillKit's loss.
FILLING_LOGPROB = -100.0
_PART = 16_384
_NOTES = """| column | meaning |
|---|---|
| `input_ids` | the token ids that the teacher read |
| `labels` | `input_ids` where the position has a target, else -100: the mask of DistillKit's KL loss |
| `compressed_logprobs` | per position: k log-probabilities as float32, falling |
| `bytepacked_indices` | per position: their ids, bit-packed |

`distillkit.yaml` has the section `teacher` that decodes them, and the loss that fits these targets. Pack the rows to
one length first (`distillkit-pack-logits`).
"""


def _convert(rows: pa.Table, context: ExportContext) -> pa.Table:
    entries = merged_entries(rows, cut_mass="ghost")
    k, bits = context.max_entries, index_bits(_vocabulary(context))
    logprobs_NB = np.empty((len(entries.counts), 4 * k), np.uint8)
    indices_NB = np.empty((len(entries.counts), (k * bits + 7) // 8), np.uint8)
    for begin in range(0, len(entries.counts), _PART):
        part = slice(begin, begin + _PART)
        ids_Pk, logprobs_Pk = _filled(entries, part, k)
        logprobs_NB[part] = np.ascontiguousarray(logprobs_Pk.astype("<f4")).view(np.uint8)
        indices_NB[part] = packed(ids_Pk, bits)
    return pa.table(
        {
            "input_ids": rows["input_ids"].cast(pa.list_(pa.uint64())),
            "labels": _labels(rows["input_ids"].combine_chunks(), entries),
            "compressed_logprobs": _bytes_column(entries, logprobs_NB),
            "bytepacked_indices": _bytes_column(entries, indices_NB),
        }
    )


def index_bits(vocabulary: int) -> int:
    """Bits of an id, as DistillKit computes them: in float32."""
    return int(np.ceil(np.log2(np.float32(vocabulary))))


def packed(ids_Pk: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """Bytes [P, B] that hold `bits` bits of each id one after the other, the highest bit first, zeros last."""
    shifts = np.arange(bits - 1, -1, -1)
    bits_Pkb = ((ids_Pk[..., None] >> shifts) & 1).astype(np.uint8)
    return np.packbits(bits_Pkb.reshape(len(ids_Pk), -1), axis=1)


def _filled(entries: MergedEntries, part: slice, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids [P, k] that differ from each other, and their log-probabilities [P, k], of some positions."""
    counts_P = entries.counts[part]
    begin, end = entries.offsets[part.start], entries.offsets[part.start + len(counts_P)]
    rows_E = np.repeat(np.arange(len(counts_P)), counts_P)
    columns_E = np.arange(begin, end) - np.repeat(entries.offsets[:-1][part], counts_P)
    ids_E = entries.ids[begin:end].astype(np.int64)
    ids_Pk = np.empty((len(counts_P), k), np.int64)
    logprobs_Pk = np.full((len(counts_P), k), FILLING_LOGPROB)
    ids_Pk[rows_E, columns_E] = ids_E
    logprobs_Pk[rows_E, columns_E] = np.log(entries.probs[begin:end])
    # Of the ids below k, at least as many are free as entries are missing.
    free_Pk = np.ones((len(counts_P), k), bool)
    small_E = ids_E < k
    free_Pk[rows_E[small_E], ids_E[small_E]] = False
    slots_Pk = np.cumsum(free_Pk, axis=1) - 1 + counts_P[:, None]
    at, fillers = np.nonzero(free_Pk & (slots_Pk < k))
    ids_Pk[at, slots_Pk[at, fillers]] = fillers
    return ids_Pk, logprobs_Pk


def _labels(input_ids: pa.ListArray, entries: MergedEntries) -> pa.Array:
    labels = np.where(entries.counts > 0, input_ids.flatten().to_numpy(), -100).astype(np.int64)
    return pa.ListArray.from_arrays(pa.array(entries.row_offsets.astype(np.int32)), labels)


def _bytes_column(entries: MergedEntries, bytes_NB: NDArray[np.uint8]) -> pa.Array:
    offsets = pa.array(np.arange(len(bytes_NB) + 1, dtype=np.int32) * bytes_NB.shape[1], pa.int32())
    inner = pa.ListArray.from_arrays(offsets, bytes_NB.reshape(-1))
    return pa.ListArray.from_arrays(pa.array(entries.row_offsets.astype(np.int32)), inner)


def _vocabulary(context: ExportContext) -> int:
    return int(context.recipe["vocabulary"])


def _check(context: ExportContext) -> None:
    if context.recipe["temperature"] != 1:
        raise SettingsError(
            f"export distillkit: expected targets at temperature 1, found {context.recipe['temperature']:g}: "
            "DistillKit takes every data set for one of temperature 1; export another recipe, or --as huggingface"
        )


def _files(context: ExportContext) -> Mapping[str, str]:
    k = context.max_entries
    compressor = {
        "d": _vocabulary(context),
        "k": k,
        "exact_k": k,
        "exact_dtype": "float32",
        "polynomial_terms": [],
        "residual_bins": [],
        "delta_encoding": False,
        "error_diffusion": False,
    }
    loss = {"function": "kl", "weight": 1.0, "temperature": 1.0, "missing_probability_handling": "zero"}
    sections = {
        "teacher": {"kind": "dataset", "logprob_compressor": compressor},
        "loss_functions": [loss],
    }
    return {"distillkit.yaml": yaml.safe_dump(sections, sort_keys=False)}


DISTILLKIT = ExportFormat(
    columns=("levels", "input_ids", "target_ids", "head_codes"),
    convert=_convert,
    check=_check,
    notes=_NOTES,
    files=_files,
    file_tokens=250_000,
    part_tokens=100_000,
    needs_max_entries=True,
)

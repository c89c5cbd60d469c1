"""Rows of another program → rows of the cache (CAPTURED).

Shapes: R rows; N tokens; P positions with a target; E entries of them.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from logitlake.pipeline.imports.sparse_rows import SparseRows
from logitlake.pipeline.settings.target import MAX_LEVELS
from logitlake.pipeline.targets.arrow_lists import running_sums
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.encoding import statistic_codes
from logitlake.pipeline.targets.merging import merge_entries
from logitlake.pipeline.targets.quantize import systematic_codes
from logitlake.storage.errors import CorpusError, MismatchError
from logitlake.storage.identity import document_id
from logitlake.storage.schema.sequences import CAPTURED, complete_rows

# Above this, the numbers are no log-probabilities, or were decoded with other settings.
_LARGEST_SUM = 1.1
# A shift by one is suspected only if it is plain, and if there are this many positions to judge by.
_MOSTLY, _SELDOM = 0.8, 0.4
_ENOUGH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOrigin:
    """What all rows of one file have in common."""

    recipe_id: str
    corpus: str
    source: str
    seed: int


def document_ids(rows: SparseRows) -> list[str]:
    """The id of each row: the hash of its token ids."""
    bounds = rows.row_offsets.tolist()
    return [document_id({"input_ids": rows.tokens[begin:end].tolist()}) for begin, end in pairwise(bounds)]


def check_rows(rows: SparseRows, vocabulary: int) -> None:
    """Raises MismatchError for ids that the tokenizer does not have, CorpusError for what is no probability."""
    positions_E = np.repeat(np.arange(len(rows.tokens)), np.diff(rows.offsets))
    worth = rows.probs != 0
    largest = max(int(rows.ids[worth].max(initial=0)), int(rows.tokens.max(initial=0)))
    smallest = int(rows.ids[worth].min(initial=0))
    if largest >= vocabulary or smallest < 0:
        raise MismatchError(
            f"expected ids below {vocabulary}, as many as the tokenizer has, found "
            f"{largest if largest >= vocabulary else smallest}; name the tokenizer of the teacher"
        )
    sums_N = np.bincount(positions_E, weights=rows.probs, minlength=len(rows.tokens))
    if not np.isfinite(sums_N).all() or (sums_N > _LARGEST_SUM).any():
        raise CorpusError(
            f"expected probabilities of a position to sum to 1 at most, found {np.nanmax(sums_N):.4g}: they are no "
            "log-probabilities, or were written with other settings"
        )


def check_alignment(rows: SparseRows) -> None:
    """Raises MismatchError if the targets look shifted by a position: the token at a position is nearly always among
    the entries and the next one seldom. A trained teacher gives the opposite."""
    positions_E = np.repeat(np.arange(len(rows.tokens)), np.diff(rows.offsets))
    worth = rows.probs > 0
    has_next_N = np.bincount(positions_E[worth], minlength=len(rows.tokens)) > 0
    has_next_N[rows.row_offsets[1:][rows.lengths > 0] - 1] = False
    if has_next_N.sum() < _ENOUGH:
        return
    same, following = (
        float(np.isin(np.flatnonzero(has_next_N), positions_E[worth & (rows.ids == tokens_N[positions_E])]).mean())
        for tokens_N in (rows.tokens, np.append(rows.tokens[1:], -1))
    )
    if same > _MOSTLY and following < _SELDOM:
        raise MismatchError(
            f"expected the targets at a position to be those of the next token, found the token at the position among "
            f"them in {same:.0%} of all cases, and the next one in {following:.0%}: they are shifted by one; move them "
            "one position to the left, or import them as they are with --no-check-alignment"
        )


def encode_sparse_rows(rows: SparseRows, doc_ids: list[str], origin: ImportOrigin) -> pa.Table:
    """One row per row, with heads alone. Entropy is unknown and null; the log-probability of the real token is known
    where that token is among the entries.

    Probabilities are rounded without bias to multiples of 1/65,535; those above 1 in sum are scaled to 1. An entry that
    rounds to 0 is dropped. Rows without any target are left out, and so is a target after the last token.
    """
    is_last_N = np.zeros(len(rows.tokens), bool)
    is_last_N[rows.row_offsets[1:] - 1] = True
    rows = rows.masked(~is_last_N)
    offsets, ids, probs = merge_entries(rows.offsets, rows.ids, rows.probs)
    counts_N = np.diff(offsets)
    at_P = np.flatnonzero(counts_N)
    rows_P = np.searchsorted(rows.row_offsets, at_P, side="right") - 1
    keys_P2 = document_keys(origin.seed, doc_ids)[rows_P]
    uniforms_P = uniforms(keys_P2, at_P - rows.row_offsets[rows_P] + 1, 1)[:, 0]
    offsets_P1 = running_sums(counts_N[at_P])
    positions_E = np.repeat(np.arange(len(at_P)), counts_N[at_P])
    rest_P = np.maximum(1 - np.bincount(positions_E, weights=probs, minlength=len(at_P)), 0.0)
    codes = systematic_codes(probs, offsets_P1, rest_P, uniforms_P, MAX_LEVELS)
    nll_N = _nll(rows, at_P[positions_E], ids, probs)
    coded = codes > 0
    coded_N = np.bincount(at_P[positions_E][coded], minlength=len(rows.tokens))
    lists = pa.array(running_sums(coded_N).astype(np.int32))
    bounds = pa.array(rows.row_offsets.astype(np.int32))
    n_targets_R = np.add.reduceat((coded_N > 0).astype(np.int64), rows.row_offsets[:-1])
    known_N = ~np.isnan(nll_N) & (coded_N > 0)
    nll_codes = np.zeros(len(nll_N), np.uint16)
    nll_codes[known_N] = statistic_codes(nll_N[known_N])
    n_known_R = np.add.reduceat(known_N.astype(np.int64), rows.row_offsets[:-1])
    sums_R = np.add.reduceat(np.where(known_N, nll_N, 0.0), rows.row_offsets[:-1])
    columns = {
        "recipe_id": pa.array([origin.recipe_id] * len(doc_ids), pa.string()),
        "doc_id": pa.array(doc_ids, pa.string()),
        "corpus": pa.array([origin.corpus] * len(doc_ids), pa.string()),
        "source": pa.array([origin.source] * len(doc_ids), pa.string()),
        "window_index": pa.array(np.zeros(len(doc_ids), np.int32)),
        "start": pa.array(np.zeros(len(doc_ids), np.int32)),
        "n_tokens": pa.array(rows.lengths.astype(np.int32)),
        "n_targets": pa.array(n_targets_R.astype(np.int32)),
        "levels": pa.array(np.full(len(doc_ids), MAX_LEVELS, np.int32)),
        "input_ids": pa.ListArray.from_arrays(bounds, pa.array(rows.tokens)),
        "target_ids": pa.ListArray.from_arrays(bounds, pa.ListArray.from_arrays(lists, pa.array(ids[coded]))),
        "head_codes": pa.ListArray.from_arrays(bounds, pa.ListArray.from_arrays(lists, pa.array(codes[coded]))),
        "entropy_codes": pa.ListArray.from_arrays(bounds, pa.nulls(len(rows.tokens), pa.uint16())),
        "nll_codes": pa.ListArray.from_arrays(bounds, pa.array(nll_codes, mask=~known_N)),
        "mean_entropy": pa.nulls(len(doc_ids), pa.float32()),
        "mean_nll": pa.array((sums_R / np.maximum(n_known_R, 1)).astype(np.float32), mask=n_known_R < n_targets_R),
    }
    return complete_rows(pa.table(columns), CAPTURED).filter(pa.array(n_targets_R > 0))


def _nll(
    rows: SparseRows, at_E: NDArray[np.int64], ids: NDArray[np.int32], probs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minus the log-probability of the next token, float64 [N]; NaN where it is not among the entries."""
    nll_N = np.full(len(rows.tokens), np.nan)
    is_next = ids == np.append(rows.tokens[1:], -1)[at_E]
    nll_N[at_E[is_next]] = np.maximum(-np.log(probs[is_next]), 0.0)
    return nll_N

"""Chooses a sparsifier's setting from bytes per target, by a small probe of teacher and shard encoder.

One forward over a few thousand tokens serves a whole grid of candidate values; each is encoded as a shard, and
the requested size is interpolated between two of them. The file's footer is not counted: in a real shard it is shared
by a million tokens.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from logitlake.pipeline.capture.drawing import batch_targets
from logitlake.pipeline.capture.planning import make_batches
from logitlake.pipeline.settings.models import CaptureSettings, TargetSettings
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.tokens.sequences import TokenizedDocument, TokenSequence
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import ID_LENGTH
from logitlake.storage.shards.writing import encode_shard
from logitlake.storage.writing.commits import stored_rows

_PROBE_TOKENS = 4096
# At most this number of windows per document, so that one long document is not the whole sample.
_WINDOWS_PER_DOCUMENT = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """`target` has the chosen value in place of `target_bytes`; `bytes_per_target` is what it is expected to take."""

    target: TargetSettings
    setting: str
    value: float
    bytes_per_target: float
    n_tokens: int


def probe(
    documents: Iterable[TokenizedDocument], *, engine: Engine, target: TargetSettings, settings: CaptureSettings
) -> ProbeResult:
    """The value of the sparsifier's setting at which a target takes `target.target_bytes` on disk, all columns counted.

    `documents` may be any of the corpus, such as those of the first work unit: the sample is taken by document id, so
    that their order does not matter. Rounded to 3 significant digits. Raises SettingsError if no value gives that size.
    """
    if target.target_bytes is None:
        raise ValueError("target.target_bytes: expected a number, found None")
    sample = _sample(documents)
    if not sample:
        raise SettingsError(
            f"target.target_bytes: found no document to probe; set target.{target.size_knob.setting} instead"
        )
    candidates = [target.with_size(value) for value in target.size_knob.grid]
    sizes = _sizes(sample, candidates, engine, target, settings)
    value, size = _interpolate(sizes, target)
    return ProbeResult(
        target=target.with_size(value),
        setting=target.size_knob.setting,
        value=value,
        bytes_per_target=size,
        n_tokens=sum(len(sequence.input_ids) for sequence in sample),
    )


def _sample(documents: Iterable[TokenizedDocument]) -> list[TokenSequence]:
    """Windows of the documents with the lowest ids (hashes of content, so any documents), up to _PROBE_TOKENS."""
    sample: list[TokenSequence] = []
    n_tokens = 0
    for document in sorted(documents, key=lambda tokenized: tokenized.document.doc_id):
        for sequence in document.sequences[:_WINDOWS_PER_DOCUMENT]:
            sample.append(sequence)
            n_tokens += len(sequence.input_ids)
            if n_tokens >= _PROBE_TOKENS:
                return sample
    return sample


def _sizes(
    sample: Sequence[TokenSequence],
    candidates: Sequence[TargetSettings],
    engine: Engine,
    target: TargetSettings,
    settings: CaptureSettings,
) -> list[float]:
    """Bytes per target of each candidate, from one forward over the sample."""
    sparsifiers = [make_sparsifier(candidate) for candidate in candidates]
    tables: list[list[pa.Table]] = [[] for _ in candidates]
    for indices in make_batches([len(sequence.input_ids) for sequence in sample], settings.batch_tokens):
        batch = [sample[i] for i in indices]
        all_targets, statistics = batch_targets(
            engine, batch, sparsifiers, temperature=target.temperature, seed=target.seed
        )
        names = [""] * len(batch)
        origin = RowOrigin(recipe_id="0" * ID_LENGTH, corpora=names, sources=names)
        for rows, targets in zip(tables, all_targets, strict=True):
            rows.append(encode_rows(batch, targets, statistics, origin, nll_steps_per_nat=target.logprob_steps_per_nat))
    n_targets = sum(int(sequence.has_target.sum()) for sequence in sample)
    return [_bytes_of(pa.concat_tables(rows)) / n_targets for rows in tables]


def _bytes_of(rows: pa.Table) -> int:
    stored = stored_rows(rows)
    return len(encode_shard(stored, {})) - len(encode_shard(stored.slice(0, 0), {}))


def _interpolate(sizes: Sequence[float], target: TargetSettings) -> tuple[float, float]:
    """The value with the requested size, and the size expected at the rounded value.

    Linear between neighbours in log(size) over the size knob's own scale.
    """
    requested, knob = target.target_bytes, target.size_knob
    assert requested is not None
    # A grid step may have no effect; interpolation needs sizes that never decrease.
    rising = np.maximum.accumulate(np.array(sizes))
    if not rising[0] <= requested <= rising[-1]:
        raise SettingsError(
            f"target.target_bytes {requested:g}: {target.sparsifier} on this corpus takes between {rising[0]:.1f} and "
            f"{rising[-1]:.1f} bytes per target; choose a size between, or another sparsifier"
        )
    scale = np.array([knob.scaled(value) for value in knob.grid])
    scaled = float(np.interp(math.log(requested), np.log(rising), scale))
    value = knob.value_at(scaled)
    order = np.argsort(scale)
    expected = float(np.exp(np.interp(knob.scaled(value), scale[order], np.log(rising)[order])))
    return value, expected

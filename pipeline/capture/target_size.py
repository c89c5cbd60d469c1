"""From bytes per target to a threshold: a small probe through the real teacher and the real shard encoder.

One forward over a few thousand tokens serves a whole grid of candidate values; each is encoded as the shard it would
make, and the wanted size is interpolated between two of them. What a file costs by itself (its footer) is left out, for
a real shard spreads it over a million tokens.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from logitlake.pipeline.capture.planning import make_batches
from logitlake.pipeline.capture.target_size_question import PROBED_SETTING, with_value
from logitlake.pipeline.capture.unit import batch_targets
from logitlake.pipeline.settings.models import CaptureSettings, TargetSettings
from logitlake.pipeline.targets.encoding import RowOrigin, encode_rows
from logitlake.pipeline.targets.sparsifiers import make_sparsifier
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.tokens.sequences import TokenizedDocument, TokenSequence
from logitlake.storage.errors import SettingsError
from logitlake.storage.identity import ID_LENGTH
from logitlake.storage.shards.writing import encode_shard

_PROBE_TOKENS = 4096
# Of one long document only so many windows: a sample of the corpus, not of its longest text.
_WINDOWS_PER_DOCUMENT = 4
_GRID: dict[str, tuple[float, ...]] = {
    "varopt": (0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625, 0.044, 0.031, 0.022, 0.0156, 0.011, 0.0078, 0.0039, 0.002),
    "random": (1, 2, 4, 8, 16, 24, 36, 54, 80, 120, 180, 270, 540, 1080),
    "top_k": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024),
    "top_p": (0.1, 0.3, 0.5, 0.65, 0.75, 0.82, 0.88, 0.92, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999),
}


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
        raise ValueError("target.target_bytes: expected a number, found None; there is nothing to choose")
    sample = _sample(documents)
    if not sample:
        raise SettingsError("target.target_bytes: there is no document to probe; set the value by hand")
    candidates = [with_value(target, value) for value in _GRID[target.sparsifier]]
    sizes = _sizes(sample, candidates, engine, target, settings)
    value, size = _interpolate(_GRID[target.sparsifier], sizes, target)
    return ProbeResult(
        target=with_value(target, value),
        setting=PROBED_SETTING[target.sparsifier],
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
        found, statistics = batch_targets(engine, batch, sparsifiers, temperature=target.temperature, seed=target.seed)
        names = [""] * len(batch)
        origin = RowOrigin(recipe_id="0" * ID_LENGTH, unit_id="0" * ID_LENGTH, corpora=names, sources=names)
        for rows, targets in zip(tables, found, strict=True):
            rows.append(encode_rows(batch, targets, statistics, origin, nll_steps_per_nat=target.logprob_steps_per_nat))
    n_targets = sum(int(sequence.has_target.sum()) for sequence in sample)
    return [_bytes_of(pa.concat_tables(rows)) / n_targets for rows in tables]


def _bytes_of(rows: pa.Table) -> int:
    return len(encode_shard(rows, {})) - len(encode_shard(rows.slice(0, 0), {}))


def _interpolate(values: Sequence[float], sizes: Sequence[float], target: TargetSettings) -> tuple[float, float]:
    """The value whose size is the wanted one, and the size expected at the rounded value.

    Linear between neighbours in log(size) over log(value); for top_p over log(1 - p), where its size is straight.
    """
    wanted = target.target_bytes
    assert wanted is not None
    # A step of the grid may be without effect; interpolation wants sizes that never fall.
    rising = np.maximum.accumulate(np.array(sizes))
    if not rising[0] <= wanted <= rising[-1]:
        raise SettingsError(
            f"target.target_bytes {wanted:g}: {target.sparsifier} on this corpus takes between {rising[0]:.1f} and "
            f"{rising[-1]:.1f} bytes per target; choose a size between, or another sparsifier"
        )
    scale = np.array([_scale(value, target) for value in values])
    log_value = float(np.interp(math.log(wanted), np.log(rising), scale))
    value = _rounded(log_value, target)
    order = np.argsort(scale)
    expected = float(np.exp(np.interp(_scale(value, target), scale[order], np.log(rising)[order])))
    return value, expected


def _scale(value: float, target: TargetSettings) -> float:
    return math.log(1 - value) if target.sparsifier == "top_p" else math.log(value)


def _rounded(scaled: float, target: TargetSettings) -> float:
    """Back from the scale, to 3 significant digits (of 1 - p for top_p), within the setting's bounds."""
    value = float(f"{math.exp(scaled):.3g}")
    match target.sparsifier:
        case "varopt":
            return min(value, 0.5)
        case "top_p":
            return round(1 - value, 9)
        case _:
            return float(max(1, round(value)))

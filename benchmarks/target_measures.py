"""One sparsifier at one budget on the sample: entries, bytes, noise, bias, rounding, and the gradient that it makes.

Shapes: P positions, p of one chunk, S uniforms each, V ids.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.captured import captured_lake
from benchmarks.estimates import decode, mean_and_error, rounding_divergence, squared_bias, squared_error
from benchmarks.gradients import HeldOutGradient
from benchmarks.harness import Measurements
from benchmarks.replay import ReplayedTeacher
from benchmarks.sample import in_batches
from benchmarks.target_rows import target_rows
from benchmarks.target_sample import GRADIENT_POSITIONS, target_sample, target_settings
from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.sparsifiers import Sparsifier, make_sparsifier
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets
from logitlake.pipeline.tokens.sequences import TokenSequence
from logitlake.storage.lake.lake import Lake
from logitlake.storage.shards.writing import encode_shard
from logitlake.storage.writing.commits import stored_rows
from logitlake.storage.writing.recipes import find_recipe

BATCH_TOKENS = 4096
_DRAWS = 64


class Watched:
    """A sparsifier whose targets are compared with the distributions that they were made from."""

    def __init__(self, inner: Sparsifier, *, renormalise: bool) -> None:
        self._inner = inner
        self._renormalise = renormalise
        self.noise: list[NDArray[np.float64]] = []
        self.rounding: list[NDArray[np.float64]] = []
        self.entries: list[NDArray[np.int64]] = []

    @property
    def levels(self) -> int:
        return self._inner.levels

    @property
    def streams(self) -> int:
        return self._inner.streams

    def __call__(self, blocks: Blocks, uniforms_PS: NDArray[np.float64]) -> CodedTargets:
        targets = self._inner(blocks, uniforms_PS)
        probs_PV = blocks.logits_PV.float().softmax(-1)
        self.noise.append(squared_error(decode(targets, renormalise=self._renormalise), probs_PV))
        self.rounding.append(rounding_divergence(targets, probs_PV))
        self.entries.append(np.diff(targets.id_offsets))
        return targets


def measure(name: str, quick: bool) -> Measurements:
    """One sparsifier at one budget."""
    settings = target_settings(name, quick)
    sparsifier, renormalise = make_sparsifier(settings), settings.facts.cuts_mass
    rows, sequences, teacher = target_sample(quick)
    watched = Watched(sparsifier, renormalise=renormalise)
    n_bytes = _shard_bytes(rows, sequences, teacher, watched)
    noise, noise_error = mean_and_error(np.concatenate(watched.noise))
    bias, bias_error = mean_and_error(
        np.concatenate(
            _bias(sparsifier, sequences, teacher, renormalise=renormalise, n_positions=512 if quick else 2048)
        )
    )
    gradient = HeldOutGradient(GRADIENT_POSITIONS)
    # Rounding is all that is random in a truncation: one draw shows its angle.
    compared = [gradient.compare(sparsifier, seed) for seed in range(1 if quick or renormalise else 3)]
    drawn = settings.facts.heads == "counts"
    return {
        "entries": float(np.concatenate(watched.entries).mean()),
        "bytes_per_token": n_bytes / sum(len(sequence.input_ids) for sequence in sequences),
        "noise": noise,
        "noise_error": noise_error,
        "squared_bias": bias,
        "squared_bias_error": bias_error,
        "rounding_kl": None if drawn else float(np.concatenate(watched.rounding).mean()),
        "angle_deg": float(np.mean([each["angle_deg"] for each in compared])),
        "norm_ratio": float(np.mean([each["norm_ratio"] for each in compared])),
    }


def _shard_bytes(
    rows: pa.Table, sequences: list[TokenSequence], teacher: ReplayedTeacher, sparsifier: Sparsifier
) -> int:
    """Bytes of the shard that a capture of these documents under this sparsifier would have written."""
    batches = in_batches(sequences, BATCH_TOKENS)
    tables = [target_rows(teacher, batch, sparsifier, seed=0) for batch in batches]
    encoded = pa.concat_tables(tables).combine_chunks()
    for name in ("recipe_id", "corpus", "source"):
        number = encoded.schema.get_field_index(name)
        encoded = encoded.set_column(number, encoded.schema.field(number), rows[name])
    with Lake.open(captured_lake()) as lake:
        _, recipe = find_recipe(lake)
    return len(encode_shard(stored_rows(encoded), recipe))


def _bias(
    sparsifier: Sparsifier,
    sequences: list[TokenSequence],
    teacher: ReplayedTeacher,
    *,
    renormalise: bool,
    n_positions: int,
) -> list[NDArray[np.float64]]:
    """An unbiased estimate of the squared bias of the first `n_positions` positions, from independent seeds."""
    biases: list[NDArray[np.float64]] = []
    for sequence in sequences:
        labels = sequence.start + np.flatnonzero(sequence.has_target) + 1
        begin = 0
        for logits_pV in teacher.forward([sequence.input_ids], [sequence.has_target]):
            chunk, begin = labels[begin : begin + len(logits_pV)], begin + len(logits_pV)
            blocks, draws = Blocks(logits_pV), []
            for seed in range(_DRAWS):
                keys = np.repeat(document_keys(1000 + seed, [sequence.doc_id]), len(chunk), axis=0)
                drawn = sparsifier(blocks, uniforms(keys, chunk, sparsifier.streams))
                draws.append(decode(drawn, renormalise=renormalise))
            biases.append(squared_bias(draws, logits_pV.float().softmax(-1)))
        if sum(map(len, biases)) >= n_positions:
            break
    return biases

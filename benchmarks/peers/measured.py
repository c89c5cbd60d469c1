"""The peers' layouts on the positions of the benchmark of targets: bytes of the targets alone, and their noise.

Shapes: P positions, p of one chunk, k ids each, V ids.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.estimates import Estimate, squared_error
from benchmarks.harness import Measurements
from benchmarks.peers.distillkit import BUDGET, RECOMMENDED, distillkit
from benchmarks.peers.megatron import megatron
from benchmarks.peers.plain_parquet import plain_parquet
from benchmarks.replay import ReplayedTeacher
from benchmarks.sample import in_batches
from benchmarks.target_sample import target_sample
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.tokens.sequences import TokenSequence

_TOP_K = 128
_BATCH_TOKENS = 4096


def measure_peers(quick: bool) -> Measurements:
    """Bytes per target and noise by layout. The likeliest ids are gathered first: what is compressed, is in one go."""
    _, sequences, teacher = target_sample(quick)
    chunks = [(ids_pk, logprobs_pk) for ids_pk, logprobs_pk, _ in _likeliest(sequences, teacher)]
    ids_Pk, logprobs_Pk = (np.concatenate([chunk[column] for chunk in chunks]) for column in (0, 1))
    stored = {
        "DistillKit recommended, k=128": distillkit(RECOMMENDED, logprobs_Pk, teacher.vocab_size),
        "DistillKit budget, k=50": distillkit(BUDGET, logprobs_Pk, teacher.vocab_size),
        "Megatron-LM, k=128": megatron(ids_Pk, logprobs_Pk),
        "int32 + float32 Parquet (snappy), k=50": plain_parquet(ids_Pk[:, :50], logprobs_Pk[:, :50], "snappy"),
        "int32 + float32 Parquet (zstd), k=50": plain_parquet(ids_Pk[:, :50], logprobs_Pk[:, :50], "zstd"),
    }
    noise: dict[str, list[NDArray[np.float64]]] = {label: [] for label in stored}
    begin = 0
    for ids_pk, _, probs_pV in _likeliest(sequences, teacher):
        end = begin + len(ids_pk)
        for label, layout in stored.items():
            noise[label].append(_noise(layout.probs[begin:end], ids_pk, probs_pV))
        begin = end
    return {
        "bytes_per_target": {label: layout.n_bytes / len(ids_Pk) for label, layout in stored.items()},
        "noise": {label: float(np.concatenate(values).mean()) for label, values in noise.items()},
    }


def _likeliest(
    sequences: list[TokenSequence], teacher: ReplayedTeacher
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], torch.Tensor]]:
    """Ids and log-probabilities `[p, 128]` of the likeliest ids, falling, and all probabilities `[p, V]`."""
    for batch in in_batches(sequences, _BATCH_TOKENS):
        for logits_pV in teacher.forward([s.input_ids for s in batch], [s.has_target for s in batch]):
            ids_pk, _ = Blocks(logits_pV).largest(_TOP_K)
            logprobs_pV = logits_pV.float().log_softmax(-1)
            yield ids_pk, logprobs_pV.gather(1, torch.from_numpy(ids_pk)).numpy(), logprobs_pV.exp_()


def _noise(read_pk: NDArray[np.float64], ids_Pk: NDArray[np.int64], probs_PV: torch.Tensor) -> NDArray[np.float64]:
    n, k = read_pk.shape
    rows = np.repeat(np.arange(n), k)
    return squared_error(Estimate(n, rows, ids_Pk[:, :k].ravel(), read_pk.ravel()), probs_PV)

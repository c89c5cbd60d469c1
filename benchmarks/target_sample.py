"""What the benchmark of targets looks at: positions fixed by hash, and how often RS-KD has to draw there."""

import json
import sys

import numpy as np
import pyarrow as pa

from benchmarks.captured import CACHE, benchmark_config
from benchmarks.peers.rs_kd import draws_for
from benchmarks.replay import ReplayedTeacher, replayed_teacher
from benchmarks.sample import captured, sequences_of, whole_documents
from logitlake.pipeline.settings.models import TargetSettings
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks
from logitlake.pipeline.targets.sparsifiers.draw import draw_ids
from logitlake.pipeline.tokens.sequences import TokenSequence

RS12 = "random 12 unique"
# Of a gradient, in quick runs too: noise averages out over positions, bias does not, so angles depend on their number.
GRADIENT_POSITIONS = 4096
_MOST_DRAWS = 64


def target_settings(name: str, quick: bool) -> TargetSettings:
    """Settings of an arm from its name: a sparsifier and its budget."""
    if name == RS12:
        return TargetSettings(sparsifier="random", draws=kept_draws(quick))
    sparsifier, budget = name.split()
    setting = TargetSettings.model_of(sparsifier).size_knob.setting
    return TargetSettings.model_validate({"sparsifier": sparsifier, setting: float(budget)})


def target_sample(quick: bool) -> tuple[pa.Table, list[TokenSequence], ReplayedTeacher]:
    """Rows of whole documents with the positions that noise and bytes are of, their sequences, and the teacher."""
    rows = whole_documents(captured(held_out=False), 8_000 if quick else 40_000)
    sequences = sequences_of(rows)
    return rows, sequences, replayed_teacher(sequences)


def kept_draws(quick: bool) -> int:
    """The number of draws with replacement that gives 12 unique ids on average in the sample, computed once."""
    path = CACHE / f"draws-{benchmark_config().lake.path.name}{'-quick' if quick else ''}.json"
    if not path.exists():
        _, sequences, teacher = target_sample(quick)
        print("benchmarks: how many draws give 12 unique ids, once", file=sys.stderr, flush=True)
        path.write_text(json.dumps(draws_for(_unique_ids(sequences, teacher))))
    return int(json.loads(path.read_text()))


def _unique_ids(sequences: list[TokenSequence], teacher: ReplayedTeacher) -> dict[int, float]:
    """Mean number of unique ids after so many draws, over all targets of the sequences."""
    sums = dict.fromkeys(range(24, _MOST_DRAWS + 1), 0)
    for number, sequence in enumerate(sequences):
        points = np.random.default_rng(number).random((int(sequence.has_target.sum()), _MOST_DRAWS))
        for logits_pV in teacher.forward([sequence.input_ids], [sequence.has_target]):
            chunk, points = points[: len(logits_pV)], points[len(logits_pV) :]
            blocks, rows = Blocks(logits_pV), np.repeat(np.arange(len(chunk)), _MOST_DRAWS)
            ids = draw_ids(blocks, blocks.sums_PB, rows, chunk.ravel()).reshape(chunk.shape)
            for draws in sums:
                sums[draws] += len(chunk) + int((np.diff(np.sort(ids[:, :draws], axis=1), axis=1) > 0).sum())
    n_targets = sum(int(sequence.has_target.sum()) for sequence in sequences)
    return {draws: total / n_targets for draws, total in sums.items()}

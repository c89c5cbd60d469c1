"""What a student lost on each document, beside its teacher: the sums of an evaluation by document."""

from collections.abc import Sequence

import pyarrow as pa

from logitlake.pipeline.evaluation.tally import Tally
from logitlake.storage.students.losses import LOSSES


def document_losses(doc_ids: Sequence[str], student: Tally, teacher: Tally) -> pa.Table:
    """A row per document (LOSSES), in order of the ids; `doc_ids[i]` is the document of sequence i.

    Both tallies have seen the same targets. `kl` is null where the divergence is not known.
    """
    theirs, divergences = teacher.losses, student.divergences
    n_targets: dict[str, int] = {}
    sums: dict[str, list[float]] = {}
    for sequence, (n, loss) in student.losses.items():
        doc_id = doc_ids[sequence]
        n_targets[doc_id] = n_targets.get(doc_id, 0) + n
        parts = (loss, theirs[sequence][1], divergences.get(sequence, 0.0))
        sums[doc_id] = [total + part for total, part in zip(sums.get(doc_id, [0.0] * 3), parts, strict=True)]
    ids = sorted(n_targets)
    return pa.table(
        [
            ids,
            [n_targets[doc_id] for doc_id in ids],
            [sums[doc_id][0] for doc_id in ids],
            [sums[doc_id][1] for doc_id in ids],
            [sums[doc_id][2] if student.divergence_known else None for doc_id in ids],
        ],
        schema=LOSSES,
    )

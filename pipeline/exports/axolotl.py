"""The columns of Axolotl's KD plug-in, tokenised already: `target_token_ids`, `target_logprobs`, `target_mask`."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import yaml

from logitlake.pipeline.exports.entries import merged_entries
from logitlake.pipeline.exports.export_format import ExportContext, ExportFormat

_NOTES = """| column | meaning |
|---|---|
| `input_ids`, `attention_mask` | the token ids that the teacher read, and ones |
| `labels` | the token where the position before it has a target, else -100 |
| `target_token_ids`, `target_logprobs` | per position: ids and their log-probabilities; empty: no target |
| `target_mask` | ones |

`axolotl.yaml` has the settings that fit these targets; put the path of this directory into it.
"""


def _convert(rows: pa.Table, context: ExportContext) -> pa.Table:
    entries = merged_entries(rows, cut_mass="renormalise")
    ids = rows["input_ids"].combine_chunks().flatten().to_numpy()
    is_label = np.concatenate([[False], entries.counts[:-1] > 0])
    offsets = pa.array(entries.row_offsets.astype(np.int32))
    ones = np.ones(len(entries.ids), np.int8)
    return pa.table(
        {
            "input_ids": rows["input_ids"],
            "attention_mask": pa.ListArray.from_arrays(offsets, np.ones(len(ids), np.int8)),
            "labels": pa.ListArray.from_arrays(offsets, np.where(is_label, ids, -100).astype(np.int32)),
            "target_token_ids": entries.nested(entries.ids),
            "target_logprobs": entries.nested(np.log(entries.probs).astype(np.float32)),
            "target_mask": entries.nested(ones),
        }
    )


def _files(context: ExportContext) -> Mapping[str, str]:
    settings = {
        "plugins": ["axolotl.integrations.kd.KDPlugin"],
        "datasets": [{"path": "PATH OF THIS DIRECTORY", "split": context.split, "type": None}],
        "kd_trainer": True,
        "kd_ce_alpha": 0.0,
        "kd_alpha": 1.0,
        "kd_beta": 0.0,
        "kd_temperature": float(context.recipe["temperature"]),
        "kd_normalize_topk": False,
    }
    return {"axolotl.yaml": yaml.safe_dump(settings, sort_keys=False)}


AXOLOTL = ExportFormat(
    columns=("levels", "input_ids", "target_ids", "head_codes"), convert=_convert, notes=_NOTES, files=_files
)

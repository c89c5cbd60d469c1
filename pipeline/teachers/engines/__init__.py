"""Engines, one a file. The EngineKinds are here, so that planning loads no torch.

A new engine is one file, its EngineKind here, and one line in `ENGINES`.
"""

from collections.abc import Mapping
from typing import Any

from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.engine import EngineKind

# Arguments of vllm.LLM that say where and how fast it runs, and do not change what it computes but by rounding.
_PLACEMENT = {
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "enable_expert_parallel"),
    *("distributed_executor_backend", "disable_custom_all_reduce", "gpu_memory_utilization", "kv_cache_memory_bytes"),
    *("block_size", "swap_space", "cpu_offload_gb", "max_num_seqs", "max_num_batched_tokens"),
    *("enable_chunked_prefill", "enforce_eager", "compilation_config", "attention_backend", "async_scheduling"),
    *("max_parallel_loading_workers", "download_dir"),
}


def _vllm_options(settings: TeacherSettings) -> Mapping[str, Any]:
    """Quantisation, type of the key-value cache, overrides of the config: all that is not known as placement."""
    return {name: value for name, value in sorted(settings.vllm.options.items()) if name not in _PLACEMENT}


TRANSFORMERS = EngineKind(
    gives="distribution", load="logitlake.pipeline.teachers.engines.transformers_engine:load_teacher"
)
VLLM = EngineKind(
    gives="distribution",
    load="logitlake.pipeline.teachers.engines.vllm.engine:load_teacher",
    takes_window=True,
    options=_vllm_options,
)
REPLAY = EngineKind(
    gives="distribution", load="logitlake.pipeline.teachers.engines.replay_engine:load_teacher", is_recorded=True
)
SERVER = EngineKind(gives="top_k", load="logitlake.pipeline.teachers.engines.server_engine:load_teacher")

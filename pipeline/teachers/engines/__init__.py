"""Engines, one a file. The EngineKinds are here, so that planning loads no torch.

A new engine is one file, its EngineKind here, and one line in `ENGINES`.
"""

from logitlake.pipeline.teachers.engine import EngineKind

TRANSFORMERS = EngineKind(
    gives="distribution", load="logitlake.pipeline.teachers.engines.transformers_engine:load_teacher"
)
SERVER = EngineKind(gives="top_k", load="logitlake.pipeline.teachers.engines.server_engine:load_teacher")

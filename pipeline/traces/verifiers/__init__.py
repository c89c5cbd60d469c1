"""Verifiers: what decides which traces are kept. One file each; `logitlake.pipeline.settings.registry` names them."""

"""Traces: prompts, sampling, the models that write, and verifiers."""

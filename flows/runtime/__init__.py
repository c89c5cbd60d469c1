"""Prefect for all flows: environment, events, artifacts, limits and retries."""

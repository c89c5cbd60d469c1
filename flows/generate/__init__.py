"""Writing traces: preparation, the run, and its Prefect flow."""

"""The teacher flow: what is missing, work units, the run and its Prefect flow."""

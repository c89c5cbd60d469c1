"""The teacher flow: preparation, plan, estimate, the run and its Prefect flow."""

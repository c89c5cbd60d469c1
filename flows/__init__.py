"""What Prefect runs, and the `logitlake` command."""

"""What every flow shares of Prefect: its environment, events, artifacts, limits and retries."""

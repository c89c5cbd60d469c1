"""The Prefect server of a command: the one that is configured, or one that ends with the command."""

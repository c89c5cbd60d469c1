"""Settings: the models, reading them from YAML, and their reference."""

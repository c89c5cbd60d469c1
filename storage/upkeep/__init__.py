"""Care of a lake: merge, forget, sweep, add hashes."""

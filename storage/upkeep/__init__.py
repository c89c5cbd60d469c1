"""Care of a lake: merge, forget, sweep, verify."""

"""The night: what is new is captured, a candidate is trained, measured and promoted or rejected."""

"""The upkeep flow: merge, expire, sweep, verify."""

"""What a lake holds: every table described once, the schema of shards, and the hash of a row."""

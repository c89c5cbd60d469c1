"""A lost catalog made again from the data path."""

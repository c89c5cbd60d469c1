"""A student before its training: its parent, its id, its tokenizer, its initial weights."""

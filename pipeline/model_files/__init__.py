"""The files of a model: found, hashed, read, loaded whole; its tokenizer, and where it comes from."""

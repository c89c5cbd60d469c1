"""A student's parent, its id, its initial weights, and the files saved beside it."""

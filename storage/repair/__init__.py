"""Damaged files replaced by what is intact of them."""

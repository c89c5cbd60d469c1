"""Rows for other programs: one format a file, and a line in `EXPORTS` of the settings' registry."""

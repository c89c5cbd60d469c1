"""Targets that other programs wrote: one format a file, and a line in `IMPORTS` of the settings' registry."""

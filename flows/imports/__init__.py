"""Targets of other programs into the lake."""

"""Captures documents as rows: recipe, plan, work unit."""

"""Parquet files of rows: written whole or not at all, read by row."""

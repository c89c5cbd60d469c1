"""The lake: DuckLake tables, Parquet shards, and the SQL face. Knows no torch, no transformers, no Prefect."""

"""Where a lake is, and how DuckDB reaches it: paths, buckets, extensions, and what its errors mean."""

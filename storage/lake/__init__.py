"""The DuckLake catalog: creation, migration, views, locks, transactions."""

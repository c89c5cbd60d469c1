"""The DuckLake catalog: location, creation, migration, views, transactions."""

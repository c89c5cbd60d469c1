"""The DuckLake catalog: location, creation, schema, views, transactions."""

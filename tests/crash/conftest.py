"""The PostgreSQL server of the integration tests, for the tests of a crowd."""

from tests.integration.conftest import postgres, postgres_cluster, postgres_server

__all__ = ["postgres", "postgres_cluster", "postgres_server"]

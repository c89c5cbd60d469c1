"""Does an error of DuckDB say that the server of the catalog went away? Then the same work may succeed in a moment."""

# What libpq and PostgreSQL say; a connection that breaks in the middle of a commit leaves only the last of them.
_SIGNS = (
    "Unable to connect to Postgres",
    "server closed the connection",
    "terminating connection",
    "connection to server",
    "no connection to the server",
    "the database system is",
    "Connection refused",
    "Connection reset",
    "Connection timed out",
    "Broken pipe",
    "could not receive data from server",
    "could not send data to server",
    "SSL connection has been closed",
    "SSL SYSCALL error",
    'Failed to execute query "ROLLBACK"',
)
# What can't get better by itself.
_FINAL = ("password authentication failed", "does not exist", "no pg_hba.conf entry", "could not translate host name")


def server_is_away(error: BaseException) -> bool:
    """Whether the connection to the catalog's server broke, or could not be made, for a reason that may pass."""
    text = str(error)
    return any(sign in text for sign in _SIGNS) and not any(sign in text for sign in _FINAL)

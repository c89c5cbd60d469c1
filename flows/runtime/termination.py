"""The exception that SIGTERM raises in a running flow."""


class TerminatedError(BaseException):
    """SIGTERM arrived while a flow was running. Not an Exception: it must not be handled as a failure."""

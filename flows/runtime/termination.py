"""What SIGTERM means to a flow that is running."""


class TerminatedError(BaseException):
    """Somebody sent SIGTERM while a flow was running: not to be taken for a failure of the flow."""

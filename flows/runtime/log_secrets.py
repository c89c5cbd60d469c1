"""Log records without secrets: Prefect prints them, and keeps them in the database of its server."""

import logging
from typing import Any

from logitlake.storage.redaction import without_secrets

_FORMAT = logging.Formatter()


class _Factory:
    """Makes log records by the factory that was there before, and hides the secrets in message and traceback."""

    def __init__(self) -> None:
        self._make = logging.getLogRecordFactory()

    def __call__(self, *given: Any, **more: Any) -> logging.LogRecord:
        record = self._make(*given, **more)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            return record  # the arguments do not fit the message: its handler says so
        if (shown := without_secrets(message)) != message:
            record.msg, record.args = shown, None
        if record.exc_info and record.exc_info[0] is not None:
            trace = _FORMAT.formatException(record.exc_info)
            if (shown := without_secrets(trace)) != trace:
                # A handler formats the error anew unless it has this text.
                record.exc_text, record.exc_info = shown, None
        return record


def hide_secrets_in_logs() -> None:
    """From now on, hide secrets in every log record of this process."""
    if not isinstance(logging.getLogRecordFactory(), _Factory):
        logging.setLogRecordFactory(_Factory())

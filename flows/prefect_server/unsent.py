"""Events and log lines that Prefect's threads could not send, because its server went away."""

import logging
import queue

from prefect._internal.concurrency.services import QueueService

# Prefect's logger for its own threads: it heeds neither its level nor `logging.disable`.
_INTERNAL_LOGGERS = ("prefect._internal", "prefect._internal.concurrency")


def drop_unsent() -> None:
    """Discard what waits to be sent. Prefect would try each event for 7 s before it lets the process end."""
    for service in list(getattr(QueueService, "_instances", {}).values()):
        while True:
            try:
                service._queue.get_nowait()
            except queue.Empty:
                break


def silence_prefect() -> None:
    """Log nothing more: the error of the command is its last line."""
    logging.disable(logging.CRITICAL)
    logging.raiseExceptions = False
    for name in _INTERNAL_LOGGERS:
        logging.getLogger(name).disabled = True

"""Log records hide secrets in messages, arguments and tracebacks."""

import logging
from collections.abc import Iterator

import pytest

from logitlake.flows.runtime.log_secrets import hide_secrets_in_logs


@pytest.fixture(autouse=True)
def hidden() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    hide_secrets_in_logs()
    hide_secrets_in_logs()
    yield
    logging.setLogRecordFactory(before)


def test_the_password_of_a_server_is_in_no_message_and_in_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("any")
    try:
        raise RuntimeError("no route to http://user:hunter2@host/api")
    except RuntimeError as error:
        log.exception("view %s at %s (%s)", "the run", "http://user:hunter2@host", error)
    assert "hunter2" not in caplog.text and "view the run at http://user:***@host" in caplog.text
    assert "Traceback" in caplog.text


def test_a_record_without_a_secret_keeps_its_arguments_and_its_error(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("wrong")
    logging.getLogger("any").warning("%s of %d", "one", 2, exc_info=error)
    (record,) = caplog.records
    assert (record.msg, record.args) == ("%s of %d", ("one", 2))
    assert record.exc_info is not None and record.exc_info[1] is error

"""Which errors of a task are retried."""

from types import SimpleNamespace
from typing import Any

import pytest

from logitlake.flows.runtime.retries import worth_retrying
from logitlake.storage.errors import LakeBusyError, MismatchError, SettingsError, TeacherUnavailableError


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (TeacherUnavailableError("no answer"), True),
        (LakeBusyError("locked"), True),
        (RuntimeError("device"), True),
        (SettingsError("wrong"), False),
        (MismatchError("another"), False),
    ],
)
def test_an_error_that_may_be_gone_a_minute_later_is_retried(error: Exception, retried: bool) -> None:
    state: Any = SimpleNamespace(data=error)
    task: Any = None
    assert worth_retrying(task, task, state) is retried

"""Which errors a task retries: those that may be gone a minute later."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from logitlake.flows.runtime.termination import stop_behind
from logitlake.storage.errors import LakeBusyError, LogitlakeError, TeacherUnavailableError


def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """True for a busy lake, a lost connection, a teacher's server that does not answer, a device out of memory.

    False for settings, a mismatch, damage, and for what Ctrl-C made of a query.
    """
    if isinstance(state.data, BaseException) and stop_behind(state.data) is not None:
        return False
    return not isinstance(state.data, LogitlakeError) or isinstance(state.data, LakeBusyError | TeacherUnavailableError)

"""Which errors are worth another try: those after which the world may be different in a minute."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from logitlake.storage.errors import LakeBusyError, LogitlakeError


def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """A busy lake, a lost connection, a device out of memory: yes. Settings, a mismatch, a damaged file: no."""
    return not isinstance(state.data, LogitlakeError) or isinstance(state.data, LakeBusyError)

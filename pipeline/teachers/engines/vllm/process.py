"""vLLM's process: started, asked and ended from here. It ends with this process, however that ends."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from logitlake.storage.errors import SettingsError, TeacherUnavailableError

HIDDEN_STATES, WRITING = (Path(__file__).with_name(name) for name in ("worker.py", "writing_worker.py"))
# It ends by itself once its connection is closed.
_SECONDS_TO_END = 10.0
_LOG_LINES = 5
_ENVIRONMENT = {
    # Nothing reports home.
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # Its scheduler in the worker itself: as a process of its own it outlives a worker that was killed.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class VllmProcess:
    """A worker program that has loaded its model."""

    def __init__(
        self, python: str, arguments: Mapping[str, Any], *, load_seconds: float, program: Path = HIDDEN_STATES
    ) -> None:
        """Start `program` and wait until the model is loaded.

        Raises SettingsError if `python` can't be run, has no vLLM, or if vLLM can't load the model in time.
        """
        ours, its = socket.socketpair()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the process has ended)
        try:
            self._process = subprocess.Popen(
                [python, "-P", str(program), str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env={**_ENVIRONMENT, **os.environ},
                # Ctrl-C is for this process, which then ends that one.
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise SettingsError(
                f"teacher.vllm.python {python}: can't be run ({error.strerror}); name the Python of an environment "
                "that has vllm"
            ) from None
        finally:
            its.close()
        self._connection = Connection(ours.detach())
        self._end = weakref.finalize(self, _end, self._process, self._connection, self._log)
        self._connection.send_bytes(json.dumps(dict(arguments)).encode())
        if not self._connection.poll(load_seconds):
            lines = self._last_lines()
            self._process.kill()
            self.end()
            raise SettingsError(
                f"teacher.engine vllm: the teacher was not loaded within {load_seconds / 60:g} minutes; raise "
                f"teacher.vllm.load_minutes. {lines}"
            )
        try:
            self.versions: dict[str, str] = self._answer()
        except TeacherUnavailableError as error:
            self.end()
            raise SettingsError(_hint(python, str(error))) from None

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """One message, and the answer to it. Raises TeacherUnavailableError if vLLM failed or has ended."""
        with self._errors():
            self._connection.send_bytes(json.dumps(dict(message)).encode())
        return self._answer()

    def send(self, number: int, ids: list[NDArray[np.int32]], wanted: list[NDArray[np.bool_]]) -> None:
        """Ask for the hidden states of the wanted positions of a batch; `number` names it in the answer."""
        message = {"number": number, "lengths": [len(sequence) for sequence in ids]}
        with self._errors():
            self._connection.send_bytes(json.dumps(message).encode())
            self._connection.send_bytes(np.concatenate(ids).astype(np.int32, copy=False).tobytes())
            self._connection.send_bytes(np.concatenate(wanted).astype(np.bool_, copy=False).tobytes())

    def forget(self) -> None:
        """Drop the batches that have no answer yet; one that is computed may still be answered."""
        with self._errors():
            self._connection.send_bytes(json.dumps({"forget": True}).encode())

    def receive(self) -> tuple[int, tuple[int, int], bytearray]:
        """The next answer: its batch's number, the shape `[P, D]` of its hidden states, and their bytes.

        Raises TeacherUnavailableError with vLLM's error if it failed, or if its process has ended.
        """
        answer = self._answer()
        with self._errors():
            content = bytearray(self._connection.recv_bytes())
        n_positions, width = answer["shape"]
        return int(answer["number"]), (int(n_positions), int(width)), content

    def end(self) -> None:
        """End the process, and wait for it."""
        self._end()

    def _answer(self) -> dict[str, Any]:
        with self._errors():
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        if "error" in answer:
            raise TeacherUnavailableError(f"vLLM failed: {answer['error'].strip()}. {self._last_lines()}")
        return answer

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises TeacherUnavailableError if the process has closed the connection."""
        try:
            yield
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS_TO_END)
            raise TeacherUnavailableError(
                f"vLLM's process ended (exit code {self._process.poll()}). {self._last_lines()}"
            ) from None

    def _last_lines(self) -> str:
        self._log.flush()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return "Last lines of its output: " + " | ".join(line.strip() for line in lines[-_LOG_LINES:])


def _end(process: "subprocess.Popen[bytes]", connection: Connection, log: IO[bytes]) -> None:
    """End the worker and whatever it started: they are a process group of their own."""
    connection.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS_TO_END)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    log.close()


def _hint(python: str, reason: str) -> str:
    missing = "No module named 'vllm'" in reason
    what = "it has no vllm" if missing else "vLLM can't load the teacher"
    advice = (
        "install vllm into that environment, or name one that has it in teacher.vllm.python"
        if missing
        else "correct teacher.vllm.options, or use teacher.engine transformers"
    )
    return f"teacher.vllm.python {python}: {what}: {reason}; {advice}"


def this_python() -> str:
    return sys.executable

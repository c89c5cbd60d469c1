"""What a request does when the server fails, refuses, or is away."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from logitlake.pipeline.settings.models import ServerSettings, TeacherSettings
from logitlake.pipeline.teachers.server import transport as module
from logitlake.pipeline.teachers.server.transport import RefusedError, Transport, retry_after
from logitlake.storage.errors import MismatchError, TeacherUnavailableError
from tests.bigram_server import BigramServer, Reply

Settings = Callable[..., TeacherSettings]
ASKED = {"model": "bigram", "prompt": [1, 2, 3], "max_tokens": 1, "prompt_logprobs": 1}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a request would have waited before each repetition; no time passes."""
    seconds: list[float] = []

    def no_sleep(event: threading.Event) -> Callable[[float], None]:
        return seconds.append

    monkeypatch.setattr(module, "sleep_using_event", no_sleep)
    return seconds


@pytest.fixture
def transport(settings: Settings) -> Iterator[Transport]:
    server = settings().server
    assert server is not None
    with closing(Transport(server, key=None)) as transport:
        yield transport


@pytest.mark.parametrize(
    "mishap",
    [*(Reply(status, b"later") for status in (408, 429, 500, 502, 503, 504)), Reply(200, b'{"choices": []}', cut=True)],
    ids=lambda reply: "cut" if reply.cut else str(reply.status),
)
def test_a_request_that_failed_on_its_way_is_repeated(
    bigram: BigramServer, transport: Transport, waits: list[float], mishap: Reply
) -> None:
    bigram.mishaps = [mishap, mishap]
    assert transport.post("/completions", ASKED)["choices"]
    assert len(bigram.requests) == 3
    assert len(waits) == 2


def test_it_waits_as_long_as_the_server_asks_and_a_little_longer(
    bigram: BigramServer, transport: Transport, waits: list[float]
) -> None:
    bigram.mishaps = [Reply(429, b"", {"Retry-After": "17"})]
    transport.post("/completions", ASKED)
    assert 17 <= waits[0] <= 18


def test_retry_after_may_be_a_date() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    assert retry_after(format_datetime(soon, usegmt=True)) == pytest.approx(30, abs=2)
    assert retry_after(format_datetime(soon - timedelta(hours=1), usegmt=True)) == 0
    assert retry_after("5") == 5
    assert retry_after("when it suits") is None
    assert retry_after(None) is None


def test_without_retry_after_the_waits_are_random_and_bounded(
    bigram: BigramServer, settings: Settings, waits: list[float]
) -> None:
    bigram.mishaps = [Reply(500)] * 12
    server = settings(max_retries=12).server
    assert server is not None
    with closing(Transport(server, key=None)) as transport:
        transport.post("/completions", ASKED)
    assert all(0 <= wait <= 60 for wait in waits)
    assert len(set(waits)) == len(waits)


def test_a_server_that_stays_busy_is_an_error_that_the_flow_retries(
    bigram: BigramServer, transport: Transport, waits: list[float]
) -> None:
    bigram.mishaps = [Reply(503, b'{"error": {"message": "overloaded"}}')] * 9
    with pytest.raises(TeacherUnavailableError, match=r"still answers 503 after 4 requests \(overloaded\)"):
        transport.post("/completions", ASKED)
    assert len(bigram.requests) == 4


def test_a_server_that_is_away_is_an_error_that_the_flow_retries(waits: list[float]) -> None:
    server = ServerSettings(url="http://127.0.0.1:1/v1", max_retries=1)
    with closing(Transport(server, key=None)) as transport, pytest.raises(TeacherUnavailableError, match="no answer"):
        transport.post("/completions", ASKED)


def test_a_wait_ends_when_the_capture_ends(bigram: BigramServer, transport: Transport) -> None:
    bigram.mishaps = [Reply(429, b"", {"Retry-After": "500"})] * 9
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            transport.post("/completions", ASKED)
        except TeacherUnavailableError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not bigram.requests:
        thread.join(0.01)
    transport.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert len(failures) == 1


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "the reason"),
        (401, "teacher.server.api_key_env"),
        (403, "the key may not use this model"),
        (404, "it ends in /v1"),
        (307, "elsewhere.example"),
    ],
)
def test_a_refusal_is_not_repeated_and_names_url_status_reason_and_advice(
    bigram: BigramServer, transport: Transport, status: int, advice: str
) -> None:
    location = {"Location": "http://elsewhere.example/v1"}
    bigram.mishaps = [Reply(status, b'{"error": {"message": "the reason\\nsecond line"}}', location)]
    with pytest.raises(RefusedError) as caught:
        transport.post("/completions", ASKED)
    message = str(caught.value)
    assert f"{bigram.url}/completions: {status}: the reason; " in message
    assert advice in message
    assert "second line" not in message
    assert len(bigram.requests) == 1


def test_an_answer_that_is_no_json_is_refused(bigram: BigramServer, transport: Transport) -> None:
    bigram.mishaps = [Reply(200, b"<html>\nWelcome", {"Content-Type": "text/html"})]
    with pytest.raises(MismatchError, match=r"expected JSON, found text/html \(<html>\)"):
        transport.post("/completions", ASKED)


def test_requests_start_no_faster_than_the_settings_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    starts = []

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock[0] += timeout or 0.0
            return False

    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    pace = module._Pace(30, Clock())
    for _ in range(4):
        pace.wait()
        starts.append(clock[0])
    assert starts == [100.0, 102.0, 104.0, 106.0]


class TestKeys:
    KEY = "planted-server-key"

    @pytest.fixture(autouse=True)
    def _planted(self, monkeypatch: pytest.MonkeyPatch, bigram: BigramServer) -> None:
        monkeypatch.setenv("TEACHER_KEY", self.KEY)
        bigram.key = self.KEY

    def test_the_key_of_the_environment_opens_the_server(self, bigram: BigramServer, settings: Settings) -> None:
        server = settings(api_key_env="TEACHER_KEY").server
        assert server is not None
        with closing(Transport(server, key=self.KEY)) as transport:
            assert transport.post("/completions", ASKED)["choices"]

    def test_no_error_and_no_log_shows_the_key(
        self, bigram: BigramServer, settings: Settings, waits: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        bigram.key = "another"
        server = settings(api_key_env="TEACHER_KEY").server
        assert server is not None
        with closing(Transport(server, key=self.KEY)) as transport, pytest.raises(RefusedError) as caught:
            bigram.mishaps = [Reply(500, self.KEY.encode())]
            transport.post("/completions", ASKED)
        assert "environment variable TEACHER_KEY" in str(caught.value)
        assert "Incorrect API key" in str(caught.value)
        assert self.KEY not in str(caught.value) + repr(server) + repr(caught.value.reason) + caplog.text

    def test_a_variable_that_is_not_set_is_named(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        from logitlake.pipeline.teachers.server.connection import _key
        from logitlake.storage.errors import SettingsError

        monkeypatch.delenv("TEACHER_KEY")
        server: Any = settings(api_key_env="TEACHER_KEY").server
        with pytest.raises(SettingsError, match="environment variable TEACHER_KEY, which is not set"):
            _key(server)

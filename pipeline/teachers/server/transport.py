"""Requests to the teacher's server: repeated where that may help, slowed down as the server asks, with clear errors.

Used by many threads at once.
"""

import logging
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_random_exponential
from tenacity.stop import stop_after_attempt, stop_when_event_set

from logitlake.pipeline.settings.models import ServerSettings
from logitlake.storage.errors import LogitlakeError, MismatchError, SettingsError, TeacherUnavailableError
from logitlake.storage.redaction import without_secrets

# The server, or a proxy before it, is busy or away for a moment.
BUSY = frozenset([408, 425, 429, 500, 502, 503, 504])
_LONGEST_WAIT = 60.0
# A server that asks for more is left alone: the flow tries the unit again later.
_LONGEST_ASKED_WAIT = 600.0
_SHOWN = 300

log = logging.getLogger(__name__)


class RefusedError(SettingsError):
    """The server answered that it won't do this request; `status` says which way, `reason` in its words."""

    def __init__(self, message: str, *, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = without_secrets(reason)


class Transport:
    """One endpoint."""

    def __init__(self, settings: ServerSettings, *, key: str | None) -> None:
        self.url = settings.url
        self._settings = settings
        self._closing = threading.Event()
        self._pace = _Pace(settings.requests_per_minute, self._closing)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        # One line for each request is too much for a log.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(settings.timeout_seconds, connect=min(30.0, settings.timeout_seconds)),
            limits=httpx.Limits(
                max_connections=settings.concurrency,
                max_keepalive_connections=settings.concurrency,
                keepalive_expiry=30,
            ),
        )

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer to a POST of `body` at the endpoint.

        Raises RefusedError for a request that the server refuses, TeacherUnavailableError for one that got no answer,
        repeated as often as the settings say, MismatchError for an answer that is no JSON.
        """
        return self._ask("POST", self.url + path, orjson.dumps(body))

    def post_beside(self, path: str, body: Mapping[str, Any]) -> Any:
        """As `post`, at the server's root in place of its version: `/tokenize` beside `/v1`."""
        root, _, version = self.url.rpartition("/")
        return self._ask("POST", (root if version.startswith("v") else self.url) + path, orjson.dumps(body))

    def get(self, path: str) -> Any:
        """As `post`, by a GET."""
        return self._ask("GET", self.url + path, None)

    def stop(self) -> None:
        """Start no more requests, and repeat none: what waits for that fails now."""
        self._closing.set()

    def close(self) -> None:
        """As `stop`, and give the connections back: no thread may use them any more."""
        self.stop()
        self._client.close()

    def _ask(self, method: str, url: str, content: bytes | None) -> Any:
        retrying = Retrying(
            stop=stop_after_attempt(self._settings.max_retries + 1) | stop_when_event_set(self._closing),
            wait=_wait,
            retry=retry_if_exception(_may_be_gone),
            sleep=sleep_using_event(self._closing),
            before_sleep=_say,
            reraise=True,
        )
        try:
            response: httpx.Response = retrying(self._once, method, url, content)
        except _BusyError as error:
            raise TeacherUnavailableError(
                f"teacher server {url}: still answers {error.response.status_code} after {_times(retrying)} "
                f"({_reason(error.response)}); call again later, or lower teacher.server.concurrency"
            ) from None
        except httpx.TransportError as error:
            raise TeacherUnavailableError(
                f"teacher server {url}: no answer after {_times(retrying)} ({_words(error)}); check that the server "
                "runs, teacher.server.url and teacher.server.timeout_seconds"
            ) from None
        if response.status_code != 200:
            raise _refusal(response, url, self._settings)
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError:
            raise MismatchError(
                f"teacher server {url}: expected JSON, found {response.headers.get('content-type', 'something else')} "
                f"({_first_line(response.text)}); check teacher.server.url"
            ) from None

    def _once(self, method: str, url: str, content: bytes | None) -> httpx.Response:
        self._pace.wait()
        if self._closing.is_set():
            raise TeacherUnavailableError(f"teacher server {url}: the capture has ended")
        headers = {} if content is None else {"Content-Type": "application/json"}
        response = self._client.request(method, url, content=content, headers=headers)
        if response.status_code in BUSY:
            raise _BusyError(response)
        return response


class _BusyError(Exception):
    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"{response.status_code} {_reason(response)}")
        self.response = response


class _Pace:
    """Spreads the starts of requests evenly over a minute."""

    def __init__(self, per_minute: float | None, closing: threading.Event) -> None:
        self._interval = 0.0 if per_minute is None else 60 / per_minute
        self._closing = closing
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self) -> None:
        if not self._interval:
            return
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._interval
        self._closing.wait(max(0.0, start - time.monotonic()))


def _may_be_gone(error: BaseException) -> bool:
    # A URL that httpx can't use at all stays so.
    return isinstance(error, _BusyError | httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)


_spread = wait_random_exponential(multiplier=1, max=_LONGEST_WAIT)


def _wait(state: RetryCallState) -> float:
    """As long as the server asks for, else random and longer every time: the threads must not come back together."""
    error = state.outcome.exception() if state.outcome else None
    asked = retry_after(error.response.headers.get("Retry-After")) if isinstance(error, _BusyError) else None
    own = _spread(state)
    return own if asked is None else min(asked + min(own, 1.0), _LONGEST_ASKED_WAIT)


def retry_after(header: str | None) -> float | None:
    """Seconds from the header Retry-After, a number or a date; None where it says nothing."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    words = str(error) if isinstance(error, _BusyError) else _words(error)
    seconds = state.next_action.sleep if state.next_action else 0.0
    level = logging.WARNING if state.attempt_number > 2 else logging.INFO
    log.log(level, "teacher server: %s; repeating the request in %.1f s", without_secrets(words), seconds)


def _times(retrying: Retrying) -> str:
    number = int(retrying.statistics.get("attempt_number", 1))
    return "one request" if number == 1 else f"{number} requests"


def _words(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


_ADVICE = {
    401: "the server wants a key: set teacher.server.api_key_env to the environment variable that holds it",
    403: "the key may not use this model: check the key and teacher.server.model",
    404: "check teacher.server.url (it ends in /v1 on most servers) and teacher.server.model",
    405: "check teacher.server.url: it should be the base of an OpenAI-compatible endpoint",
    413: "lower tokenization.window",
}


def _refusal(response: httpx.Response, url: str, settings: ServerSettings) -> LogitlakeError:
    status, reason = response.status_code, _reason(response)
    advice = _ADVICE.get(status, "check the section teacher.server")
    if status == 401 and settings.api_key_env is not None:
        advice = f"check the key in the environment variable {settings.api_key_env}"
    if 300 <= status < 400:
        advice = f"set teacher.server.url to where it leads: {response.headers.get('location', 'not said')}"
    return RefusedError(f"teacher server {url}: {status}: {reason}; {advice}", status=status, reason=reason)


def _reason(response: httpx.Response) -> str:
    """What the server says of an error: its message, or the first line of its body."""
    try:
        content = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        content = None
    if isinstance(content, dict):
        error = content.get("error", content)
        message = error if isinstance(error, str) else error.get("message") if isinstance(error, dict) else None
        message = message or content.get("message") or content.get("detail")
        if isinstance(message, str):
            return _first_line(message)
    return _first_line(response.text) or response.reason_phrase


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"

"""The section `teacher.server`: the endpoint behind which the teacher runs."""

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from logitlake.pipeline.settings.base import Settings
from logitlake.storage.redaction import hide_variable


class ServerSettings(Settings):
    """The teacher of the engine `server`: an OpenAI-compatible endpoint that gives log-probs of prompt tokens."""

    url: str = Field(repr=False, description="base of the endpoint, with its version: http://127.0.0.1:8000/v1")
    model: str | None = Field(None, min_length=1, description="name of the model on the server; none: teacher.model")
    version: str | None = Field(
        None, min_length=1, description="your name for the weights behind `model`; another one is another teacher"
    )
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="environment variable that holds the key; none: no key is sent"
    )
    concurrency: int = Field(16, ge=1, le=1024, description="requests under way at once")
    requests_per_minute: float | None = Field(
        None, gt=0, description="start at most this many requests; none: no limit"
    )
    timeout_seconds: float = Field(120, gt=0, description="wait this long for an answer")
    max_retries: int = Field(
        6, ge=0, le=100, description="repeat a request that failed on its way, or that a busy server refused"
    )

    @field_validator("url")
    @classmethod
    def _is_a_plain_url(cls, url: str) -> str:
        """A secret in it would reach logs and records: keys are named by their variable."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("expected a URL without user, password and query: name the key by api_key_env")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_hidden(cls, name: str | None) -> str | None:
        """From now on, whatever this process prints or logs shows no key."""
        if name is not None:
            hide_variable(name)
        return name

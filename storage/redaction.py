"""Text without secrets: passwords in connection strings and URLs, and what the environment holds as secrets.

Every error of ours, every line on the terminal and every log record goes through here, whatever it quotes.
"""

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

HIDDEN = "***"

# `password=…` as libpq reads it (bare, quoted, quoted again in SQL), in a URL, and as a key of YAML or JSON.
_NAME = r"""(?:passw(?:or)?d["']?\s*=|["']\w*password["']\s*:|(?:^|[\n{,])\s*\w*password\s*:)\s*(?!\*\*\*)"""
_VALUE = r"""(?:''(?:[^'\\]|\\.)+''|'(?:[^'\\]|\\.)*'|"[^"]*"|(?:\\.|[^\s'"\\])(?:\\.|[^\s\\])*)"""
_NAMED = re.compile(f"({_NAME}){_VALUE}", re.IGNORECASE)
# `://user:…@`. The password goes to the last @ of the word: people forget to escape it.
_IN_URL = re.compile(r"(://[^:/\s]*:)\S*@")
_QUOTED = re.compile(r'"([^"]+)"')

_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    *("GCS_ACCESS_KEY_ID", "GCS_SECRET_ACCESS_KEY"),
    *("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PGPASSWORD"),
    *("PREFECT_SERVER_DATABASE_PASSWORD", "PREFECT_API_DATABASE_PASSWORD", "OPENAI_API_KEY"),
)
# Variables that settings name.
_named_by_settings: set[str] = set()
# A shorter value would hide parts of ordinary words.
_MIN_LENGTH = 6
# As a secret it is none, and hiding it would hide the commands that messages advise.
_PROGRAM = "logitlake"


def hide_variable(name: str) -> None:
    """From now on, the value of this environment variable is a secret too."""
    _named_by_settings.add(name)


def without_secrets(text: str) -> str:
    """The text with *** in place of passwords and of the secrets that the environment holds."""
    for secret in _secrets_of_environment():
        text = text.replace(secret, HIDDEN)
    return without_passwords(text)


def without_passwords(text: str) -> str:
    """The text with *** in place of passwords, whatever the environment holds."""
    return _IN_URL.sub(rf"\1{HIDDEN}@", _NAMED.sub(rf"\1{HIDDEN}", text))


def without_parts_of(connection: str, text: str) -> str:
    """The text without secrets, and without the quoted parts of a connection string that lie in its password.

    A password that is not escaped as it must be is taken for a host, a port or an option, and the error quotes it.
    """
    shown = without_secrets(connection)

    def hide(match: re.Match[str]) -> str:
        part = match[1]
        return match[0] if part in shown or part not in unquote(connection) + connection else f'"{HIDDEN}"'

    return _QUOTED.sub(hide, without_secrets(text))


def has_password(text: str) -> bool:
    """Whether a setting holds a password."""
    return without_secrets(text) != text


def _secrets_of_environment() -> Iterator[str]:
    """Values of the variables that hold a secret, and passwords in URLs, such as those of proxies; longest first."""
    found = {value for name in (*_VARIABLES, *sorted(_named_by_settings)) if (value := os.environ.get(name))}
    for value in os.environ.values():
        if "://" in value and (match := re.search(r"://[^:/\s]*:(\S*)@", value)):
            found.add(match[1])
    written = {form for value in found for form in (value, unquote(value), quote(value, safe=""))}
    long_enough = {form for form in written if len(form) >= _MIN_LENGTH and form != _PROGRAM}
    yield from sorted(long_enough, key=len, reverse=True)

"""The connection to a server: its key, the model that it serves, and whether its tokenizer is the local one."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.models import ServerSettings, TeacherSettings
from logitlake.pipeline.teachers.server.same_tokenizer import compare_tokenizers
from logitlake.pipeline.teachers.server.transport import RefusedError, Transport
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """A server that has the model and its tokenizer. `model` is the name there, `longest` the most tokens of a request
    if it says so, `about` what a run records."""

    transport: Transport
    model: str
    tokenizer: TextTokenizer
    longest: int | None
    about: dict[str, str]


def connect(settings: TeacherSettings, files: TeacherFiles) -> Connection:
    """Connect to the server of the settings.

    Raises SettingsError for a server that can't be used, MismatchError for one with another tokenizer,
    TeacherUnavailableError for one that does not answer.
    """
    assert settings.server is not None
    server = settings.server
    if settings.adapter is not None and server.model is None:
        raise SettingsError(
            f"teacher.adapter {settings.adapter}: a server runs the model that it serves, and does not read this "
            "adapter; name the model that the server has with the adapter by teacher.server.model"
        )
    model = files.served_as or server.model or settings.model
    tokenizer = load_tokenizer(files.directory, trust_remote_code=settings.trust_remote_code)
    transport = Transport(server, key=_key(server))
    try:
        entry = _listed(transport, model)
        about = {"url": transport.url, "model": model}
        about |= {f"server_{name}": str(entry[name]) for name in ("root", "owned_by") if entry.get(name)}
        about["tokenizer"] = compare_tokenizers(transport, model, tokenizer)
    except BaseException:
        transport.close()
        raise
    longest = entry.get("max_model_len")
    return Connection(
        transport=transport,
        model=model,
        tokenizer=tokenizer,
        longest=longest if isinstance(longest, int) else None,
        about=about,
    )


def end(transport: Transport, pool: ThreadPoolExecutor) -> None:
    """Let what is under way end, and give the connections back."""
    # In this order: a request that starts after the connections are given back would leave one open.
    transport.stop()
    pool.shutdown(wait=True, cancel_futures=True)
    transport.close()


def _key(server: ServerSettings) -> str | None:
    if server.api_key_env is None:
        return None
    key = os.environ.get(server.api_key_env, "").strip()
    if not key:
        raise SettingsError(
            f"teacher.server.api_key_env: expected the key of the server in the environment variable "
            f"{server.api_key_env}, which is not set; set it where the teacher is asked"
        )
    return key


def _listed(transport: Transport, model: str) -> Mapping[str, Any]:
    """What the server says of the model; nothing where it lists no models. Raises SettingsError if it has others."""
    try:
        listed = transport.get("/models")
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        return {}
    entries = listed.get("data") if isinstance(listed, dict) else None
    models = {entry["id"]: entry for entry in entries or [] if isinstance(entry, dict) and "id" in entry}
    if models and model not in models:
        names = ", ".join(sorted(map(str, models))[:10])
        raise SettingsError(
            f"teacher.server.model {model}: the server {transport.url} has no such model; it has {names}: set "
            "teacher.server.model to one of them"
        )
    entry: Mapping[str, Any] = models.get(model, {})
    return entry

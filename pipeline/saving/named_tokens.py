"""BOS and EOS in the configs of a student, from the tokenizer that it is saved with."""

import json
from pathlib import Path
from typing import Any

from logitlake.pipeline.model_files.tokenizer import read_with_transformers
from logitlake.storage.errors import SettingsError

_NAMES = ("bos_token_id", "eos_token_id")


def write_named_tokens(directory: Path, *, trust_remote_code: bool = False) -> None:
    """Set BOS and EOS in config.json and generation_config.json, so that `generate` stops where the rows end.

    A list of ids that holds the tokenizer's id stays, and so does what the tokenizer has no id for. `directory` holds
    model and tokenizer; beside a tokenizer that transformers can't read, nothing is changed.
    """
    try:
        tokenizer = read_with_transformers(directory, trust_remote_code)
    except SettingsError:
        return
    ids = {name: getattr(tokenizer, name) for name in _NAMES if getattr(tokenizer, name) is not None}
    for name in ("config.json", "generation_config.json"):
        file = directory / name
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            changed = _with_ids(content, ids)
            # A model of several parts has the ids in the part that writes text.
            if isinstance(part := content.get("text_config"), dict):
                named = {name: token_id for name, token_id in ids.items() if name in part}
                changed["text_config"] = _with_ids(part, named)
            if changed != content:
                file.write_text(json.dumps(changed, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _with_ids(content: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    changed = dict(content)
    for name, token_id in ids.items():
        held = content.get(name)
        if not (isinstance(held, list) and token_id in held):
            changed[name] = token_id
    return changed

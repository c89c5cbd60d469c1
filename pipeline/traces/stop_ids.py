"""The ids that end a completion, from the files of a model: needs no torch."""

import json
from pathlib import Path
from typing import Any

from logitlake.pipeline.tokens.tokenizer import TextTokenizer


def stop_ids(directory: Path, tokenizer: TextTokenizer) -> tuple[int, ...]:
    """`eos_token_id` of generation_config.json, else of config.json, and the tokenizer's end-of-sequence token."""
    found: set[int] = set() if tokenizer.eos_id is None else {tokenizer.eos_id}
    for name in ("generation_config.json", "config.json"):
        named = _ids(_json(directory / name).get("eos_token_id"))
        if named:
            return tuple(sorted(found | named))
    return tuple(sorted(found))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _ids(value: Any) -> set[int]:
    values = value if isinstance(value, list) else [value]
    return {item for item in values if isinstance(item, int) and not isinstance(item, bool) and item >= 0}

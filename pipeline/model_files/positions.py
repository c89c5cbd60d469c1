"""How many positions a model was made for, by its config. Needs no torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from logitlake.storage.errors import SettingsError

_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "max_sequence_length")


def check_window(directory: Path, window: int, what: str, *, named: str | None = None) -> None:
    """Raises SettingsError if a window is longer than the positions that the config of a directory names.

    `named` stands for the directory in the message.
    """
    positions = positions_in(directory)
    if positions is not None and window > positions:
        raise SettingsError(
            f"tokenization.window {window}: {what} {named or directory} was made for {positions} positions "
            f"(config.json), and computes something else beyond; set tokenization.window to at most {positions}"
        )


def positions_in(directory: Path) -> int | None:
    """Positions by the `config.json` of a directory; None where it has no limit, names none, or can't be read."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return positions_of(config) if isinstance(config, dict) else None


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Positions of a config as transformers writes it, RoPE scaling included; None where it has no limit or names none.

    A factor of RoPE scaling multiplies `original_max_position_embeddings`, or the model's own number without it.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    # Bloom always has ALiBi, and its `seq_length` is a note of its training.
    if config.get("model_type") == "bloom" or config.get("alibi") or (config.get("attn_config") or {}).get("alibi"):
        return None
    own = next((config[key] for key in _KEYS if isinstance(config.get(key), int) and config[key] > 0), None)
    if own is None:
        return None
    scaled = [
        int(float(factor) * (scaling.get("original_max_position_embeddings") or own))
        for scaling in _scalings(config)
        if isinstance(factor := scaling.get("factor"), int | float)
    ]
    return max(own, *scaled) if scaled else own


def _scalings(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The RoPE parameters: one mapping, or one for each kind of layer."""
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(scaling := config.get(key), Mapping):
            yield scaling
            yield from (value for value in scaling.values() if isinstance(value, Mapping))

"""A tokenizer as an older logitlake read it: `tokenizer.json` and its settings alone, without asking transformers.

Recipes of older lakes name that reading. Such a recipe goes on where no id of a row differs, and its rows can be
trained on where the ids of texts are the same.
"""

from pathlib import Path

from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.same_ids import same_definition
from logitlake.pipeline.tokens.tokenizer import SPECIAL_TOKENS, TextTokenizer
from logitlake.storage.errors import LogitlakeError


def older_reading(directory: Path, *, chat_template: Path | None = None) -> TextTokenizer | None:
    """None for files that an older logitlake could not read."""
    try:
        return TextTokenizer.load(directory, chat_template=chat_template)
    except LogitlakeError:
        return None


def same_texts(older: TextTokenizer, tokenizer: TextTokenizer) -> bool:
    """Whether both readings of one directory give the same ids to every text, before BOS and EOS are added."""
    return same_definition(older.backend, tokenizer.backend)


def same_rows(older: TextTokenizer, tokenizer: TextTokenizer, settings: TokenizationSettings) -> bool:
    """Whether every row that an older logitlake could make of a document has the ids that it would have today.

    Where a BOS or EOS was asked for and the older reading had none, it made no rows.
    """
    adds_bos = tokenizer.adds_bos if settings.bos == "auto" else settings.bos == "always"
    added_bos = older.adds_bos if settings.bos == "auto" else settings.bos == "always"
    return (
        same_texts(older, tokenizer)
        and added_bos == adds_bos
        and (not adds_bos or older.bos_id in (None, tokenizer.bos_id))
        and (not settings.eos or older.eos_id in (None, tokenizer.eos_id))
        and _same_chats(older, tokenizer)
    )


def _same_chats(older: TextTokenizer, tokenizer: TextTokenizer) -> bool:
    """Whether the template in effect names no token that differs."""
    first, second = older.chat_template, tokenizer.chat_template
    if first is None or second is None:
        return first is second
    named = [name for name in SPECIAL_TOKENS if name in second.source]
    tokens = [{name: reading.special_tokens.get(name) for name in named} for reading in (older, tokenizer)]
    return (
        first.template_hash == second.template_hash
        and tokens[0] == tokens[1]
        and set(first.control_tokens) == set(second.control_tokens)
    )

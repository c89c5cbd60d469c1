"""The recipe of imported rows: what is known of a teacher that nobody here has seen."""

from typing import Any

from logitlake.pipeline.capture.recipe import RECIPE_VERSION
from logitlake.pipeline.imports.import_format import ImportReader
from logitlake.pipeline.settings.target import MAX_LEVELS
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.identity import FACTS

SEED = 0


def imported_recipe(
    *, format_name: str, reader: ImportReader, teacher: str, tokenizer: TextTokenizer, temperature: float, window: int
) -> dict[str, Any]:
    """The recipe, JSON-able. `teacher` is the name that the importer states: its weights are not known, and null.

    Its facts say that the targets are biased and that mass was cut off: nobody can tell otherwise.
    """
    return {
        "format_version": RECIPE_VERSION,
        "teacher": {"name": teacher, "weights": None, "adapter": None, "engine": f"imported from {format_name}"},
        "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.vocab_size,
        "chat": {"template": tokenizer.template_hash, "targets": "assistant"},
        "bos": "never",
        "eos": False,
        "window": window,
        "overlap": 0,
        "temperature": float(temperature),
        "sparsifier": {"name": "imported", "format": format_name, **reader.settings},
        "quantiser": {"name": "systematic", "levels": MAX_LEVELS},
        "seed": SEED,
        FACTS: {
            "unbiased": False,
            "cuts_mass": True,
            "heads": "probabilities",
            "noise": None,
            "teacher_gives": "top_k",
            "teacher": {"model": teacher},
        },
    }

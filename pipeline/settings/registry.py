"""What a name can choose: sparsifiers, engines, corpus readers, verifiers, losses, and formats of exports and imports.

A built-in one is a line in a table here, a third party's an entry point of its distribution. Both are written
`module:attribute` and imported when the name is used, so that listing and planning load no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from logitlake.storage.errors import SettingsError


class Registry:
    """Objects by name. `noun` is the word for one of them in messages, `group` the entry point group of plug-ins."""

    def __init__(self, noun: str, *, group: str, built_in: Mapping[str, str]) -> None:
        self.noun = noun
        self.group = group
        self.built_in = dict(built_in)

    def __contains__(self, name: str) -> bool:
        return name in self._providers

    def names(self) -> list[str]:
        """All names: the built-in ones as listed, then those of plug-ins."""
        return list(self._providers)

    def load(self, name: str) -> Any:
        """The object of a name.

        Raises SettingsError for an unknown name, for a name that two distributions provide, and for a plug-in that
        can't be imported.
        """
        providers = self._providers.get(name, [])
        if not providers:
            raise SettingsError(self.unknown(name))
        if len(providers) > 1:
            origins = " and ".join(map(_origin, providers))
            raise SettingsError(
                f"{self.noun} {name!r}: expected one provider, found {len(providers)}: {origins}; uninstall or rename "
                f"all but one (entry point group {self.group})"
            )
        (provider,) = providers
        try:
            return provider.load()
        except Exception as error:  # a plug-in may raise anything while it is imported
            if name in self.built_in:
                raise
            raise SettingsError(
                f"{self.noun} {name!r} of {_origin(provider)}: can't import {provider.value}: "
                f"{type(error).__name__}: {error}; repair, update or uninstall that distribution"
            ) from error

    def unknown(self, name: object) -> str:
        """What to say of a name that nothing provides."""
        near = get_close_matches(str(name), self.names(), n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return (
            f"unknown {self.noun} {name!r}, {meant}expected one of {', '.join(self.names())}; correct the name, or "
            "install the plug-in that provides it"
        )

    def origin(self, name: str) -> str:
        """Who provides a name, for messages: a distribution with its version, or logitlake itself."""
        return " and ".join(map(_origin, self._providers[name]))

    @cached_property
    def _providers(self) -> dict[str, list[EntryPoint]]:
        providers = {name: [EntryPoint(name, value, self.group)] for name, value in self.built_in.items()}
        for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
            providers.setdefault(entry.name, []).append(entry)
        return providers


@dataclass(frozen=True, slots=True)
class NameIn:
    """Annotation of a setting that names something in a registry: other names are refused."""

    registry: Registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise PydanticCustomError("unknown_name", "{message}", {"message": self.registry.unknown(name)})
        return name


def _origin(provider: EntryPoint) -> str:
    return f"{provider.dist.name} {provider.dist.version}" if provider.dist else "logitlake itself"


# Subclasses of TargetSettings: settings, facts and drawing of one sparsifier.
SPARSIFIERS = Registry(
    "sparsifier",
    group="logitlake.sparsifiers",
    built_in={
        "varopt": "logitlake.pipeline.targets.sparsifiers.varopt:VarOptSettings",
        "random": "logitlake.pipeline.targets.sparsifiers.random_draws:RandomSettings",
        "top_k": "logitlake.pipeline.targets.sparsifiers.top_k:TopKSettings",
        "top_p": "logitlake.pipeline.targets.sparsifiers.top_p:TopPSettings",
    },
)

# EngineKind objects: what an engine gives, and how its teacher is loaded.
ENGINES = Registry(
    "engine",
    group="logitlake.engines",
    built_in={
        "transformers": "logitlake.pipeline.teachers.engines:TRANSFORMERS",
        "vllm": "logitlake.pipeline.teachers.engines:VLLM",
        "server": "logitlake.pipeline.teachers.engines:SERVER",
        "replay": "logitlake.pipeline.teachers.engines:REPLAY",
    },
)

# Functions that load a Writer (pipeline/traces/writer.py, LoadWriter): what runs the model that writes traces.
WRITERS = Registry(
    "writer engine",
    group="logitlake.writers",
    built_in={
        "transformers": "logitlake.pipeline.traces.writers.transformers_writer:load_writer",
        "vllm": "logitlake.pipeline.traces.writers.vllm_writer:load_writer",
        "server": "logitlake.pipeline.traces.writers.server_writer:load_writer",
    },
)

# Subclasses of CorpusSettings: settings and reading of one kind of corpus.
CORPORA = Registry(
    "kind of corpus",
    group="logitlake.corpora",
    built_in={
        "jsonl": "logitlake.pipeline.corpus.readers.jsonl:JsonlCorpus",
        "parquet": "logitlake.pipeline.corpus.readers.parquet:ParquetCorpus",
        "text": "logitlake.pipeline.corpus.readers.text:TextCorpus",
        "huggingface": "logitlake.pipeline.corpus.readers.huggingface:HuggingfaceCorpus",
        "traces": "logitlake.pipeline.corpus.readers.traces:TracesCorpus",
    },
)

# Subclasses of VerifierSettings: settings and judgement of one way to verify a trace.
VERIFIERS = Registry(
    "verifier",
    group="logitlake.verifiers",
    built_in={
        "none": "logitlake.pipeline.traces.verifiers.none:NoVerifier",
        "exact_answer": "logitlake.pipeline.traces.verifiers.exact_answer:ExactAnswer",
        "regex": "logitlake.pipeline.traces.verifiers.regex:RegexVerifier",
        "code": "logitlake.pipeline.traces.verifiers.code:CodeVerifier",
        "reward": "logitlake.pipeline.traces.verifiers.reward:RewardVerifier",
        "function": "logitlake.pipeline.traces.verifiers.function:FunctionVerifier",
    },
)

# Functions from a batch's targets to the term of the loss that they make.
LOSSES = Registry(
    "loss",
    group="logitlake.losses",
    built_in={
        "divergence": "logitlake.pipeline.training.objectives.divergence:divergence",
        "cross_entropy": "logitlake.pipeline.training.objectives.cross_entropy:cross_entropy",
    },
)

# ExportFormat objects: how rows are written for other programs.
EXPORTS = Registry(
    "export format",
    group="logitlake.exports",
    built_in={
        "huggingface": "logitlake.pipeline.exports.huggingface:HUGGING_FACE",
        "distillkit": "logitlake.pipeline.exports.distillkit:DISTILLKIT",
        "axolotl": "logitlake.pipeline.exports.axolotl:AXOLOTL",
    },
)

# ImportFormat objects: how targets that another program wrote are read.
IMPORTS = Registry(
    "import format",
    group="logitlake.imports",
    built_in={
        "distillkit": "logitlake.pipeline.imports.distillkit:DISTILLKIT",
        "axolotl": "logitlake.pipeline.imports.axolotl:AXOLOTL",
    },
)

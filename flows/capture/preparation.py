"""What a capture needs before the teacher is loaded: its files, tokenizer, recipe and plan.

It loads torch only for files of a teacher that were not seen before, to ask transformers about them.
Used by `plan` and by the teacher flow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from logitlake.flows.settings import location_of
from logitlake.pipeline.capture.planning import ClaimedDocuments, Plan, StoredDocuments
from logitlake.pipeline.capture.recipe import Recipe, make_recipe
from logitlake.pipeline.capture.target_size_question import probe_key
from logitlake.pipeline.corpus.document import Document, Reject
from logitlake.pipeline.corpus.rejects import RejectGuard
from logitlake.pipeline.model_files.files import TeacherFiles, TeacherSource, resolve_teacher
from logitlake.pipeline.model_files.older_reading import older_reading, same_rows
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.models import Config, TargetSettings, TeacherSettings
from logitlake.pipeline.teachers.registry import check_engine
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import SettingsError
from logitlake.storage.writing.target_size_answers import kept_probe
from logitlake.storage.writing.teacher_configs import has_recipe, noted_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A teacher's files, its tokenizer and the recipe of the settings.

    With `target.target_bytes` a probe chooses one value of the recipe. `question` is the key of that probe while it has
    not been made; until then the recipe is not final. `recipe.tokenizer` is the fingerprint of `tokenizer`, or another
    one of the same ids under which a lake of an older logitlake goes on. `further` are the recipes of `targets`, which
    are drawn in the same pass.
    """

    config: Config
    teacher: TeacherSettings
    files: TeacherFiles
    tokenizer: TextTokenizer
    recipe: Recipe
    question: str | None = None
    further: tuple[Recipe, ...] = ()

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All recipes of the pass."""
        return (self.recipe, *self.further)

    def check_recipes_differ(self) -> None:
        """Raises SettingsError for two targets of one recipe, which would be stored twice. Only for a final recipe."""
        if len({recipe.recipe_id for recipe in self.recipes}) < len(self.recipes):
            raise SettingsError("targets: expected targets that differ from `target` and from each other; remove one")

    @property
    def source(self) -> TeacherSource:
        """What a process needs to load the teacher."""
        return TeacherSource(
            settings=self.teacher,
            files=self.files,
            vocabulary=self.tokenizer.vocab_size,
            window=self.config.tokenization.window,
        )

    def answered(self, value: float) -> "Prepared":
        """The same with the value from the probe."""
        return replace(self, recipe=replace(self.recipe, target=self.recipe.target.with_size(value)), question=None)

    def plan(
        self,
        stored: StoredDocuments,
        guards: Mapping[str, RejectGuard] | None = None,
        claimed: ClaimedDocuments = lambda doc_ids: set(),
        is_capped: bool = True,
    ) -> Plan:
        """Work units of documents that are neither stored nor `claimed`, streamed, up to `capture.max_tokens`
        unless `is_capped` is False.

        `guards` by corpus decide what happens where too much of one is unusable; by default they raise CorpusError.
        """
        guards = guards or guards_of(self.config)
        return Plan(
            documents(self.config, guards),
            stored=stored,
            tokenizer=self.tokenizer,
            tokenization=self.config.tokenization,
            unit_tokens=self.config.capture.unit_tokens,
            max_tokens=self.config.capture.max_tokens if is_capped else None,
            on_reject=lambda reject: guards[reject.corpus].refuse(reject),
            claimed=claimed,
        )


def prepare(config: Config, files: TeacherFiles | None = None) -> Prepared:
    """Resolve tokenizer and recipes, and the teacher unless its `files` are given.

    Raises SettingsError or MismatchError for what does not fit together. The target size that an earlier capture probed
    is taken from the lake's data path.
    """
    assert config.teacher is not None
    kind = check_engine(config.teacher, config.target)
    if kind.gives == "top_k" and config.targets:
        raise SettingsError(
            f"targets: teacher.engine {config.teacher.engine} gives only the most probable ids: one target; "
            "remove `targets`, or choose an engine that gives the distribution"
        )
    if config.capture.record is not None and kind.gives == "top_k":
        raise SettingsError(
            f"capture.record: keeps the logits of every id, and teacher.engine {config.teacher.engine} gives only the "
            "most probable ids; leave capture.record out"
        )
    files = files or resolve_teacher(config.teacher)
    tokenizer = load_tokenizer(
        files.directory,
        chat_template=config.tokenization.chat_template,
        trust_remote_code=config.teacher.trust_remote_code,
    )
    prepared, *further = (_prepare(config, target, files, tokenizer) for target in (config.target, *config.targets))
    together = replace(prepared, further=tuple(other.recipe for other in further))
    if together.question is None:
        together.check_recipes_differ()
    return together


def _prepare(config: Config, target: TargetSettings, files: TeacherFiles, tokenizer: TextTokenizer) -> Prepared:
    """As `prepare`, for one of the targets."""
    assert config.teacher is not None
    recipe = make_recipe(
        files=files,
        tokenizer=tokenizer,
        teacher=config.teacher,
        tokenization=config.tokenization,
        target=target.model_copy(update={"target_bytes": None}),
    )
    location, target_bytes = location_of(config), target.target_bytes
    prepared = Prepared(config=config, teacher=config.teacher, files=files, tokenizer=tokenizer, recipe=recipe)
    for candidate in _of_the_same_rows(prepared):
        final = candidate if target_bytes is None else _answered(location, candidate, target_bytes)
        if final is not None and _goes_on(location, final):
            return final
    if target_bytes is None:
        return prepared
    final = _answered(location, prepared, target_bytes)
    return final or replace(prepared, question=probe_key(recipe, target_bytes))


def _of_the_same_rows(prepared: Prepared) -> Iterator[Prepared]:
    """The recipe of today and those of an older logitlake for the same rows, the first to go on with first.

    An older recipe names no config, or the tokenizer as it was read then.
    """
    yield _without_config(prepared)
    yield prepared
    tokenization = prepared.config.tokenization
    older = older_reading(prepared.files.directory, chat_template=tokenization.chat_template)
    if older is None or older.fingerprint == prepared.recipe.tokenizer:
        return
    if same_rows(older, prepared.tokenizer, tokenization):
        named_before = replace(prepared, recipe=replace(prepared.recipe, tokenizer=older.fingerprint))
        yield _without_config(named_before)
        yield named_before


def _without_config(prepared: Prepared) -> Prepared:
    return replace(prepared, recipe=replace(prepared.recipe, teacher=replace(prepared.files, config_hash=None)))


def _answered(location: LakeLocation, prepared: Prepared, target_bytes: float) -> Prepared | None:
    """With the value of an earlier probe; None if there was none."""
    answer = kept_probe(location, probe_key(prepared.recipe, target_bytes))
    return prepared.answered(answer["value"]) if answer else None


def _goes_on(location: LakeLocation, prepared: Prepared) -> bool:
    """Whether the lake has this recipe and, if the recipe names no config, no other config is noted for it."""
    recipe_id = prepared.recipe.recipe_id
    if not has_recipe(location, recipe_id):
        return False
    named = prepared.recipe.teacher.config_hash is not None
    return named or noted_config(location, recipe_id) in (None, prepared.files.config_hash)


def guards_of(config: Config, *, stops: bool = True) -> dict[str, RejectGuard]:
    """A guard for each corpus, which raises CorpusError unless `stops` is False."""
    return {corpus.name: RejectGuard(corpus, stops=stops) for corpus in config.corpora}


def documents(config: Config, guards: Mapping[str, RejectGuard]) -> Iterator[Document | Reject]:
    """The documents of all corpora. Raises CorpusError where a guard does."""
    return chain.from_iterable(guards[corpus.name].watch(corpus.read()) for corpus in config.corpora)

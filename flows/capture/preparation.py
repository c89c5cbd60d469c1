"""What a capture needs before the teacher is loaded: its files, tokenizer, recipe and plan. Loads no torch.

Used by `plan` and by the teacher flow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from logitlake.flows.settings import location_of
from logitlake.pipeline.capture.planning import Plan, StoredDocuments
from logitlake.pipeline.capture.recipe import Recipe, make_recipe
from logitlake.pipeline.capture.target_size_question import probe_key
from logitlake.pipeline.corpus.document import Document, Reject
from logitlake.pipeline.corpus.rejects import RejectGuard
from logitlake.pipeline.settings.models import Config, TeacherSettings
from logitlake.pipeline.teachers.files import TeacherFiles, TeacherSource, resolve_teacher
from logitlake.pipeline.teachers.tokenizer import load_tokenizer
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.writing.target_size_answers import kept_probe
from logitlake.storage.writing.teacher_configs import has_recipe, noted_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A teacher's files, its tokenizer and the recipe of the settings.

    With `target.target_bytes` a probe chooses one value of the recipe. `question` is the key of that probe while it has
    not been made; until then the recipe is not final.
    """

    config: Config
    teacher: TeacherSettings
    files: TeacherFiles
    tokenizer: TextTokenizer
    recipe: Recipe
    question: str | None = None

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

    def plan(self, stored: StoredDocuments, guards: Mapping[str, RejectGuard] | None = None) -> Plan:
        """Work units of documents that are not stored, streamed, up to `capture.max_tokens`.

        `guards` by corpus decide what happens where too much of one is unusable; by default they raise CorpusError.
        """
        guards = guards or guards_of(self.config)
        return Plan(
            documents(self.config, guards),
            stored=stored,
            tokenizer=self.tokenizer,
            tokenization=self.config.tokenization,
            unit_tokens=self.config.capture.unit_tokens,
            max_tokens=self.config.capture.max_tokens,
            on_reject=lambda reject: guards[reject.corpus].refuse(reject),
        )


def prepare(config: Config, files: TeacherFiles | None = None) -> Prepared:
    """Resolve tokenizer and recipe, and the teacher unless its `files` are given.

    Raises SettingsError or MismatchError for what does not fit together. The target size that an earlier capture probed
    is taken from the lake's data path.
    """
    assert config.teacher is not None
    files = files or resolve_teacher(config.teacher)
    tokenizer = load_tokenizer(
        files.directory,
        chat_template=config.tokenization.chat_template,
        trust_remote_code=config.teacher.trust_remote_code,
    )
    recipe = make_recipe(
        files=files,
        tokenizer=tokenizer,
        teacher=config.teacher,
        tokenization=config.tokenization,
        target=config.target.model_copy(update={"target_bytes": None}),
    )
    location, target_bytes = location_of(config), config.target.target_bytes
    prepared = Prepared(config=config, teacher=config.teacher, files=files, tokenizer=tokenizer, recipe=recipe)
    older = replace(prepared, recipe=replace(recipe, teacher=replace(files, config_hash=None)))
    if target_bytes is None:
        return older if _goes_on(location, older) else prepared
    for candidate in (older, prepared):
        answer = kept_probe(location, probe_key(candidate.recipe, target_bytes))
        final = candidate.answered(answer["value"]) if answer else None
        if final is not None and (candidate is prepared or _goes_on(location, final)):
            return final
    return replace(prepared, question=probe_key(recipe, target_bytes))


def _goes_on(location: LakeLocation, older: Prepared) -> bool:
    """Whether a lake of an older logitlake has this recipe without a config, and no other config is noted for it."""
    recipe_id = older.recipe.recipe_id
    return has_recipe(location, recipe_id) and noted_config(location, recipe_id) in (None, older.files.config_hash)


def guards_of(config: Config, *, stops: bool = True) -> dict[str, RejectGuard]:
    """A guard for each corpus, which raises CorpusError unless `stops` is False."""
    return {corpus.name: RejectGuard(corpus, stops=stops) for corpus in config.corpora}


def documents(config: Config, guards: Mapping[str, RejectGuard]) -> Iterator[Document | Reject]:
    """The documents of all corpora. Raises CorpusError where a guard does."""
    return chain.from_iterable(guards[corpus.name].watch(corpus.read()) for corpus in config.corpora)

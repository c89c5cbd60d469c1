"""What `generate` needs before a model is loaded: the writer's files, its tokenizer, the sampling and the plan."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitlake.flows.distill.directories import directory_of
from logitlake.flows.settings import location_of
from logitlake.pipeline.capture.recipe import DTYPE_OF_THE_SERVER
from logitlake.pipeline.corpus.document import Reject
from logitlake.pipeline.corpus.rejects import RejectGuard
from logitlake.pipeline.model_files.files import TeacherFiles, resolve_teacher
from logitlake.pipeline.model_files.positions import positions_in
from logitlake.pipeline.model_files.tokenizer import load_tokenizer
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.pipeline.settings.engines import VllmSettings
from logitlake.pipeline.settings.generate import GenerateSettings
from logitlake.pipeline.settings.models import Config, TeacherSettings
from logitlake.pipeline.students.identity import read_facts
from logitlake.pipeline.teachers.dtype import resolve_dtype
from logitlake.pipeline.teachers.registry import engine_kind
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.pipeline.traces.planning import Forgotten, StoredSamples, TracePlan
from logitlake.pipeline.traces.prompts import prompts_of
from logitlake.pipeline.traces.stop_ids import stop_ids
from logitlake.pipeline.traces.unit import SamplingRecipe
from logitlake.pipeline.traces.writer import Sampling
from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.lake.lake import Lake
from logitlake.storage.students.registry import named_student

_TEACHER = "teacher"
_VLLM = "vllm"
_SERVER = "server"
# Raise it when the same settings would write otherwise than before.
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedWriter:
    """The model that writes, before it is loaded. `name` is shown to people.

    `max_prompt_tokens`: longer prompts are rejects; by the settings, and by the positions that the model was made for.
    """

    config: Config
    settings: TeacherSettings
    files: TeacherFiles
    tokenizer: TextTokenizer
    sampling: Sampling
    recipe: SamplingRecipe
    name: str
    max_prompt_tokens: int | None

    def plan(self, *, stored: StoredSamples, forgotten: Forgotten) -> TracePlan:
        """Units of what is missing. Raises CorpusError where too much of the prompts is unusable."""
        generate, corpus = self.config.generate, prompts_corpus(self.config)
        guard = RejectGuard(corpus)
        refuse: Callable[[Reject], None] = guard.refuse
        prompts = prompts_of(
            guard.watch(corpus.read()),
            self.tokenizer,
            self.config.tokenization,
            max_tokens=self.max_prompt_tokens,
            on_reject=refuse,
        )
        return TracePlan(
            prompts,
            stored=stored,
            forgotten=forgotten,
            n_samples=generate.samples,
            unit_prompts=generate.unit_prompts,
            max_new_tokens=generate.max_new_tokens,
            max_prompts=generate.max_prompts,
        )


def prompts_corpus(config: Config) -> CorpusSettings:
    """The corpus of prompts. Raises SettingsError if none is set."""
    if config.generate.prompts is None:
        raise SettingsError(
            "generate.prompts: expected a corpus of prompts, found none: set its name, kind, path and fields as in "
            "`corpora` (docs/traces.md)"
        )
    return config.generate.prompts


def prepare_writer(config: Config) -> PreparedWriter:
    """Find and hash the model, read its tokenizer. Raises SettingsError for a writer that is not there."""
    prompts_corpus(config)
    _refuse_unserved(config)
    settings, student_id = _writer_settings(config)
    files = resolve_teacher(settings)
    tokenizer = load_tokenizer(
        files.directory,
        chat_template=config.tokenization.chat_template,
        trust_remote_code=settings.trust_remote_code,
    )
    generate = config.generate
    sampling = Sampling(
        temperature=generate.temperature,
        top_k=generate.top_k,
        top_p=generate.top_p,
        max_new_tokens=generate.max_new_tokens,
        seed=generate.seed,
        stop_ids=stop_ids(files.directory, tokenizer),
    )
    record = {
        "version": _VERSION,
        "writer": {
            "name": files.name,
            "student": student_id,
            "weights": files.teacher_hash,
            "adapter": files.adapter_hash,
            "config": files.config_hash,
            "engine": generate.engine,
            "dtype": _dtype(generate.engine, settings),
            **_engine_options(generate.engine, settings),
        },
        "tokenizer": tokenizer.fingerprint,
        "chat_template": tokenizer.template_hash,
        "bos": config.tokenization.bos,
        **sampling.record(),
    }
    return PreparedWriter(
        config=config,
        settings=settings,
        files=files,
        tokenizer=tokenizer,
        sampling=sampling,
        recipe=SamplingRecipe(writer=student_id or files.teacher_hash, record=record),
        max_prompt_tokens=_longest_prompt(generate, positions_in(files.directory), files.name),
        name=f"{files.name} ({'teacher' if student_id is None else f'student {student_id[:12]}'})",
    )


def _longest_prompt(generate: GenerateSettings, positions: int | None, writer: str) -> int | None:
    """Tokens of a prompt that leave room for a whole completion. Raises SettingsError if there is room for none."""
    if positions is None:
        return generate.max_prompt_tokens
    if generate.max_new_tokens >= positions:
        raise SettingsError(
            f"generate.max_new_tokens {generate.max_new_tokens}: the writer {writer} was made for {positions} "
            f"positions (config.json), prompt included; set generate.max_new_tokens to less than {positions}"
        )
    room = positions - generate.max_new_tokens
    return min(room, generate.max_prompt_tokens or room)


def _engine_options(engine: str, settings: TeacherSettings) -> dict[str, Any]:
    """The engine's own settings that decide its numbers, as in a recipe; nothing without any, as before there were."""
    options = dict(engine_kind(engine).options(settings)) if engine == _VLLM else {}
    return {"options": options} if options else {}


def _dtype(engine: str, settings: TeacherSettings) -> str:
    if engine == _SERVER and settings.dtype == "auto":
        return DTYPE_OF_THE_SERVER
    return resolve_dtype(settings.dtype, settings.device)


def _refuse_unserved(config: Config) -> None:
    """Raises SettingsError for a writer that `teacher.server` does not serve."""
    if config.generate.engine != _SERVER:
        return
    if config.generate.writer != _TEACHER:
        raise SettingsError(
            f"generate.engine server: the server of teacher.server has the teacher, and generate.writer is "
            f"{config.generate.writer}; let transformers or vllm run a student"
        )
    if config.teacher is not None and config.teacher.server is None:
        raise SettingsError("generate.engine server: needs the section teacher.server: set teacher.server.url")


def _writer_settings(config: Config) -> tuple[TeacherSettings, str | None]:
    """How the model is loaded, and the student's id if it is one."""
    writer, teacher = config.generate.writer, config.teacher
    if writer == _TEACHER:
        if teacher is None:
            raise SettingsError(
                "generate.writer teacher: expected teacher.model, found none: set it, or name a student as writer"
            )
        return teacher, None
    directory = _student_directory(config)
    facts = read_facts(directory)
    settings = TeacherSettings(
        model=str(directory),
        device=teacher.device if teacher else "auto",
        dtype=teacher.dtype if teacher else "auto",
        attention=teacher.attention if teacher else None,
        vllm=teacher.vllm if teacher else VllmSettings(),
        trust_remote_code=config.student is not None and config.student.trust_remote_code,
    )
    return settings, str(facts.get("student_id", directory.name))


def _student_directory(config: Config) -> Path:
    writer = config.generate.writer
    named = Path(writer).expanduser()
    if named.is_dir():
        return named
    try:
        with Lake.open(location_of(config)) as lake:
            directory = directory_of(config, named_student(lake, writer))
    except LakeError as error:
        raise SettingsError(
            f"generate.writer {writer}: expected `teacher`, or a student's directory, id or alias: {error}"
        ) from None
    if not directory.is_dir():
        raise SettingsError(f"generate.writer {writer}: expected the student in {directory}, which does not exist")
    return directory

"""The models of the sections, and `Config`, which holds them all: bounds stand on the fields, unknown keys are refused.

Sections whose keys depend on a name (`target`, `corpora`) stand in files of their own.
Loads no torch, so that commands that run no flow start fast.
"""

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import Field, SerializeAsAny, field_serializer, field_validator, model_validator

from logitlake.pipeline.settings.base import Settings as Settings
from logitlake.pipeline.settings.corpus import CorpusSettings as CorpusSettings
from logitlake.pipeline.settings.engines import ReplaySettings, TransformersSettings, VllmSettings
from logitlake.pipeline.settings.generate import GenerateSettings as GenerateSettings
from logitlake.pipeline.settings.paths import PathSetting, PathText
from logitlake.pipeline.settings.registry import ENGINES, NameIn
from logitlake.pipeline.settings.server import ServerSettings as ServerSettings
from logitlake.pipeline.settings.target import TargetSettings as TargetSettings
from logitlake.pipeline.settings.training import TrainingSettings as TrainingSettings
from logitlake.storage.connection.location import catalog_address
from logitlake.storage.redaction import without_secrets


class HeldOutSettings(Settings):
    """Which documents no student may ever train on: fixed when the lake is made, by a salted hash of document ids."""

    share: float = Field(0.05, ge=0, lt=1)
    salt: str = "logitlake"


class LakeSettings(Settings):
    """Where the lake is. `path` is the embedded form; `catalog` and `data` name any DuckLake catalog and data URL."""

    path: PathSetting = Path("lake")
    catalog: PathText | None = Field(
        None, repr=False, description="postgres:… connection string, or a path to a SQLite file"
    )
    data: PathText | None = Field(None, description="directory or URL of the shards: s3://bucket/prefix/ or gs://…")
    held_out: HeldOutSettings = HeldOutSettings()
    lock_timeout_seconds: float = Field(60, gt=0)

    @field_validator("catalog")
    @classmethod
    def _is_an_address(cls, catalog: str | None) -> str | None:
        """Before any command shows it: only in pairs that are well formed can a password be found and hidden."""
        if catalog is not None:
            catalog_address(catalog)
        return catalog

    @field_serializer("catalog")
    def _without_password(self, catalog: str | None) -> str | None:
        """Prefect's database, records and screens get the settings without the password."""
        return None if catalog is None else without_secrets(catalog)


class TeacherSettings(Settings):
    """The model that is run once."""

    model: PathText = Field(description="hub id, directory, or directory that holds a GGUF file")
    gguf_file: PathText | None = Field(None, description="name of the GGUF file inside `model`, or a path to one")
    gguf_tokenizer: Literal["file", "transformers"] = Field(
        "file",
        description="file: as the GGUF file describes it, or refused; transformers: its conversion, which may differ",
    )
    revision: str | None = None
    adapter: PathText | None = Field(None, description="PEFT adapter: hub id or directory")
    engine: Annotated[str, NameIn(ENGINES)] = Field("transformers", description="what runs the model")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|(cuda|npu|xpu)(:\d+)?)$")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    attention: str | None = Field(None, description="name of the attention kernel in transformers; none: its default")
    trust_remote_code: bool = False
    allow_pickle: bool = Field(False, description="load weights that are not safetensors: they can run code")
    transformers: TransformersSettings = TransformersSettings()
    vllm: VllmSettings = VllmSettings()
    server: ServerSettings | None = None
    replay: ReplaySettings | None = None

    @model_validator(mode="after")
    def _server_has_an_address(self) -> "TeacherSettings":
        if self.is_served and self.server is None:
            raise ValueError("engine server needs the section `server`: set teacher.server.url")
        if self.is_replayed and self.replay is None:
            raise ValueError("engine replay needs the section `replay`: set teacher.replay.recording")
        return self

    @property
    def is_served(self) -> bool:
        """Whether a server runs the model: then its dtype and speed are not known here, and its weights need not lie
        here."""
        return self.engine == "server"

    @property
    def is_replayed(self) -> bool:
        """Whether a recording stands for the model: then it says which weights they were, and none need lie here."""
        return self.engine == "replay"


class TokenizationSettings(Settings):
    """How documents become sequences."""

    window: int = Field(512, ge=8, description="tokens per sequence at most")
    overlap: int = Field(64, ge=0, description="tokens of context that a later window shares with the one before")
    bos: Literal["auto", "always", "never"] = Field("auto", description="auto: what the tokenizer's own template does")
    eos: bool = Field(True, description="end each document with the end-of-sequence token")
    min_tokens: int = Field(2, ge=2, description="shorter documents carry no target and are rejected")
    chat_template: PathSetting | None = Field(
        None, description="Jinja file used in place of the tokenizer's own template"
    )
    chat_targets: Literal["assistant", "all"] = "assistant"

    @model_validator(mode="after")
    def _overlap_below_window(self) -> "TokenizationSettings":
        if self.overlap > self.window // 2:
            raise ValueError(f"overlap must be at most half the window ({self.window // 2}), found {self.overlap}")
        return self


class CaptureSettings(Settings):
    """How the teacher flow works through a corpus. Nothing here changes what is cached."""

    unit_tokens: int = Field(1_000_000, ge=1, description="tokens per work unit: one task, one shard, one commit")
    batch_tokens: int = Field(4096, ge=1, description="padded tokens per forward at most")
    max_tokens: int | None = Field(None, ge=1, description="spend at most this many teacher tokens")
    max_hours: float | None = Field(None, gt=0, description="start no unit after this time")
    price_per_hour: float | None = Field(
        None, ge=0, description="price of one hour of the machine, in your currency; none: no cost is reported"
    )
    count_ahead: bool = Field(
        True,
        description="count the remaining tokens while the teacher runs, to tell the time left: reads the corpora twice",
    )
    unit_retries: int = Field(2, ge=0, le=20)
    claim_seconds: float = Field(
        120.0,
        ge=1,
        description="catalog on PostgreSQL: the documents of a run that died are free for other runs after this time",
    )
    record: PathSetting | None = Field(
        None,
        description="directory for the logits of all that is captured, for teacher.engine replay; takes the vocabulary "
        "times 2 or 4 bytes for each target; none: nothing is recorded",
    )


class LoraSettings(Settings):
    """Low-rank adapters for the student, through PEFT."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class StudentSettings(Settings):
    """Where the student comes from."""

    source: Literal["teacher", "checkpoint", "config"] = Field(
        "teacher", description="cut from the teacher, an existing checkpoint, or fresh weights from a config"
    )
    model: PathText | None = Field(None, description="checkpoint or config: hub id or directory")
    revision: str | None = None
    layers: int | None = Field(None, ge=1, description="teacher: how many of its layers to keep, evenly spaced")
    lora: LoraSettings | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="dtype of the saved weights; auto: the parent's. Training is in float32"
    )
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _source_has_what_it_needs(self) -> "StudentSettings":
        if self.source == "teacher" and self.layers is None:
            raise ValueError("source teacher needs `layers`: how many of the teacher's layers to keep")
        if self.source != "teacher" and self.model is None:
            raise ValueError(f"source {self.source} needs `model`: a hub id or a directory")
        if self.source != "teacher" and self.layers is not None:
            raise ValueError(f"source {self.source} keeps all layers: leave out `layers`, which cuts the teacher")
        if self.source == "teacher" and self.model is not None:
            raise ValueError("source teacher is cut from the teacher: leave out `model`, or set source checkpoint")
        return self


class EvaluationSettings(Settings):
    """How students are measured on the held-out documents."""

    max_tokens: int | None = Field(None, ge=1, description="evaluate on at most this many held-out tokens")
    batch_sequences: int = Field(8, ge=1)
    teacher: bool | None = Field(None, description="run the teacher, for the exact KL; none: if it can be loaded")


class RedistillSettings(Settings):
    """When a student is trained on new documents, how many old ones it repeats, and when it is promoted."""

    min_new_documents: int = Field(1, ge=1, description="with fewer new training documents nothing is trained")
    min_new_tokens: int = Field(1, ge=1, description="with fewer new training tokens nothing is trained")
    replay_share: float = Field(
        0.5, ge=0, lt=1, description="share of the training tokens that are old ones, against forgetting; 0: none"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="for a student that continues from the current one; none: training.learning_rate"
    )
    measure: Literal["kl", "cross_entropy"] = Field(
        "kl", description="what candidates are compared by; kl needs an unbiased sparsifier or the teacher"
    )
    tolerance: float = Field(0.01, ge=0, description="nats by which a candidate may be worse and still be promoted")
    alias: str = Field("current", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    students: PathSetting | None = Field(
        None, description="directory of candidates; none: `students` in the lake's folder"
    )
    checkpoint_steps: int = Field(200, ge=1, description="steps between checkpoints, unless training.save_steps says")


class MaintenanceSettings(Settings):
    """How small shards are merged and unused files deleted."""

    target_bytes: int = Field(256 * 2**20, ge=1, description="small shards are merged up to this size")
    grace_hours: float = Field(
        24,
        ge=0,
        description="a file that the catalog no longer names is deleted after so long: readers may use it",
    )
    verify_sample: float = Field(
        0.05, ge=0, le=1, description="share of the work units checked, others every night; small tables whole"
    )


class ScheduleSettings(Settings):
    """When the flows run, for `logitlake serve`. Cron: minute, hour, day, month, weekday; null disables a schedule."""

    timezone: str = Field("UTC", description="IANA name; daylight saving time is followed")
    capture: str | None = Field("0 * * * *", description="the capture flow")
    generate: str | None = Field(
        None, description="the flow that writes traces, followed by a capture; needs generate.prompts"
    )
    redistill: str | None = Field("0 2 * * *", description="the redistill flow")
    maintain: str | None = Field("0 5 * * *", description="the maintenance flow: merge, expire, sweep, verify")
    on_capture: bool = Field(True, description="start redistill when a capture has committed")
    teachers: int = Field(1, ge=1, description="captures that may run at once on one server; the first run sets it")
    host: str = Field("127.0.0.1", description="where `serve` starts a Prefect server if none is configured")
    port: int = Field(4200, ge=1, le=65535)
    notify: str | None = Field(
        None, pattern=r"^[^/]+/[^/]+$", description="a Prefect notification block, such as slack-webhook/on-call"
    )
    zombie_seconds: int = Field(120, ge=60, description="a run without a heartbeat for this long is marked crashed")

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("expected an IANA time zone such as Europe/Berlin or UTC")
        return name

    @field_validator("capture", "generate", "redistill", "maintain")
    @classmethod
    def _cron_has_five_fields(cls, text: str | None) -> str | None:
        if text is not None and len(text.split()) != 5:
            raise ValueError("expected five fields, such as `0 2 * * *`: minute, hour, day, month, weekday")
        return text


class Config(Settings):
    """Everything that one YAML file may say."""

    lake: LakeSettings = LakeSettings()
    corpora: Annotated[tuple[SerializeAsAny[CorpusSettings], ...], Field(default=())]
    teacher: TeacherSettings | None = None
    tokenization: TokenizationSettings = TokenizationSettings()
    target: SerializeAsAny[TargetSettings] = Field(default_factory=TargetSettings)
    targets: Annotated[tuple[SerializeAsAny[TargetSettings], ...], Field(default=())]
    capture: CaptureSettings = CaptureSettings()
    generate: GenerateSettings = Field(default_factory=GenerateSettings)
    student: StudentSettings | None = None
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    redistill: RedistillSettings = RedistillSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    schedule: ScheduleSettings = ScheduleSettings()

    @model_validator(mode="after")
    def _corpus_names_are_unique(self) -> "Config":
        names = [corpus.name for corpus in self.corpora]
        if len(set(names)) != len(names):
            raise ValueError(f"corpora must have different names, found {names}")
        for corpus in self.corpora:
            corpus.bind_lake(self.lake.path, self.lake.catalog, self.lake.data)
        return self

    @model_validator(mode="after")
    def _what_is_scheduled_has_prompts(self) -> "Config":
        if self.schedule.generate is not None and self.generate.prompts is None:
            raise ValueError("schedule.generate: nothing to write without prompts: set generate.prompts")
        return self

    @model_validator(mode="after")
    def _only_the_first_target_has_a_size(self) -> "Config":
        if any(target.target_bytes is not None for target in self.targets):
            raise ValueError("targets: target_bytes is for `target` only; set the value of each further target")
        return self

"""The engine `replay`: captures of recorded logits beside the captures that recorded them."""

import copy
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from peft import LoraConfig, get_peft_model

from logitlake.flows.capture.preparation import prepare
from logitlake.flows.distill.evaluation import teacher_engine
from logitlake.flows.distill.run import plan_student
from logitlake.pipeline.capture.compute import compute_unit, unload_teacher
from logitlake.pipeline.model_files.recording import RecordedTeacher, begin_recording, read_recording
from logitlake.pipeline.settings.loading import load_config
from logitlake.pipeline.settings.models import Config, EvaluationSettings
from logitlake.storage.errors import IntegrityError, MismatchError, SettingsError
from tests.tiny_lake import SENTENCES, capture_all, tiny_settings
from tests.tiny_models import make_tiny_llama, write_tiny_tokenizer

# Two targets from one pass, in a dtype that NumPy does not have.
TARGETS = {"target": {"threshold": 0.1}, "targets": [{"sparsifier": "top_k", "k": 7}]}


def write_corpus(path: Path, n: int) -> None:
    """Texts of random words; the first two windows of the first two texts are the same."""
    rng = np.random.default_rng(0)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    texts = [" ".join(rng.choice(words, int(length))) for length in rng.integers(5, 70, n)]
    texts[:2] = [f"{' '.join(words * 6)} {text}" for text in texts[:2]]
    path.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))


@dataclass(frozen=True)
class Recorded:
    """A lake, the settings that filled it, the recording that was made beside, and the rows that no recorder made."""

    raw: dict[str, Any]
    recording: Path
    corpus: Path
    rows: list[pa.Table]

    def replayed(self, directory: Path, **changes: Any) -> Config:
        """The same settings with the recording in place of the teacher, whose directory holds a tokenizer alone."""
        raw = copy.deepcopy(self.raw)
        tokenizer = directory / "tokenizer"
        tokenizer.mkdir()
        write_tiny_tokenizer(tokenizer)
        raw["teacher"] = {
            "model": str(tokenizer),
            "engine": "replay",
            "replay": {"recording": str(self.recording)},
            **changes.pop("teacher", {}),
        }
        raw["capture"] = {"unit_tokens": 150, "batch_tokens": 100}
        return Config.model_validate(raw | changes)


def computed(config: Config) -> list[pa.Table]:
    """The rows of all documents, a table for each recipe, without a lake."""
    prepared = prepare(config)
    units = [
        compute_unit(prepared.source, unit, recipe=prepared.recipe, further=prepared.further, settings=config.capture)
        for unit in prepared.plan(lambda doc_ids: set())
    ]
    unload_teacher()
    tables = zip(*((unit.rows, *unit.further_rows) for unit in units), strict=True)
    return [pa.concat_tables(parts).combine_chunks() for parts in tables]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Recorded:
    directory = tmp_path_factory.mktemp("recorded")
    corpus = directory / "documents.jsonl"
    write_corpus(corpus, 12)
    raw = tiny_settings(directory, tiny_teacher, corpus) | TARGETS
    raw["teacher"]["dtype"] = "bfloat16"
    raw["capture"]["record"] = str(directory / "recording")
    capture_all(Config.model_validate(raw))
    unrecorded = Config.model_validate(raw | {"capture": raw["capture"] | {"record": None}})
    return Recorded(raw, directory / "recording", corpus, computed(unrecorded))


def test_a_replay_gives_the_rows_of_the_capture_that_was_recorded_byte_for_byte(
    recorded: Recorded, tmp_path: Path
) -> None:
    """In other units and batches, without the weights, under the same recipes."""
    replayed = computed(recorded.replayed(tmp_path))
    assert len(replayed) == 2
    assert all(rows.equals(expected) for rows, expected in zip(replayed, recorded.rows, strict=True))


def test_what_is_recorded_is_not_computed_again(recorded: Recorded, tmp_path: Path) -> None:
    """As after a kill: a capture of the same recording takes its logits, whatever its batches would give."""
    files = {path: path.stat().st_mtime_ns for path in recorded.recording.glob("*/*")}
    again = computed(Config.model_validate(recorded.raw | {"capture": recorded.raw["capture"] | {"batch_tokens": 40}}))
    assert {path: path.stat().st_mtime_ns for path in recorded.recording.glob("*/*")} == files
    assert all(rows.equals(expected) for rows, expected in zip(again, recorded.rows, strict=True))


def test_the_recipe_of_a_replay_is_that_of_the_recorded_engine(recorded: Recorded, tmp_path: Path) -> None:
    """So a lake that the teacher filled has nothing to replay."""
    config = recorded.replayed(tmp_path)
    live, replayed = (prepare(of).recipes for of in (Config.model_validate(recorded.raw), config))
    assert [recipe.to_dict() for recipe in replayed] == [recipe.to_dict() for recipe in live]
    assert capture_all(config).n_tokens == 0


def test_the_live_teacher_of_an_evaluation_may_be_a_replay(recorded: Recorded, tmp_path: Path) -> None:
    live = Config.model_validate(recorded.raw)
    recipe = prepare(live).recipe.to_dict()
    always = EvaluationSettings(teacher=True)
    logits = []
    for config in (live, recorded.replayed(tmp_path)):
        assert config.teacher is not None
        engine = teacher_engine(always, config.teacher, recipe)
        assert engine is not None
        unit = next(prepare(config).plan(lambda doc_ids: set()))
        sequences = [sequence for document in unit.documents[:2] for sequence in document.sequences]
        chunks = engine.forward([s.input_ids for s in sequences], [s.has_target for s in sequences])
        logits.append(torch.cat([chunk.clone() for chunk in chunks]))
    # The live teacher computes other batches than the recorded ones: the noise of bfloat16.
    assert torch.allclose(logits[0].float(), logits[1].float(), atol=0.02)
    assert logits[1].dtype == torch.bfloat16


def test_a_document_that_was_not_recorded_is_named(recorded: Recorded, tmp_path: Path) -> None:
    config = recorded.replayed(tmp_path)
    corpus = tmp_path / "documents.jsonl"
    corpus.write_bytes(recorded.corpus.read_bytes() + orjson.dumps({"text": "the small dog sat"}) + b"\n")
    more = config.model_copy(update={"corpora": (config.corpora[0].model_copy(update={"path": corpus}),)})
    unit = list(prepare(more).plan(lambda doc_ids: set()))[-1]
    doc_id = unit.documents[-1].document.doc_id
    assert unit.documents[-1].document.content == "the small dog sat"
    expected = rf"document {doc_id} \(test/documents.jsonl\), window 0: .*no logits of this sequence"
    with pytest.raises(MismatchError, match=expected):
        computed(more)


def test_other_windows_are_not_what_was_recorded(recorded: Recorded, tmp_path: Path) -> None:
    config = recorded.replayed(tmp_path, tokenization={"window": 16, "overlap": 4})
    with pytest.raises(MismatchError, match="replay with the corpus, tokenizer and tokenization that were recorded"):
        computed(config)


def test_a_damaged_file_is_named_and_not_replayed(recorded: Recorded, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    shutil.copytree(recorded.recording, recording)
    config = recorded.replayed(tmp_path, teacher={"replay": {"recording": str(recording)}})
    for path in recording.glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(IntegrityError, match=r"recording .*\.safetensors: can't be read"):
        computed(config)


@pytest.fixture
def other_teacher(tmp_path: Path) -> Path:
    directory = tmp_path / "other"
    make_tiny_llama(seed=5).save_pretrained(directory)
    write_tiny_tokenizer(directory)
    return directory


@pytest.fixture
def other_config(tmp_path: Path, tiny_teacher: Path) -> Path:
    """The same weights under another config: another function."""
    directory = tmp_path / "rope"
    shutil.copytree(tiny_teacher, directory)
    config = orjson.loads((directory / "config.json").read_bytes())
    config["rope_parameters"]["rope_theta"] = 100.0
    (directory / "config.json").write_bytes(orjson.dumps(config))
    return directory


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    directory = tmp_path / "adapter"
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        adapted = get_peft_model(make_tiny_llama(), settings)
    adapted.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("part", ["weights", "config", "adapter"])
def test_a_teacher_beside_the_tokenizer_must_be_that_of_the_recording(
    recorded: Recorded, tmp_path: Path, tiny_teacher: Path, part: str, request: pytest.FixtureRequest
) -> None:
    """A student may be cut from it, and traces written by it, under the recording's name."""
    same = recorded.replayed(tmp_path, teacher={"model": str(tiny_teacher)})
    assert same.teacher is not None and prepare(same).files.has_weights
    name, fixture = {"weights": ("model", "other_teacher"), "config": ("model", "other_config")}.get(
        part, ("adapter", "adapter")
    )
    teacher = same.teacher.model_copy(update={name: str(request.getfixturevalue(fixture))})
    with pytest.raises(MismatchError, match=rf"of a teacher with {part} .*set both to the teacher that was recorded"):
        prepare(same.model_copy(update={"teacher": teacher}))


def test_a_recording_with_an_adapter_keeps_it_where_the_teacher_is_there(
    recorded: Recorded, tmp_path: Path, tiny_teacher: Path, adapter: Path
) -> None:
    raw = copy.deepcopy(recorded.raw)
    raw["teacher"] |= {"adapter": str(adapter)}
    raw["capture"]["record"] = str(tmp_path / "with adapter")
    live = Config.model_validate(raw)
    computed(live)
    replay = {"engine": "replay", "replay": {"recording": raw["capture"]["record"]}}
    raw["teacher"] = {"model": str(tiny_teacher), "adapter": str(adapter), **replay}
    raw["capture"].pop("record")
    files, replayed = prepare(live).files, prepare(Config.model_validate(raw)).files
    assert (replayed.adapter_directory, replayed.adapter_hash) == (files.adapter_directory, files.adapter_hash)
    assert replayed.adapter_hash is not None


def test_a_damaged_file_is_recorded_again(recorded: Recorded, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    shutil.copytree(recorded.recording, recording)
    damaged, *_ = sorted(recording.glob("*/*.safetensors"))
    damaged.write_bytes(b"")
    raw = copy.deepcopy(recorded.raw)
    raw["capture"]["record"] = str(recording)
    computed(Config.model_validate(raw))
    assert damaged.read_bytes()
    assert [rows.equals(other) for rows, other in zip(computed(Config.model_validate(raw)), recorded.rows, strict=True)]
    plain = tmp_path / "plain"
    plain.touch()
    assert damaged.stat().st_mode == plain.stat().st_mode, "others may read it as they may any file"
    assert not list(recording.rglob("*.tmp"))


def test_of_two_first_recordings_in_one_directory_the_second_is_refused(recorded: Recorded, tmp_path: Path) -> None:
    """Both found none when they looked."""
    first = read_recording(recorded.recording)
    second = replace(first, teacher={**first.teacher, "dtype": "float32"})
    barrier, directory = threading.Barrier(2), tmp_path / "new"

    def begin(teacher: RecordedTeacher) -> str:
        barrier.wait()
        try:
            begin_recording(directory, teacher)
        except MismatchError:
            return "refused"
        return str(teacher.teacher["dtype"])

    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(begin, [first, second]))
        assert answers.count("refused") == 1
        assert read_recording(directory).teacher["dtype"] in answers


def test_a_recording_is_of_one_teacher(recorded: Recorded, tmp_path: Path, other_teacher: Path) -> None:
    raw = copy.deepcopy(recorded.raw)
    raw["teacher"]["model"] = str(other_teacher)
    with pytest.raises(MismatchError, match=r"capture.record .*: holds a recording of llama-.*name another directory"):
        computed(Config.model_validate(raw))
    assert read_recording(recorded.recording).teacher["dtype"] == "bfloat16"


def test_a_student_is_not_cut_from_a_teacher_without_weights(recorded: Recorded, tmp_path: Path) -> None:
    config = recorded.replayed(tmp_path)
    with pytest.raises(SettingsError, match="the teacher's weights, which are not there"):
        plan_student(config)


def test_settings_that_can_not_be_replayed_or_recorded_are_refused(
    recorded: Recorded, tmp_path: Path, load: Callable[..., Config]
) -> None:
    with pytest.raises(SettingsError, match=r"set teacher\.replay\.recording"):
        load({"model": "x", "engine": "replay"})
    config = recorded.replayed(tmp_path, teacher={"replay": {"recording": str(tmp_path)}})
    with pytest.raises(SettingsError, match=r"found none; make one by a capture with capture\.record"):
        prepare(config)
    served = load(
        {"model": "x", "engine": "server", "server": {"url": "http://127.0.0.1:1/v1"}},
        target={"sparsifier": "top_k"},
        capture={"record": "r"},
    )
    with pytest.raises(SettingsError, match=r"capture\.record: keeps the logits of every id"):
        prepare(served)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    def load(teacher: dict[str, Any], **sections: Any) -> Config:
        path = tmp_path / "settings.yaml"
        path.write_bytes(orjson.dumps({"teacher": teacher, **sections}))
        return load_config(path)

    return load


def test_plan_says_that_no_teacher_runs(recorded: Recorded, tmp_path: Path, cli: Any) -> None:
    path = tmp_path / "settings.yaml"
    raw = recorded.replayed(tmp_path).model_dump(mode="json", include={"lake", "teacher", "tokenization"})
    path.write_bytes(orjson.dumps({**raw, "corpora": recorded.raw["corpora"]}))
    planned = cli("plan", "--config", path)
    assert planned.exit_code == 0, planned.output
    assert "engine replay: no teacher runs" in " ".join(planned.output.split())


def test_check_needs_a_running_teacher(recorded: Recorded, tmp_path: Path, cli: Any) -> None:
    path = tmp_path / "settings.yaml"
    raw = recorded.replayed(tmp_path).model_dump(mode="json", include={"lake", "teacher", "tokenization"})
    path.write_bytes(orjson.dumps({**raw, "corpora": recorded.raw["corpora"]}))
    refused = cli("check", "--config", path)
    assert refused.exit_code == 2
    assert "check compares a running teacher" in " ".join(refused.output.split())


def test_a_replay_waits_for_each_token_where_it_stands_for_a_slow_teacher(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("logitlake.pipeline.teachers.engines.replay_engine.time.sleep", waits.append)
    section = {"recording": str(recorded.recording), "seconds_per_token": 0.5}
    rows, _ = computed(recorded.replayed(tmp_path, teacher={"replay": section}))
    assert np.isclose(sum(waits), 0.5 * pc.sum(rows["n_tokens"]).as_py())

"""The engine `server` against a real vLLM: its numbers, its targets, and a capture that is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM

from logitlake.flows.settings import location_of
from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import Config, TeacherSettings
from logitlake.pipeline.teachers.engines.server_engine import ServedModel, ServerEngine, load_teacher
from logitlake.pipeline.teachers.server.answers import Echo
from logitlake.pipeline.teachers.server.token_names import TokenNames
from logitlake.pipeline.teachers.server.transport import Transport
from logitlake.pipeline.teachers.top_k_engine import TopLogprobs, WantedLogprobs
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.failpoints import ENVIRONMENT_VARIABLE
from logitlake.storage.lake.lake import Lake
from tests.tiny_lake import append_documents, capture_all, tiny_settings
from tests.tiny_models import write_served_teacher
from tests.vllm.served import PYTHON, vllm_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: run make vllm"),
]
K = 10


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served-teacher")
    write_served_teacher(directory)
    return directory


@pytest.fixture(scope="module")
def url(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    with vllm_server(teacher, log, name="tiny", window=128) as url:
        yield url


@pytest.fixture
def settings(teacher: Path, url: str) -> TeacherSettings:
    server = {"url": url, "model": "tiny", "concurrency": 8}
    return TeacherSettings.model_validate({"model": str(teacher), "engine": "server", "server": server})


@pytest.fixture
def engine(settings: TeacherSettings) -> Iterator[ServerEngine]:
    files = resolve_teacher(settings)
    vocabulary = TextTokenizer.load(files.directory).vocab_size
    with closing(load_teacher(settings, files, vocab_size=vocabulary, window=64)) as engine:
        yield engine


@pytest.fixture(scope="module")
def dense(teacher: Path) -> Any:
    """Log-probs `[n, V]` of plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logprobs_nV(ids: np.ndarray) -> np.ndarray:  # noqa: N802 (shape suffix)
        return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].double().log_softmax(-1).numpy()

    return logprobs_nV


def some_sequences(vocabulary: int) -> list[WantedLogprobs]:
    rng = np.random.default_rng(0)
    sequences = []
    for n in [20, 5, 33, 64, 7, 2] * 4:
        has_target = rng.random(n) < 0.7
        has_target[0], has_target[-1] = True, False
        sequences.append(
            WantedLogprobs(input_ids=rng.integers(0, vocabulary, n).astype(np.int32), has_target=has_target)
        )
    return sequences


def assert_those_of_transformers(sequences: list[WantedLogprobs], answers: list[TopLogprobs], dense: Any) -> float:
    """Equal up to the noise of float32; returns the share of entries that are told."""
    told = []
    for wanted, answer in zip(sequences, answers, strict=True):
        at = np.flatnonzero(wanted.has_target)
        logprobs_pV = dense(wanted.input_ids)[at]
        np.testing.assert_allclose(
            answer.next_logprobs, logprobs_pV[np.arange(len(at)), wanted.input_ids[at + 1]], atol=2e-5
        )
        has_id = answer.logprobs > -np.inf
        expected = np.take_along_axis(logprobs_pV, answer.ids, 1)
        np.testing.assert_allclose(answer.logprobs[has_id], expected[has_id], atol=2e-5)
        # No id that is missing is more probable than the last of the k.
        least = np.sort(logprobs_pV, axis=1)[:, -K]
        assert (answer.logprobs >= np.where(has_id, least[:, None] - 2e-5, -np.inf)).all()
        told.append(has_id)
    return float(np.concatenate(told).mean())


def test_log_probs_are_those_of_transformers_up_to_the_noise_of_float32(engine: ServerEngine, dense: Any) -> None:
    sequences = some_sequences(engine.vocab_size)
    assert engine.description["form"] == "prompt_logprobs"
    assert engine.description["tokenizer"].startswith("ids of")
    answers = list(engine.top_logprobs(iter(sequences), k=K))
    assert assert_those_of_transformers(sequences, answers, dense) == 1


def test_the_classic_form_gives_the_same_log_probs_for_every_id_that_its_text_tells(
    settings: TeacherSettings, engine: ServerEngine, teacher: Path, dense: Any
) -> None:
    assert settings.server is not None
    form = Echo(TokenNames(TextTokenizer.load(teacher)))
    served = ServedModel(
        transport=Transport(settings.server, key=None), form=form, name="tiny", vocab_size=engine.vocab_size
    )
    sequences = some_sequences(engine.vocab_size)
    with closing(ServerEngine(served, concurrency=4, about={})) as classic:
        answers = list(classic.top_logprobs(iter(sequences), k=K))
    assert assert_those_of_transformers(sequences, answers, dense) > 0.8


def test_more_ids_than_vllm_gives_are_refused_with_what_to_change(engine: ServerEngine) -> None:
    with pytest.raises(SettingsError, match=r"target.k 21.*greater than max allowed: 20.*--max-logprobs"):
        list(engine.top_logprobs(some_sequences(engine.vocab_size), k=21))


def test_another_tokenizer_than_that_of_the_server_is_refused(settings: TeacherSettings, tmp_path: Path) -> None:
    from tests.unit.pipeline.conftest import train_backend

    (tmp_path / "tokenizer.json").write_text(train_backend().to_str())
    other = settings.model_copy(update={"model": str(tmp_path)})
    with pytest.raises(MismatchError, match=r"by the server and .* by the local tokenizer"):
        load_teacher(other, resolve_teacher(other), vocab_size=300, window=64)


def test_a_window_as_long_as_the_server_takes_is_captured_and_a_longer_one_refused(
    settings: TeacherSettings, engine: ServerEngine, dense: Any
) -> None:
    ids = np.random.default_rng(3).integers(0, engine.vocab_size, 127).astype(np.int32)
    longest = WantedLogprobs(input_ids=ids, has_target=np.arange(127) < 126)
    assert_those_of_transformers([longest], list(engine.top_logprobs([longest], k=K)), dense)
    with pytest.raises(SettingsError, match=r"at most 127"):
        load_teacher(settings, resolve_teacher(settings), vocab_size=engine.vocab_size, window=128)


def raw_settings(directory: Path, teacher: Path, url: str, *, engine: str) -> dict[str, Any]:
    directory.mkdir(parents=True, exist_ok=True)
    corpus = directory / "documents.jsonl"
    append_documents(corpus, 0, 40)
    raw = tiny_settings(directory, teacher, corpus)
    raw["teacher"] |= {"engine": engine, "server": {"url": url, "model": "tiny"}}
    raw["target"] = {"sparsifier": "top_k", "k": K}
    raw["capture"]["unit_tokens"] = 150
    return raw


def stored(config: Config) -> list[dict[str, Any]]:
    with Lake.open(location_of(config)) as lake:
        return lake.sql(
            """
            SELECT doc_id, window_index, input_ids, target_ids, head_codes, nll_codes, mean_logprob, mean_entropy
            FROM sequences ORDER BY doc_id, window_index
            """
        ).to_pylist()


@pytest.fixture(scope="module")
def by_server(teacher: Path, url: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    raw = raw_settings(tmp_path_factory.mktemp("by-server"), teacher, url, engine="server")
    capture_all(Config.model_validate(raw))
    return stored(Config.model_validate(raw))


def assert_same_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Equal but for codes that the noise of float32 moved over a border."""
    same = ("doc_id", "window_index", "input_ids", "target_ids")
    assert [[row[name] for name in same] for row in found] == [[row[name] for name in same] for row in expected]
    for name in ("head_codes", "nll_codes"):
        codes, others = (np.array([c or 0 for c in _flat([row[name] for row in rows])]) for rows in (found, expected))
        assert np.abs(codes - others).max() <= 1
        assert np.mean(codes != others) < 0.02


def _flat(nested: Any) -> list[Any]:
    return [leaf for part in nested for leaf in _flat(part)] if isinstance(nested, list) else [nested]


def test_targets_are_those_of_transformers_with_top_k(
    by_server: list[dict[str, Any]], teacher: Path, url: str, tmp_path: Path
) -> None:
    config = Config.model_validate(raw_settings(tmp_path, teacher, url, engine="transformers"))
    capture_all(config)
    by_transformers = stored(config)
    assert_same_rows(by_server, by_transformers)
    for row, other in zip(by_server, by_transformers, strict=True):
        assert row["mean_logprob"] == pytest.approx(other["mean_logprob"], abs=1e-5)
        assert row["mean_entropy"] is None
        assert other["mean_entropy"] > 0


def test_a_killed_capture_goes_on_and_computes_nothing_twice(
    by_server: list[dict[str, Any]], teacher: Path, url: str, tmp_path: Path
) -> None:
    raw = raw_settings(tmp_path, teacher, url, engine="server")
    settings_file = tmp_path / "logitlake.yaml"
    settings_file.write_bytes(orjson.dumps(raw))
    killed = _command("capture", settings_file, tmp_path, {ENVIRONMENT_VARIABLE: "unit-computed:3"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = stored(Config.model_validate(raw))
    assert 0 < len(kept) < len(by_server)
    again = _command("capture", settings_file, tmp_path, {})
    assert again.returncode == 0, again.stderr
    report = orjson.loads(again.stdout)
    assert report["documents_known"] == len(kept)
    assert report["n_documents"] == len(by_server) - len(kept)
    assert_same_rows(stored(Config.model_validate(raw)), by_server)


def test_check_passes_for_the_served_weights(teacher: Path, url: str, tmp_path: Path) -> None:
    raw = raw_settings(tmp_path, teacher, url, engine="server")
    settings_file = tmp_path / "logitlake.yaml"
    settings_file.write_bytes(orjson.dumps(raw))
    checked = _command("check", settings_file, tmp_path, {})
    assert checked.returncode == 0, checked.stderr
    outcomes = {row["check"]: row for row in orjson.loads(checked.stdout)["checks"]}
    assert outcomes["probabilities"]["result"] == "pass"
    assert outcomes["probabilities"]["bound"] == 1e-7


def test_a_target_that_should_be_unbiased_is_refused_with_the_reason(teacher: Path, url: str, tmp_path: Path) -> None:
    raw = raw_settings(tmp_path, teacher, url, engine="server") | {"target": {"sparsifier": "varopt"}}
    settings_file = tmp_path / "logitlake.yaml"
    settings_file.write_bytes(orjson.dumps(raw))
    refused = _command("capture", settings_file, tmp_path, {})
    assert refused.returncode == 2
    assert "needs the whole distribution" in " ".join(refused.stderr.split())
    assert not (tmp_path / "lake").exists()


def _command(
    name: str, settings_file: Path, directory: Path, variables: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    call = [sys.executable, "-m", "logitlake", name, "--config", str(settings_file), "--format", "json"]
    home = {"HOME": str(directory), "LOGITLAKE_CACHE": str(directory / "cache"), "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        call,
        env={**os.environ, **home, **variables},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

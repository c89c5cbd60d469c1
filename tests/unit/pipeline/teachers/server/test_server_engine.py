"""The engine against a server whose teacher is a known table."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.engines.server_engine import ServerEngine, load_teacher
from logitlake.pipeline.teachers.top_k_engine import TopKEngine, WantedLogprobs
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError
from tests.bigram_server import BigramServer

Settings = Callable[..., TeacherSettings]
FORMS = ["prompt_logprobs", "echo"]


def connect(settings: TeacherSettings, vocabulary: int, window: int = 32) -> ServerEngine:
    return load_teacher(settings, resolve_teacher(settings), vocab_size=vocabulary, window=window)


@pytest.fixture
def engine(bigram: BigramServer, settings: Settings) -> Iterator[ServerEngine]:
    with closing(connect(settings(), len(bigram.logits_VV))) as engine:
        yield engine


def some_sequences(vocabulary: int) -> list[WantedLogprobs]:
    rng = np.random.default_rng(1)
    sequences = []
    for n in (9, 2, 40, 1, 17, 25, 3, 30):
        wanted = rng.random(n) < 0.6
        wanted[-1] = False
        wanted[0] = n > 1
        sequences.append(WantedLogprobs(input_ids=rng.integers(0, vocabulary, n).astype(np.int32), has_target=wanted))
    return sequences


@pytest.mark.parametrize("form", FORMS)
def test_each_position_has_the_most_probable_ids_and_the_log_prob_of_the_real_token_in_order(
    bigram: BigramServer, settings: Settings, form: str
) -> None:
    bigram.form = form
    logprobs_VV = bigram.logprobs_VV
    sequences = some_sequences(len(logprobs_VV))
    with closing(connect(settings(), len(logprobs_VV))) as engine:
        assert isinstance(engine, TopKEngine)
        assert engine.description["form"] == form
        answers = list(engine.top_logprobs(iter(sequences), k=7))
    assert len(answers) == len(sequences)
    for wanted, answer in zip(sequences, answers, strict=True):
        at = np.flatnonzero(wanted.has_target)
        here, after = wanted.input_ids[at], wanted.input_ids[np.minimum(at + 1, len(wanted.input_ids) - 1)]
        np.testing.assert_allclose(answer.next_logprobs, logprobs_VV[here, after], atol=1e-6)
        assert answer.ids.shape == (len(at), 7)
        for row, token in enumerate(here):
            expected = np.argsort(-logprobs_VV[token])[:7]
            told = answer.logprobs[row] > -np.inf
            assert set(answer.ids[row][told]) <= set(expected)
            np.testing.assert_allclose(answer.logprobs[row][told], logprobs_VV[token, answer.ids[row][told]], atol=1e-6)
            assert (np.diff(answer.logprobs[row][told]) <= 0).all()
            # The classic form leaves out ids whose text others have too.
            assert told.all() or form == "echo"


def test_many_requests_are_under_way_at_once_and_no_more_than_the_settings_say(
    bigram: BigramServer, engine: ServerEngine
) -> None:
    begin = len(bigram.requests)
    sequences = some_sequences(engine.vocab_size) * 4
    assert len(list(engine.top_logprobs(iter(sequences), k=2))) == len(sequences)
    assert bigram.most_at_once <= 4
    assert len(bigram.requests) - begin == sum(bool(wanted.has_target.any()) for wanted in sequences)


def test_work_runs_ahead_by_a_bounded_number_of_sequences(engine: ServerEngine) -> None:
    taken = 0

    def counted() -> Iterator[WantedLogprobs]:
        nonlocal taken
        for wanted in some_sequences(engine.vocab_size) * 10:
            taken += 1
            yield wanted

    answers = engine.top_logprobs(counted(), k=2)
    next(answers)
    assert taken <= 4 * 2 + 1


def test_nothing_behind_the_last_label_is_sent(bigram: BigramServer, engine: ServerEngine) -> None:
    wanted = WantedLogprobs(input_ids=np.arange(10, dtype=np.int32), has_target=np.arange(10) == 4)
    list(engine.top_logprobs([wanted], k=2))
    assert bigram.requests[-1][1]["prompt"] == [0, 1, 2, 3, 4, 5]


def test_ids_that_the_tokenizer_does_not_have_are_left_out(bigram: BigramServer, settings: Settings) -> None:
    vocabulary = len(bigram.logits_VV)
    bigram.logits_VV = np.pad(bigram.logits_VV, ((0, 5), (0, 5)), constant_values=9.0)
    wanted = some_sequences(vocabulary)
    with closing(connect(settings(), vocabulary)) as engine:
        answers = list(engine.top_logprobs(wanted, k=8))
    for answer in answers:
        told = answer.logprobs > -np.inf
        assert (told.sum(axis=1) == 3).all()
        assert (answer.ids[told] < vocabulary).all()


def test_more_ids_than_the_server_gives_are_refused_with_the_setting_to_change(engine: ServerEngine) -> None:
    with pytest.raises(SettingsError, match=r"target.k 30.*max allowed: 20.*lower target.k"):
        list(engine.top_logprobs(some_sequences(engine.vocab_size), k=30))


def test_fewer_ids_than_asked_for_are_refused(bigram: BigramServer, engine: ServerEngine) -> None:
    def fewer(answer: dict[str, Any]) -> dict[str, Any]:
        for entry in answer["choices"][0]["prompt_logprobs"][1:]:
            while len(entry) > 2:
                entry.popitem()
        return answer

    bigram.change = fewer
    with pytest.raises(MismatchError, match="expected 5 log-probs"):
        list(engine.top_logprobs(some_sequences(engine.vocab_size), k=5))


@pytest.mark.parametrize("cap", [1, 4])
def test_an_echo_that_gives_fewer_ids_than_asked_for_is_refused(
    bigram: BigramServer, settings: Settings, cap: int, tokenizer_dir: Path
) -> None:
    def fewer(answer: dict[str, Any]) -> dict[str, Any]:
        for top in (answer["choices"][0]["logprobs"] or {"top_logprobs": []})["top_logprobs"][1:]:
            while len(top) > cap:
                top.popitem()
        return answer

    bigram.form, bigram.change = "echo", fewer
    chosen = settings()
    vocabulary = TextTokenizer.load(tokenizer_dir).vocab_size
    engine = load_teacher(chosen, resolve_teacher(chosen), vocab_size=vocabulary, window=64)
    with pytest.raises(MismatchError, match=r"expected 9 log-probs for each token.*lower target\.k"):
        list(engine.top_logprobs(some_sequences(engine.vocab_size), k=9))


def test_values_that_are_no_log_probs_are_refused(bigram: BigramServer, engine: ServerEngine) -> None:
    def logits(answer: dict[str, Any]) -> dict[str, Any]:
        for entry in answer["choices"][0]["prompt_logprobs"][1:]:
            for given in entry.values():
                given["logprob"] += 5
        return answer

    bigram.change = logits
    with pytest.raises(MismatchError, match="raw_logprobs"):
        list(engine.top_logprobs(some_sequences(engine.vocab_size), k=5))


@pytest.mark.parametrize(
    "spoiled",
    [
        {"choices": []},
        {"choices": [{"prompt_logprobs": None}]},
        {"choices": [{"prompt_logprobs": [None, {"1": {"logprob": -1.0}}]}]},
        {"choices": [{"prompt_logprobs": [None] * 10}]},
        {"choices": [{"prompt_logprobs": [None, *[{"0": {"logprob": None}}] * 9]}]},
        ["a list"],
    ],
)
def test_an_answer_of_another_shape_is_refused(bigram: BigramServer, engine: ServerEngine, spoiled: Any) -> None:
    bigram.change = lambda answer: spoiled
    wanted = WantedLogprobs(input_ids=np.arange(10, dtype=np.int32), has_target=np.arange(10) < 9)
    with pytest.raises(MismatchError, match=r"teacher server: .*expected"):
        list(engine.top_logprobs([wanted], k=1))


def test_an_answer_that_is_shifted_by_a_token_is_refused(bigram: BigramServer, engine: ServerEngine) -> None:
    def shifted(answer: dict[str, Any]) -> dict[str, Any]:
        listed = answer["choices"][0]["prompt_logprobs"]
        answer["choices"][0]["prompt_logprobs"] = [None, *listed[2:], listed[1]]
        return answer

    bigram.change = shifted
    wanted = WantedLogprobs(input_ids=np.arange(10, dtype=np.int32), has_target=np.arange(10) < 9)
    with pytest.raises(MismatchError, match="the real token 1 among them"):
        list(engine.top_logprobs([wanted], k=1))


def test_a_server_without_log_probs_of_prompts_is_refused_with_what_it_said(
    bigram: BigramServer, settings: Settings
) -> None:
    bigram.form = "none"
    with pytest.raises(SettingsError, match=r"prompt_logprobs \(vLLM\) or by echo.*found neither"):
        connect(settings(), len(bigram.logits_VV))


def test_a_server_that_names_tokens_by_their_text_is_a_warning_with_the_ids_that_this_tells(
    bigram: BigramServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    bigram.form = "echo"
    with caplog.at_level("WARNING"), closing(connect(settings(), len(bigram.logits_VV))):
        pass
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"tells \d+ of 63 ids", message)


def test_a_server_without_the_model_is_refused_with_the_models_that_it_has(
    bigram: BigramServer, settings: Settings
) -> None:
    with pytest.raises(SettingsError, match="no such model; it has bigram"):
        connect(settings(model="trigram"), len(bigram.logits_VV))


def test_a_window_that_the_server_does_not_take_is_refused_before_the_first_unit(
    bigram: BigramServer, settings: Settings
) -> None:
    with pytest.raises(SettingsError, match=r"tokenization.window to at most 127"):
        connect(settings(), len(bigram.logits_VV), window=128)


def test_the_run_records_what_the_server_says_of_the_model(engine: ServerEngine, bigram: BigramServer) -> None:
    assert engine.description == {
        "engine": "server",
        "form": "prompt_logprobs",
        "url": bigram.url,
        "model": "bigram",
        "server_root": "/models/bigram",
        "tokenizer": "ids of 58 texts",
    }


def test_an_adapter_that_the_server_does_not_read_is_refused(settings: Settings, tmp_path: Path) -> None:
    """Its hash would name a teacher that did not answer."""
    plain = settings()
    assert plain.server is not None
    files = resolve_teacher(plain)
    unnamed = plain.server.model_copy(update={"model": None})
    adapted = plain.model_copy(update={"adapter": str(tmp_path), "server": unnamed})
    with pytest.raises(SettingsError, match=r"teacher.adapter .*does not read this adapter; .*by teacher.server.model"):
        load_teacher(adapted, replace(files, served_as=None), vocab_size=9, window=32)

"""Completions of a server whose model is a known table, which fails when a test tells it to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitlake.pipeline.model_files.files import resolve_teacher
from logitlake.pipeline.settings.models import TeacherSettings
from logitlake.pipeline.teachers.server import transport
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.pipeline.traces.writer import Request, Sampling
from logitlake.pipeline.traces.writers.server_writer import ServerWriter, load_writer
from logitlake.storage.errors import MismatchError, SettingsError, TeacherUnavailableError
from tests.bigram_server import BigramServer, Reply

STOPS = (1, 7)
PROMPTS = [(5, 9, 40, 17), (10,), tuple(range(20, 40))]
Load = Callable[..., ServerWriter]


@pytest.fixture
def bigram(tokenizer_dir: Path) -> Iterator[BigramServer]:
    """Serves the tiny tokenizer's ids."""
    tokenizer = TextTokenizer.load(tokenizer_dir)
    logits_VV = 2.0 * np.random.default_rng(0).standard_normal((tokenizer.vocab_size, tokenizer.vocab_size))
    with BigramServer(logits_VV, tokenizer.backend).running() as server:
        yield server


@pytest.fixture
def load(bigram: BigramServer, tokenizer_dir: Path) -> Iterator[Load]:
    """Connects to the server; keywords change how it samples. No time passes while a request waits."""
    section = {"url": bigram.url, "model": "bigram", "concurrency": 4, "max_retries": 3}
    chosen = {"model": str(tokenizer_dir), "engine": "server", "server": section}
    settings = TeacherSettings.model_validate(chosen)

    def load(**changes: Any) -> ServerWriter:
        given = {"temperature": 1.0, "top_k": None, "top_p": 1.0, "max_new_tokens": 12, "seed": 3, "stop_ids": STOPS}
        vocabulary = TextTokenizer.load(tokenizer_dir).vocab_size
        return load_writer(
            settings,
            resolve_teacher(settings),
            Sampling(**{**given, **changes}),
            vocab_size=vocabulary,
            batch_sequences=1,
        )

    def no_sleep(event: threading.Event) -> Callable[[float], None]:
        return lambda seconds: None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "sleep_using_event", no_sleep)
        yield load


def requests_of(samples: int = 3) -> list[Request]:
    return [
        Request(prompt_id=f"{p:032x}", number=number, prompt_ids=ids)
        for p, ids in enumerate(PROMPTS)
        for number in range(samples)
    ]


@pytest.mark.parametrize("drawn", ["token_ids", "names"])
def test_completions_hold_the_drawn_ids_and_their_log_probs_at_temperature_1(
    bigram: BigramServer, load: Load, drawn: str
) -> None:
    bigram.drawn = drawn
    requests = requests_of()
    told: list[int] = []
    with closing(load(temperature=0.7, top_k=20)) as writer:
        completions = writer.write(requests, told.append)
        alone = [writer.write([request])[0] for request in requests]
    assert completions == alone, "the server's seed belongs to the sample"
    assert len({completion.ids for completion in completions}) == len(requests)
    assert sum(told) == sum(len(completion.ids) for completion in completions)
    for request, completion in zip(requests, completions, strict=True):
        before = [request.prompt_ids[-1], *completion.ids[:-1]]
        np.testing.assert_allclose(completion.logprobs, bigram.logprobs_VV[before, list(completion.ids)], atol=1e-6)
        assert completion.finished == (completion.ids[-1] in STOPS)
        assert completion.finished or len(completion.ids) == 12
        assert not set(completion.ids[:-1]) & set(STOPS)


def test_the_likeliest_tokens_are_taken_at_temperature_0(bigram: BigramServer, load: Load) -> None:
    with closing(load(temperature=0.0, stop_ids=())) as writer:
        (completion,) = writer.write([Request(prompt_id="0" * 32, number=0, prompt_ids=(5,))])
    expected = [5]
    while len(expected) <= 12:
        expected.append(int(bigram.logits_VV[expected[-1]].argmax()))
    assert list(completion.ids) == expected[1:]


def test_nothing_is_left_to_the_defaults_of_the_server(bigram: BigramServer, load: Load) -> None:
    with closing(load()) as writer:
        writer.write(requests_of(1))
    body = bigram.requests[-1][1]
    assert body["prompt"] in [list(prompt) for prompt in PROMPTS]
    unset = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
    assert {name: body[name] for name in unset} == unset
    assert body["stop_token_ids"] == list(STOPS)


def test_requests_are_under_way_at_once_and_repeated_where_the_server_was_busy(
    bigram: BigramServer, load: Load
) -> None:
    with closing(load()) as writer:
        expected = writer.write(requests_of(8))
        bigram.mishaps = [Reply(429, b"", {"Retry-After": "1"}), Reply(503), Reply(200, b'{"choices": []}', cut=True)]
        assert writer.write(requests_of(8)) == expected
    assert 1 < bigram.most_at_once <= 4


def test_a_server_that_stays_away_is_an_error_and_the_next_unit_is_asked_again(
    bigram: BigramServer, load: Load
) -> None:
    with closing(load()) as writer:
        expected = writer.write(requests_of(1))
        bigram.mishaps = [Reply(503)] * 16
        with pytest.raises(TeacherUnavailableError, match="still answers 503 after 4 requests"):
            writer.write(requests_of(1))
        bigram.mishaps = []
        assert writer.write(requests_of(1)) == expected


def test_a_server_that_tells_texts_alone_is_refused(bigram: BigramServer, load: Load) -> None:
    bigram.drawn = "texts"
    with pytest.raises(SettingsError, match=r"must tell the ids of the tokens that it drew.*tokenised again"):
        load()


def test_a_server_without_log_probs_is_refused(bigram: BigramServer, load: Load) -> None:
    bigram.change = lambda answer: {"choices": [{**answer["choices"][0], "logprobs": None}]}
    with pytest.raises(SettingsError, match=r"and their log-probs \(.*an object with token_logprobs"):
        load()


def test_log_probs_after_temperature_and_top_k_are_refused(bigram: BigramServer, load: Load) -> None:
    bigram.processed_logprobs = True
    with pytest.raises(SettingsError, match="--logprobs-mode raw_logprobs"):
        load()


def test_a_server_that_goes_on_behind_a_stop_token_is_refused(bigram: BigramServer, load: Load) -> None:
    bigram.follows_stop_tokens = False
    stops = tuple(range(0, len(bigram.logits_VV), 2))
    with closing(load(stop_ids=stops)) as writer, pytest.raises(MismatchError, match="does not follow stop_token_ids"):
        writer.write(requests_of(1))


def test_a_completion_that_ends_too_early_is_refused(bigram: BigramServer, load: Load) -> None:
    with closing(load(stop_ids=(), max_new_tokens=5)) as writer:

        def cut(answer: dict[str, Any]) -> dict[str, Any]:
            choice = answer["choices"][0]
            choice["token_ids"] = choice["token_ids"][:3]
            choice["logprobs"]["token_logprobs"] = choice["logprobs"]["token_logprobs"][:3]
            return answer

        bigram.change = cut
        with pytest.raises(MismatchError, match="or after 5 tokens, found 3 tokens"):
            writer.write(requests_of(1))


def test_an_id_that_the_tokenizer_does_not_have_is_refused(bigram: BigramServer, load: Load) -> None:
    size = len(bigram.logits_VV)
    bigram.logits_VV = np.pad(bigram.logits_VV, ((0, 1), (0, 1)), constant_values=30.0)
    with closing(load()) as writer, pytest.raises(MismatchError, match=rf"drew the id {size}, expected one of"):
        writer.write(requests_of(1))


@pytest.mark.parametrize(
    "spoiled",
    [
        {"choices": []},
        {"choices": [{"token_ids": [3], "logprobs": {"token_logprobs": []}}]},
        {"choices": [{"token_ids": [3], "logprobs": {"token_logprobs": [None]}}]},
        {"choices": [{"token_ids": [3], "logprobs": {"token_logprobs": [0.5]}}]},
        {"choices": [{"token_ids": ["3"], "logprobs": {"token_logprobs": [-1.0]}}]},
        {"choices": [{"token_ids": [], "logprobs": {"token_logprobs": []}}]},
        ["a list"],
    ],
)
def test_an_answer_of_another_shape_is_refused(bigram: BigramServer, load: Load, spoiled: Any) -> None:
    with closing(load()) as writer:
        bigram.change = lambda answer: spoiled
        with pytest.raises(MismatchError, match=r"teacher server: .*expected"):
            writer.write(requests_of(1))


def test_longer_completions_than_the_server_takes_are_refused(load: Load) -> None:
    with pytest.raises(SettingsError, match=r"generate.max_new_tokens 128: the server .* takes 128 tokens"):
        load(max_new_tokens=128)

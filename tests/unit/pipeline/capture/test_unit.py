import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from logitlake.pipeline.capture import unit as capture
from logitlake.pipeline.capture.planning import WorkUnit
from logitlake.pipeline.capture.recipe import Recipe, make_recipe
from logitlake.pipeline.capture.target_size import probe
from logitlake.pipeline.capture.target_size_question import probe_key
from logitlake.pipeline.capture.unit import CapturedUnit, capture_unit
from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import CaptureSettings, TargetSettings, TeacherSettings, TokenizationSettings
from logitlake.pipeline.targets.sparsifiers.random_draws import RandomSettings
from logitlake.pipeline.targets.sparsifiers.top_k import TopKSettings
from logitlake.pipeline.targets.sparsifiers.varopt import VarOptSettings
from logitlake.pipeline.teachers.engines.transformers_engine import TransformersEngine
from logitlake.pipeline.tokens.sequences import TokenizedDocument, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError
from logitlake.storage.identity import document_id
from logitlake.storage.schema.sequences import CAPTURED, STATISTIC_STEP
from logitlake.storage.shards.writing import encode_shard
from logitlake.storage.writing.commits import stored_rows

FILES = TeacherFiles(directory=Path("/a"), teacher_hash="h" * 32, name="llama-1M")
WINDOWS = TokenizationSettings(window=32, overlap=8)
Run = Callable[..., CapturedUnit]


def document(text: str) -> Document:
    return Document(document_id(text), text, "corpus", "file.txt", None)


@pytest.fixture
def documents(tokenizer: TextTokenizer) -> list[TokenizedDocument]:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "pack", "my", "box", "with", "jugs"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, n)) for n in (3, 40, 12, 90, 7, 25)]
    tokenized = tokenize_documents([document(text) for text in texts], tokenizer, WINDOWS)
    return [entry for entry in tokenized if isinstance(entry, TokenizedDocument)]


@pytest.fixture
def engine(tokenizer: TextTokenizer, tiny_llama: Callable[..., Any]) -> TransformersEngine:
    model = tiny_llama(vocab_size=tokenizer.vocab_size + 10, initializer_range=0.3, tie_word_embeddings=False)
    return TransformersEngine(model, vocab_size=tokenizer.vocab_size)


@pytest.fixture
def recipe(tokenizer: TextTokenizer) -> Recipe:
    return make_recipe(
        files=FILES,
        tokenizer=tokenizer,
        teacher=TeacherSettings(model="x", dtype="float32"),
        tokenization=WINDOWS,
        target=TargetSettings(),
    )


def unit_of(documents: Sequence[TokenizedDocument]) -> WorkUnit:
    return WorkUnit(tuple(documents), (), (), sum(tokenized.n_tokens for tokenized in documents))


@pytest.fixture
def run(documents: list[TokenizedDocument], engine: TransformersEngine, recipe: Recipe) -> Run:
    def capture_them(batch_tokens: int = 256, **changes: Any) -> CapturedUnit:
        arguments: dict[str, Any] = {"unit": unit_of(documents), "engine": engine, "recipe": recipe, **changes}
        return capture_unit(arguments.pop("unit"), settings=CaptureSettings(batch_tokens=batch_tokens), **arguments)

    return capture_them


def assert_same_content(found: pa.Table, expected: pa.Table) -> None:
    """Equal but for draws that float noise moved over a border, at most a hundredth of them."""
    assert found.schema == expected.schema
    for name in ("doc_id", "window_index", "start", "input_ids", "n_targets"):
        assert found[name].to_pylist() == expected[name].to_pylist()
    pairs = [
        (a, b)
        for one, two in zip(found["target_ids"].to_pylist(), expected["target_ids"].to_pylist(), strict=True)
        for a, b in zip(one, two, strict=True)
    ]
    assert sum(a != b for a, b in pairs) <= len(pairs) / 100


def test_rows_come_in_the_order_of_the_unit_with_one_target_per_label(run: Run, documents: Any) -> None:
    captured = run()
    sequences = [sequence for tokenized in documents for sequence in tokenized.sequences]
    assert captured.rows.schema == CAPTURED
    assert captured.rows["doc_id"].to_pylist() == [sequence.doc_id for sequence in sequences]
    assert captured.rows["window_index"].to_pylist() == [sequence.window for sequence in sequences]
    for row, sequence in zip(captured.rows.to_pylist(), sequences, strict=True):
        assert [bool(ids) for ids in row["target_ids"]] == sequence.has_target.tolist()
        assert row["target_ids"][-1] == []
    labels = sum(len(tokenized_labels(tokenized)) for tokenized in documents)
    assert captured.n_targets == labels == sum(captured.rows["n_targets"].to_pylist())
    assert captured.n_tokens == sum(captured.rows["n_tokens"].to_pylist())


def tokenized_labels(tokenized: TokenizedDocument) -> set[int]:
    """Absolute positions of the labels of all windows, each of which must be there once."""
    found = [int(s.start + i + 1) for s in tokenized.sequences for i in np.flatnonzero(s.has_target)]
    assert len(found) == len(set(found))
    return set(found)


def test_targets_and_statistics_are_those_of_the_teacher_at_that_token(run: Run, engine: TransformersEngine) -> None:
    """Each row by itself through the whole model: a shift by one in either direction would change every number."""
    for row in run().rows.to_pylist():
        ids = torch.tensor(row["input_ids"])[None]
        with torch.inference_mode():
            logits = engine._model(input_ids=ids).logits[0, :, : engine.vocab_size].double()
        logprobs = torch.log_softmax(logits, 1).numpy()
        for i, target in enumerate(row["target_ids"]):
            if not target:
                assert row["nll_codes"][i] is None
                continue
            p = np.exp(logprobs[i])
            nll = -logprobs[i, row["input_ids"][i + 1]]
            assert row["nll_codes"][i] * STATISTIC_STEP == pytest.approx(nll, abs=STATISTIC_STEP / 2 + 1e-3)
            entropy = -(p * logprobs[i]).sum()
            assert row["entropy_codes"][i] * STATISTIC_STEP == pytest.approx(entropy, abs=STATISTIC_STEP / 2 + 1e-3)
            heads = [k for k in np.argsort(-p) if p[k] >= 0.05]
            assert target[: len(row["head_codes"][i])] == heads
            np.testing.assert_allclose(np.array(row["head_codes"][i]) / 64, p[heads], atol=1 / 64)


@pytest.mark.parametrize("batch_tokens", [1, 50, 10_000])
def test_how_a_unit_is_batched_changes_nothing(run: Run, batch_tokens: int) -> None:
    assert_same_content(run(batch_tokens=batch_tokens).rows, run().rows)


def test_the_order_of_documents_changes_only_the_order_of_rows(run: Run, documents: Any) -> None:
    turned = run(unit=unit_of(documents[::-1])).rows
    keys = [("doc_id", "ascending"), ("window_index", "ascending")]
    assert_same_content(turned.sort_by(keys), run().rows.sort_by(keys))


def test_statistics_stay_at_temperature_one(run: Run, recipe: Recipe) -> None:
    target = TargetSettings(temperature=3)
    hot = run(recipe=dataclasses.replace(recipe, target=target)).rows
    assert hot["nll_codes"].to_pylist() == run().rows["nll_codes"].to_pylist()
    assert hot["target_ids"].to_pylist() != run().rows["target_ids"].to_pylist()


def test_progress_tells_every_token_once(run: Run) -> None:
    told: list[int] = []
    captured = run(on_progress=told.append)
    assert sum(told) == captured.n_tokens
    assert len(told) > 1


def test_a_unit_of_notes_alone_has_no_rows(run: Run) -> None:
    captured = run(unit=WorkUnit((), (), (), 0))
    assert captured.rows.num_rows == 0
    assert captured.rows.schema == CAPTURED


def test_an_engine_of_another_vocabulary_than_the_recipes_is_refused(run: Run, recipe: Recipe) -> None:
    with pytest.raises(MismatchError, match="expected a vocabulary of 7"):
        run(recipe=dataclasses.replace(recipe, vocabulary=7))


def test_an_encoder_that_dies_is_heard_in_the_main_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*_: Any, **__: Any) -> pa.Table:
        raise OSError("encoder died")

    monkeypatch.setattr(capture, "encode_rows", dying)
    with pytest.raises(OSError, match="encoder died"):
        run(batch_tokens=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


def test_an_interrupt_ends_the_capture_and_leaves_no_thread(run: Run) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("encode")]


@pytest.mark.parametrize("sparsifier", ["varopt", "random", "top_k", "top_p"])
def test_the_probe_finds_the_value_that_takes_the_bytes_asked_for(
    run: Run, documents: Any, engine: TransformersEngine, recipe: Recipe, sparsifier: str
) -> None:
    wish = TargetSettings(sparsifier=sparsifier, target_bytes=40)
    found = probe(documents, engine=engine, target=wish, settings=CaptureSettings())
    assert found.target == wish.with_size(found.value)
    assert found.target.target_bytes is None
    rows = run(recipe=dataclasses.replace(recipe, target=found.target)).rows
    stored = stored_rows(rows)
    size = len(encode_shard(stored, {})) - len(encode_shard(stored.slice(0, 0), {}))
    # These documents are smaller than a probe, so they are the probe; top_k and draws are whole numbers.
    assert size / sum(rows["n_targets"].to_pylist()) == pytest.approx(40, rel=0.1)
    assert found.bytes_per_target == pytest.approx(40, rel=0.1)


def test_the_probe_does_not_depend_on_the_order_of_documents_and_rounds(
    documents: Any, engine: TransformersEngine
) -> None:
    wish = TargetSettings(target_bytes=25)
    one = probe(documents, engine=engine, target=wish, settings=CaptureSettings())
    two = probe(documents[::-1], engine=engine, target=wish, settings=CaptureSettings())
    assert one == two
    assert one.value == float(f"{one.value:.3g}")


@pytest.mark.parametrize("wish", [2.1, 5000])
def test_a_size_that_cannot_be_had_is_refused_with_what_can(
    documents: Any, engine: TransformersEngine, wish: float
) -> None:
    with pytest.raises(SettingsError, match="between"):
        probe(documents, engine=engine, target=TargetSettings(target_bytes=wish), settings=CaptureSettings())


def test_without_documents_there_is_nothing_to_probe(engine: TransformersEngine) -> None:
    with pytest.raises(SettingsError, match="no document"):
        probe([], engine=engine, target=TargetSettings(target_bytes=20), settings=CaptureSettings())


def test_the_key_of_a_probe_leaves_out_only_what_the_probe_chooses(recipe: Recipe) -> None:
    def key(wish: float = 20, **target: Any) -> str:
        return probe_key(dataclasses.replace(recipe, target=TargetSettings.model_validate(target)), wish)

    assert key() == key(threshold=0.1)
    assert key(sparsifier="random", draws=3) == key(sparsifier="random", draws=4)
    assert len({key(), key(21), key(seed=1), key(levels=128), key(sparsifier="random"), key(sparsifier="top_k")}) == 6


def test_an_engine_is_anything_that_gives_logits_of_the_wanted_positions(
    documents: Any, recipe: Recipe, run: Run
) -> None:
    """A replay of fixed logits: the targets are the same, to the byte, every time and however batched."""

    class Uniform:
        vocab_size = recipe.vocabulary
        device = torch.device("cpu")
        description: dict[str, str] = {}  # noqa: RUF012

        def forward(self, input_ids: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
            yield torch.zeros(sum(int(mask.sum()) for mask in wanted), self.vocab_size)

    one, two = (run(engine=Uniform(), batch_tokens=n).rows for n in (40, 1000))
    assert one.equals(two)


def test_targets_of_one_pass_are_those_that_each_recipe_would_draw_alone(run: Run, recipe: Recipe) -> None:
    """Other thresholds, sparsifiers, temperatures, seeds and steps, from one forward."""
    others = [
        VarOptSettings(threshold=0.2),
        VarOptSettings(seed=7, temperature=2.0),
        TopKSettings(k=5, logprob_steps_per_nat=256),
        RandomSettings(draws=9),
    ]
    further = [dataclasses.replace(recipe, target=target) for target in others]
    together = run(further=further)
    assert together.rows.equals(run().rows)
    assert len(together.further_rows) == len(further)
    for rows, other in zip(together.further_rows, further, strict=True):
        assert rows.equals(run(recipe=other).rows)
    assert len({rows["recipe_id"][0] for rows in (together.rows, *together.further_rows)}) == 5

"""A unit of a teacher that gives only its most probable ids, against the same teacher giving everything."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from logitlake.pipeline.capture.planning import WorkUnit
from logitlake.pipeline.capture.recipe import Recipe, make_recipe
from logitlake.pipeline.capture.top_k_unit import capture_top_k_unit
from logitlake.pipeline.capture.unit import capture_unit
from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import CaptureSettings, TargetSettings, TeacherSettings, TokenizationSettings
from logitlake.pipeline.teachers.top_k_engine import TopLogprobs, WantedLogprobs
from logitlake.pipeline.tokens.sequences import TokenizedDocument, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError
from logitlake.storage.identity import document_id
from logitlake.storage.schema.sequences import CAPTURED, with_checksums

WINDOWS = TokenizationSettings(window=32, overlap=8)
K = 12


class Table:
    """A teacher that is a table: the next token depends on the last one alone. It has both interfaces."""

    device = torch.device("cpu")

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        logits_VV = np.random.default_rng(0).standard_normal((vocab_size, vocab_size)) * 3
        self.logprobs_VV = torch.from_numpy(logits_VV).float().log_softmax(-1)
        self.description = {"engine": "table", "dtype": "float32"}

    def forward(
        self, input_ids: Sequence[NDArray[np.int32]], has_target: Sequence[NDArray[np.bool_]]
    ) -> Iterator[torch.Tensor]:
        for ids, mask in zip(input_ids, has_target, strict=True):
            yield self.logprobs_VV[torch.from_numpy(ids[mask].astype(np.int64))]

    def top_logprobs(self, sequences: Iterable[WantedLogprobs], *, k: int) -> Iterator[TopLogprobs]:
        for wanted in sequences:
            at = np.flatnonzero(wanted.has_target)
            logprobs_pV = self.logprobs_VV[torch.from_numpy(wanted.input_ids[at].astype(np.int64))].double().numpy()
            ids_pk = np.argsort(-logprobs_pV, axis=1)[:, :k]
            yield TopLogprobs(
                ids=ids_pk,
                logprobs=np.take_along_axis(logprobs_pV, ids_pk, 1),
                next_logprobs=logprobs_pV[np.arange(len(at)), wanted.input_ids[at + 1]],
            )


@pytest.fixture
def unit(tokenizer: TextTokenizer) -> WorkUnit:
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "pack", "my", "box", "with", "jugs"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, n)) for n in (3, 40, 12, 90, 7, 25)]
    documents = [Document(document_id(text), text, "corpus", "file.txt", None) for text in texts]
    tokenized = [d for d in tokenize_documents(documents, tokenizer, WINDOWS) if isinstance(d, TokenizedDocument)]
    return WorkUnit(tuple(tokenized), (), (), sum(d.n_tokens for d in tokenized))


@pytest.fixture
def recipe(tokenizer: TextTokenizer) -> Recipe:
    return make_recipe(
        files=TeacherFiles(directory=Path("/a"), teacher_hash="h" * 32, name="table"),
        tokenizer=tokenizer,
        teacher=TeacherSettings(model="x", dtype="float32"),
        tokenization=WINDOWS,
        target=TargetSettings(sparsifier="top_k", k=K),
    )


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_rows_are_those_of_the_whole_distribution_but_for_the_entropy(
    unit: WorkUnit, recipe: Recipe, batch_tokens: int
) -> None:
    teacher, settings = Table(recipe.vocabulary), CaptureSettings(batch_tokens=batch_tokens)
    progress: list[int] = []
    found = capture_top_k_unit(unit, engine=teacher, recipe=recipe, settings=settings, on_progress=progress.append)
    whole = capture_unit(unit, engine=teacher, recipe=recipe, settings=settings)
    assert found.rows.schema == CAPTURED
    assert (found.n_tokens, found.n_targets, sum(progress)) == (whole.n_tokens, whole.n_targets, unit.n_tokens)
    apart = {"head_codes", "nll_codes", "entropy_codes", "mean_entropy", "mean_nll"}
    same = [name for name in CAPTURED.names if name not in apart]
    assert found.rows.select(same) == whole.rows.select(same)
    # float32 sums may round a code over its border.
    codes, of_whole = (
        np.concatenate(rows["head_codes"].combine_chunks().flatten().to_pylist()) for rows in (found.rows, whole.rows)
    )
    assert np.abs(codes - of_whole).max() <= 1
    assert np.mean(codes != of_whole) < 0.01
    np.testing.assert_allclose(found.rows["mean_nll"].to_numpy(), whole.rows["mean_nll"].to_numpy(), atol=1e-5)


def test_the_entropy_is_null_everywhere_and_the_log_prob_of_the_real_token_where_there_is_no_target(
    unit: WorkUnit, recipe: Recipe
) -> None:
    rows = capture_top_k_unit(unit, engine=Table(recipe.vocabulary), recipe=recipe, settings=CaptureSettings()).rows
    assert rows["mean_entropy"].null_count == rows.num_rows
    for row in rows.to_pylist():
        assert set(row["entropy_codes"]) == {None}
        assert [code is None for code in row["nll_codes"]] == [not ids for ids in row["target_ids"]]
    assert with_checksums(rows.append_column("unit_id", [["u"] * rows.num_rows])).num_rows == rows.num_rows


def test_an_engine_of_another_vocabulary_is_refused(unit: WorkUnit, recipe: Recipe) -> None:
    with pytest.raises(MismatchError, match="vocabulary"):
        capture_top_k_unit(unit, engine=Table(recipe.vocabulary + 1), recipe=recipe, settings=CaptureSettings())

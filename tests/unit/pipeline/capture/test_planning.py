import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import logitlake.pipeline.capture.planning
from logitlake.pipeline.capture.planning import Plan, PlanSummary, Sighting, count_plan, make_batches
from logitlake.pipeline.corpus.document import Document, Reject, RejectReason
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.storage.errors import CorpusError
from logitlake.storage.identity import document_id

TOKENIZATION = TokenizationSettings(window=16, overlap=4)
shared_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


def document(text, line=1, source="a.jsonl"):
    return Document(document_id(text), text, "corpus", source, line)


def plan_of(tokenizer, documents, known=frozenset(), unit_tokens=100, max_tokens=None, lookup_documents=1000):
    return Plan(
        iter(documents),
        stored=lambda doc_ids: known.intersection(doc_ids),
        tokenizer=tokenizer,
        tokenization=TOKENIZATION,
        unit_tokens=unit_tokens,
        max_tokens=max_tokens,
        lookup_documents=lookup_documents,
    )


def content_of(units):
    return [
        ([d.document.doc_id for d in unit.documents], unit.rejects, unit.duplicates, unit.n_tokens) for unit in units
    ]


words = st.lists(st.sampled_from(["fox", "dog ", "the quick", "jugs" * 9, "brown " * 20]), min_size=1, max_size=6)
texts = words.map("".join)
streams = st.lists(
    st.one_of(texts.map(document), st.just(Reject("corpus", "a.jsonl", 7, RejectReason.BAD_JSON, "no"))), max_size=25
)


@shared_tokenizer
@given(stream=streams, unit_tokens=st.integers(1, 200), lookup=st.integers(1, 30), known_share=st.integers(0, 3))
def test_plan_is_a_function_of_the_stream_whatever_the_lookups(tokenizer, stream, unit_tokens, lookup, known_share):
    known = {item.doc_id for item in stream if isinstance(item, Document) and int(item.doc_id[0], 16) % 4 < known_share}
    whole = plan_of(tokenizer, stream, known, unit_tokens)
    pieces = plan_of(tokenizer, stream, known, unit_tokens, lookup_documents=lookup)
    assert content_of(whole) == content_of(pieces)
    assert whole.summary == pieces.summary


@shared_tokenizer
@given(stream=streams, unit_tokens=st.integers(1, 200), cap=st.none() | st.integers(1, 600))
def test_units_hold_each_new_document_once_whole_and_within_their_tokens(tokenizer, stream, unit_tokens, cap):
    plan = plan_of(tokenizer, stream, unit_tokens=unit_tokens, max_tokens=cap)
    units = list(plan)
    placed = [tokenized for unit in units for tokenized in unit.documents]
    ids = [tokenized.document.doc_id for tokenized in placed]
    in_order = list(dict.fromkeys(item.doc_id for item in stream if isinstance(item, Document)))
    assert ids == in_order[: len(ids)]
    assert plan.summary.capped == (len(ids) < len(in_order))
    for unit in units:
        assert unit.n_tokens == sum(tokenized.n_tokens for tokenized in unit.documents)
        assert unit.n_tokens <= unit_tokens or len(unit.documents) == 1
    assert cap is None or sum(unit.n_tokens for unit in units) <= cap
    assert plan.summary.tokens == sum(len(s.input_ids) for tokenized in placed for s in tokenized.sequences)
    assert plan.summary.targets == sum(int(s.has_target.sum()) for tokenized in placed for s in tokenized.sequences)


def test_known_documents_are_never_planned_and_their_sources_are_reported(tokenizer):
    stream = [document("the fox", 1), document("the dog", 2), document("the fox", 9, "b.jsonl")]
    known = {document_id("the fox")}
    plan = plan_of(tokenizer, stream, known)
    [unit] = plan
    assert [tokenized.document.content for tokenized in unit.documents] == ["the dog"]
    assert unit.duplicates == (
        Sighting(document_id("the fox"), "corpus", "a.jsonl", 1),
        Sighting(document_id("the fox"), "corpus", "b.jsonl", 9),
    )
    assert (plan.summary.stored, plan.summary.new, plan.summary.documents) == (2, 1, 3)


def test_document_met_twice_in_a_run_is_computed_once_in_one_lookup_or_two(tokenizer):
    stream = [document("the fox", 1), document("the dog", 2), document("the fox", 3)]
    for lookup in (1, 1000):
        plan = plan_of(tokenizer, stream, lookup_documents=lookup)
        [unit] = plan
        assert [tokenized.document.line for tokenized in unit.documents] == [1, 2]
        assert [sighting.line for sighting in unit.duplicates] == [3]
        assert plan.summary.repeated == 1


def test_known_is_asked_at_most_once_for_a_document_of_the_run(tokenizer):
    asked = []

    def known(doc_ids):
        asked.extend(doc_ids)
        return set()

    stream = [document("the fox", line) for line in range(5)] + [document("the dog", 9)]
    arguments = {"tokenizer": tokenizer, "tokenization": TOKENIZATION, "unit_tokens": 100}
    count_plan(Plan(stream, stored=known, lookup_documents=2, **arguments))
    assert sorted(asked) == sorted({item.doc_id for item in stream})


def test_document_without_a_target_is_rejected_at_every_place_where_it_stands(tokenizer):
    tokenization = TokenizationSettings(eos=False)
    stream = [document("a", 1), document("a", 2)]
    plan = Plan(stream, stored=lambda ids: set(), tokenizer=tokenizer, tokenization=tokenization, unit_tokens=10)
    [unit] = plan
    assert [(reject.line, reject.reason) for reject in unit.rejects] == [(1, "too_short"), (2, "too_short")]
    assert unit.documents == unit.duplicates == ()
    assert plan.summary == PlanSummary(rejected=2)


def test_what_the_plan_rejects_is_told_with_its_place_and_may_stop_it(tokenizer):
    told = []
    tokenization = TokenizationSettings(min_tokens=50)
    arguments = {"stored": lambda ids: set(), "tokenizer": tokenizer, "tokenization": tokenization, "unit_tokens": 10}
    count_plan(Plan([document("a", line=4)], on_reject=told.append, **arguments))
    assert [(reject.line, reject.reason) for reject in told] == [(4, "too_short")]

    def stop(reject):
        raise CorpusError("enough")

    with pytest.raises(CorpusError, match="enough"):
        count_plan(Plan([document("a")], on_reject=stop, **arguments))


def test_nothing_after_the_cap_is_looked_at_or_reported(tokenizer):
    def stream():
        yield document("the fox", 1)
        yield document("brown " * 50, 2)
        yield document("the fox", 3)
        raise AssertionError("read past the cap")

    plan = plan_of(tokenizer, stream(), max_tokens=20, lookup_documents=1)
    [unit] = plan
    assert [tokenized.document.line for tokenized in unit.documents] == [1]
    assert unit.duplicates == ()
    assert plan.summary.capped


def test_repeated_night_over_a_large_corpus_reports_in_pieces(tokenizer, monkeypatch):
    monkeypatch.setattr(logitlake.pipeline.capture.planning, "_NOTES_PER_UNIT", 10)
    stream = [document("the fox", line) for line in range(25)]
    units = list(plan_of(tokenizer, stream, {document_id("the fox")}))
    assert [len(unit.duplicates) for unit in units] == [10, 10, 5]
    assert not any(unit.documents for unit in units)


def test_empty_stream_is_an_empty_plan(tokenizer):
    plan = plan_of(tokenizer, [])
    assert list(plan) == []
    assert plan.summary == PlanSummary()


def test_units_come_before_the_corpus_was_read_to_its_end(tokenizer):
    read = []

    def stream():
        for line in range(100):
            read.append(line)
            yield document(f"the fox {line}", line)

    next(plan_of(tokenizer, stream(), unit_tokens=20, lookup_documents=10))
    assert len(read) <= 20


def test_count_is_that_of_the_plan(tokenizer):
    stream = [document(f"the fox {line} " * 9, line) for line in range(20)]
    summary = count_plan(plan_of(tokenizer, stream))
    plan = plan_of(tokenizer, stream)
    units = list(plan)
    assert summary == plan.summary
    assert (summary.units, summary.tokens) == (len(units), sum(unit.n_tokens for unit in units))


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_batches_cover_every_sequence_once_within_the_token_budget(lengths, budget):
    batches = make_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[index] for index in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def test_batches_put_like_lengths_together_longest_first():
    assert make_batches([3, 10, 3, 9], 20) == [[1, 3], [0, 2]]


def test_planning_and_the_readers_load_no_torch_transformers_datasets_or_prefect():
    code = (
        "import sys, logitlake.pipeline.capture.planning, logitlake.pipeline.corpus;"
        "heavy = {'torch', 'transformers', 'datasets', 'prefect'} & set(sys.modules);"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("seed", ["0", "1"])
def test_document_ids_are_the_same_in_every_process(seed):
    code = (
        "from logitlake.storage.identity import document_id; "
        "print(document_id('the fox'), document_id([{'b': 1, 'a': 2}]))"
    )
    environment = {"PYTHONHASHSEED": seed}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout.split() == [document_id("the fox"), document_id([{"a": 2, "b": 1}])]

import pytest

from logitlake.pipeline.corpus.document import Document, Reject, RejectReason
from logitlake.pipeline.corpus.rejects import RejectGuard, RejectTally
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.errors import CorpusError

GOOD = Document("d", "text", "c", "a.jsonl", 1)
BAD = Reject("c", "a.jsonl", 2, RejectReason.BAD_JSON, "unexpected end")


def guard(stream, share=0.1, grace=10):
    settings = CorpusSettings(name="c", kind="jsonl", path=".", max_reject_share=share, reject_grace=grace)
    return RejectGuard(settings).watch(iter(stream))


def test_stream_passes_unchanged_while_rejects_stay_within_their_share():
    stream = ([GOOD] * 9 + [BAD]) * 20
    assert list(guard(stream)) == stream


def test_past_the_share_the_corpus_is_refused_with_the_reasons_and_the_first_place():
    passed = []
    with pytest.raises(
        CorpusError, match=r"corpus c: 2 of the first 11 .*bad_json 2.*10\.0%.*a\.jsonl:2: unexpected end"
    ):
        for item in guard([GOOD] * 9 + [BAD, BAD] + [GOOD] * 100):
            passed.append(item)
    assert passed == [GOOD] * 9 + [BAD]


def test_one_bad_line_does_not_stop_a_corpus_smaller_than_the_grace():
    assert list(guard([GOOD, BAD, GOOD])) == [GOOD, BAD, GOOD]


def test_corpus_with_rejects_and_no_document_is_refused_at_its_end():
    with pytest.raises(CorpusError, match="1 of the first 1"):
        list(guard([BAD]))
    assert list(guard([])) == []


def test_share_of_one_lets_everything_pass():
    assert list(guard([BAD] * 50, share=1)) == [BAD] * 50


def test_without_grace_the_first_reject_past_the_share_stops():
    with pytest.raises(CorpusError):
        list(guard([BAD, GOOD], share=0, grace=0))


def test_documents_that_turn_out_to_be_of_no_use_after_reading_count_too():
    short = Reject("c", "a.jsonl", 3, RejectReason.TOO_SHORT, "1 token")
    guard = RejectGuard(CorpusSettings(name="c", kind="jsonl", path=".", max_reject_share=0.1, reject_grace=10))
    assert len(list(guard.watch([GOOD] * 19 + [BAD]))) == 20
    guard.refuse(short)
    with pytest.raises(CorpusError, match=r"3 of the first 20 .*too_short 2, bad_json 1"):
        guard.refuse(short)


def test_a_small_corpus_of_which_nothing_is_left_after_reading_is_refused():
    guard = RejectGuard(CorpusSettings(name="c", kind="jsonl", path=".", max_reject_share=0.1, reject_grace=10))
    assert list(guard.watch([GOOD])) == [GOOD]
    with pytest.raises(CorpusError, match="1 of the first 1"):
        guard.refuse(Reject("c", "a.jsonl", 1, RejectReason.TOO_SHORT, "1 token"))


def test_a_guard_that_does_not_stop_notes_the_same_refusal_and_passes_the_whole_stream():
    settings = CorpusSettings(name="c", kind="jsonl", path=".", max_reject_share=0.1, reject_grace=10)
    stream = [GOOD] * 9 + [BAD, BAD] + [GOOD] * 100 + [BAD] * 100
    with pytest.raises(CorpusError) as stopped:
        list(RejectGuard(settings).watch(stream))
    patient = RejectGuard(settings, stops=False)
    assert patient.refusal is None
    assert list(patient.watch(stream)) == stream
    patient.refuse(BAD)
    assert str(patient.refusal) == str(stopped.value)


def test_rejects_are_counted_by_corpus_and_reason_with_the_first_of_each():
    def reject(corpus, line, reason):
        return Reject(corpus, "a.jsonl", line, reason, f"detail {line}")

    tally = RejectTally()
    tally.add(reject("b", 1, RejectReason.EMPTY))
    for line in (2, 3):
        tally.add(reject("b", line, RejectReason.BAD_JSON))
    tally.add(reject("a", 4, RejectReason.EMPTY))
    counted = [(c.first.corpus, c.first.reason, c.n_rejects, c.first.line) for c in tally.counts()]
    assert counted == [("b", "bad_json", 2, 2), ("b", "empty", 1, 1), ("a", "empty", 1, 4)]

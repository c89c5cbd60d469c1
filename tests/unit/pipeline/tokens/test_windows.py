from hypothesis import example, given
from hypothesis import strategies as st

from logitlake.pipeline.tokens.sequences import windows

shapes = st.integers(8, 40).flatmap(lambda length: st.tuples(st.just(length), st.integers(0, length // 2)))


@given(st.integers(1, 300), shapes)
@example(1, (8, 0))
@example(8, (8, 4))
@example(9, (8, 0))
def test_every_label_of_a_document_belongs_to_exactly_one_window(n_tokens, shape):
    length, overlap = shape
    owned = [label for window in windows(n_tokens, length, overlap) for label in range(window.first_label, window.end)]
    assert owned == list(range(1, n_tokens))


@given(st.integers(1, 300), shapes)
def test_a_label_is_owned_by_the_first_window_that_contains_it_with_context(n_tokens, shape):
    length, overlap = shape
    found = windows(n_tokens, length, overlap)
    for label in range(1, n_tokens):
        contains = [w for w in found if w.start < label < w.end]
        owners = [w for w in found if w.first_label <= label < w.end]
        assert owners == contains[:1]


@given(st.integers(1, 300), shapes)
def test_windows_start_every_length_minus_overlap_tokens_and_end_with_the_document(n_tokens, shape):
    length, overlap = shape
    found = windows(n_tokens, length, overlap)
    assert [w.start for w in found] == [k * (length - max(overlap, 1)) for k in range(len(found))]
    assert all(w.end - w.start == length for w in found[:-1])
    assert found[-1].end == n_tokens
    assert all(w.first_label < w.end for w in found[1:])

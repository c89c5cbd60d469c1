import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logitlake.pipeline.corpus.document import Chat, Document, Pair, Reject, RejectReason
from logitlake.pipeline.settings.models import TokenizationSettings
from logitlake.pipeline.tokens.sequences import TokenizedDocument, tokenize_documents
from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import SettingsError

WORDS = "the quick brown fox jumps over the lazy dog pack my box with five dozen jugs"
CHAT = Chat(
    (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "the fox?"},
        {"role": "assistant", "content": "brown dog"},
        {"role": "user", "content": "the box?"},
        {"role": "assistant", "content": "five jugs"},
    )
)


def document(content, doc_id="d"):
    return Document(doc_id, content, "corpus", "file", 1)


def tokenize(document, tokenizer, settings):
    return tokenize_documents([document], tokenizer, settings)[0]


def labels(tokenized: TokenizedDocument) -> list[int]:
    """The token ids that are predicted, in order over the windows."""
    return [int(i) for s in tokenized.sequences for i in s.input_ids[1:][s.has_target[:-1]]]


def text_of(tokenizer, ids):
    return tokenizer.backend.decode(ids, skip_special_tokens=False)


def test_entry_i_says_whether_token_i_plus_one_is_a_label(tokenizer):
    pair = document(Pair("the fox", " jumps"))
    [sequence] = tokenize(pair, tokenizer, TokenizationSettings()).sequences
    prompt, completion = tokenizer.encode_texts(["the fox", " jumps"])
    assert sequence.input_ids.tolist() == [*prompt, *completion, tokenizer.eos_id]
    expected = [False] * (len(prompt) - 1) + [True] * (len(completion) + 1) + [False]
    assert sequence.has_target.tolist() == expected


def test_last_entry_of_every_window_is_never_a_target(tokenizer):
    tokenized = tokenize(document(WORDS * 2), tokenizer, TokenizationSettings(window=8, overlap=3))
    assert len(tokenized.sequences) > 3
    assert not any(sequence.has_target[-1] for sequence in tokenized.sequences)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(text=st.text(min_size=1, max_size=120), window=st.integers(8, 24), share=st.floats(0, 0.5))
def test_windows_of_a_text_hold_every_label_once_and_in_order(tokenizer, text, window, share):
    tokenization = TokenizationSettings(window=window, overlap=int(window * share))
    tokenized = tokenize(document(text), tokenizer, tokenization)
    [ids] = tokenizer.encode_texts([text])
    assert labels(tokenized) == [*ids, tokenizer.eos_id][1:]
    whole = np.array([*ids, tokenizer.eos_id])
    for sequence in tokenized.sequences:
        assert (whole[sequence.start :][: len(sequence.input_ids)] == sequence.input_ids).all()
    assert tokenized.n_tokens == sum(len(sequence.input_ids) for sequence in tokenized.sequences)


def test_arrays_have_the_types_that_the_row_schema_needs(tokenizer):
    [sequence] = tokenize(document(WORDS), tokenizer, TokenizationSettings()).sequences
    assert (sequence.input_ids.dtype, sequence.has_target.dtype) == (np.int32, np.bool_)


def test_bos_is_there_once_or_not_at_all_as_the_settings_say(make_tokenizer_directory):
    plain = TextTokenizer.load(make_tokenizer_directory("plain"))
    adding = TextTokenizer.load(make_tokenizer_directory("adding", add_bos_token=True))

    def n_bos(tokenizer, text, bos):
        [sequence] = tokenize(document(text), tokenizer, TokenizationSettings(bos=bos)).sequences
        return sequence.input_ids.tolist().count(tokenizer.bos_id)

    assert [n_bos(plain, "the fox", bos) for bos in ("auto", "always", "never")] == [0, 1, 0]
    assert [n_bos(adding, "the fox", bos) for bos in ("auto", "always", "never")] == [1, 1, 0]
    assert n_bos(adding, "<s>the fox", "always") == 1


def test_eos_is_there_once_and_is_a_label(tokenizer):
    for text in ("the fox", "the fox</s>"):
        tokenized = tokenize(document(text), tokenizer, TokenizationSettings())
        assert labels(tokenized).count(tokenizer.eos_id) == 1
    tokenized = tokenize(document("the fox"), tokenizer, TokenizationSettings(eos=False))
    assert tokenizer.eos_id not in labels(tokenized)


def test_prompt_ids_of_a_pair_are_those_of_the_prompt_alone(tokenizer):
    # In one piece the last space and "the" would become one token that straddles the border.
    prompt, completion = "fox ", "the dog"
    alone, *_ = tokenizer.encode_texts([prompt])
    joined, *_ = tokenizer.encode_texts([prompt + completion])
    assert joined[: len(alone)] != alone
    tokenized = tokenize(document(Pair(prompt, completion)), tokenizer, TokenizationSettings(eos=False))
    [sequence] = tokenized.sequences
    assert sequence.input_ids[: len(alone)].tolist() == alone
    assert text_of(tokenizer, labels(tokenized)) == completion
    assert text_of(tokenizer, sequence.input_ids.tolist()) == prompt + completion


def test_completion_gets_no_space_that_the_pair_does_not_have():
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = ["▁", "a", "b", "\n", "▁a", "▁b"]
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[("▁", "a"), ("▁", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = TextTokenizer(backend, config={}, own_template=None, template=None)
    tokenized = tokenize(document(Pair("a ", "b")), tokenizer, TokenizationSettings(eos=False))
    [sequence] = tokenized.sequences
    assert [pieces[i] for i in sequence.input_ids] == ["▁a", "▁", "b"]


def test_windows_that_hold_only_prompt_are_left_out(tokenizer):
    tokenization = TokenizationSettings(window=8, overlap=2)
    tokenized = tokenize(document(Pair(WORDS, " dog")), tokenizer, tokenization)
    assert tokenized.sequences[0].window > 0
    assert tokenized.sequences[0].start == 6 * tokenized.sequences[0].window
    assert text_of(tokenizer, labels(tokenized)) == " dog</s>"


def test_chat_targets_are_what_the_assistant_wrote_with_its_end_of_turn(tokenizer):
    tokenized = tokenize(document(CHAT), tokenizer, TokenizationSettings())
    assert text_of(tokenizer, labels(tokenized)) == "brown dog<|end|>five jugs<|end|>"


def test_chat_is_encoded_once_from_the_template_and_gets_no_second_bos_or_eos(make_tokenizer_directory):
    tokenizer = TextTokenizer.load(make_tokenizer_directory(add_bos_token=True))
    text = tokenizer.require_chat_template().render_text(CHAT.messages)
    for bos in ("auto", "always"):
        [sequence] = tokenize(document(CHAT), tokenizer, TokenizationSettings(bos=bos)).sequences
        assert sequence.input_ids.tolist() == tokenizer.encode_texts([text])[0]
        assert sequence.input_ids.tolist().count(tokenizer.bos_id) == 1


def test_bos_always_adds_the_one_that_a_template_lacks_and_moves_no_label(make_tokenizer_directory):
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=template))
    chosen = [tokenize(document(CHAT), tokenizer, TokenizationSettings(bos=bos)) for bos in ("auto", "always")]
    assert labels(chosen[0]) == labels(chosen[1])
    assert chosen[1].n_tokens == chosen[0].n_tokens + 1
    assert chosen[1].sequences[0].input_ids[0] == tokenizer.bos_id


THINKS = (
    "{% for m in messages %}<|{{ m.role }}|> "
    "{% if loop.last and m.reasoning_content %}{{ m.reasoning_content }}</s>{% endif %}{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|> {% endif %}"
)
THINKING = Chat(
    (
        {"role": "user", "content": "the fox?"},
        {"role": "assistant", "content": "brown dog", "reasoning_content": "quick"},
        {"role": "user", "content": "the box?"},
        {"role": "assistant", "content": "five jugs", "reasoning_content": "pack"},
    )
)


def test_each_turn_that_later_turns_show_otherwise_is_a_sequence_of_its_own(make_tokenizer_directory):
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=THINKS))
    tokenized = tokenize(document(THINKING), tokenizer, TokenizationSettings())
    first, second = tokenized.sequences
    assert [(s.window, s.start) for s in tokenized.sequences] == [(0, 0), (1, len(first.input_ids))]
    assert text_of(tokenizer, first.input_ids) == "<|user|> the fox?<|end|><|assistant|> quick</s>brown dog<|end|>"
    assert text_of(tokenizer, second.input_ids).endswith(
        "brown dog<|end|><|user|> the box?<|end|><|assistant|> pack</s>five jugs<|end|>"
    )
    assert text_of(tokenizer, labels(tokenized)) == " quick</s>brown dog<|end|>pack</s>five jugs<|end|>"


def test_windows_of_all_texts_of_a_chat_have_numbers_and_positions_of_their_own(make_tokenizer_directory):
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=THINKS))
    whole = tokenize(document(THINKING), tokenizer, TokenizationSettings())
    cut = tokenize(document(THINKING), tokenizer, TokenizationSettings(window=8, overlap=2))
    assert labels(cut) == labels(whole)
    assert len({sequence.window for sequence in cut.sequences}) == len(cut.sequences) > 2
    positions = [int(s.start + i) for s in cut.sequences for i in np.flatnonzero(s.has_target)]
    assert len(set(positions)) == len(positions) == len(labels(whole))


def test_a_token_across_the_beginning_of_the_assistants_text_is_a_label(make_tokenizer_directory):
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=THINKS))
    chat = Chat(({"role": "user", "content": "fox"}, {"role": "assistant", "content": "the dog"}))
    ids = labels(tokenize(document(chat), tokenizer, TokenizationSettings()))
    assert tokenizer.backend.id_to_token(ids[0]) == "\u0120the"
    assert text_of(tokenizer, ids) == " the dog<|end|>"


def test_a_special_token_that_takes_in_the_assistants_white_space_is_no_label(trained_backend):
    from tokenizers import AddedToken, Tokenizer

    from logitlake.pipeline.tokens.chat_template import ChatTemplate

    backend = Tokenizer.from_str(trained_backend)
    backend.add_special_tokens([AddedToken("<|bot|>", special=True, rstrip=True)])
    source = (
        "{% for m in messages %}<|bot|>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
    )
    template = ChatTemplate(source, special_tokens={"eos_token": "</s>"}, origin="test")
    tokenizer = TextTokenizer(backend, config={}, own_template=source, template=template)
    chat = Chat(({"role": "user", "content": "fox"}, {"role": "assistant", "content": "\n dog"}))
    assert text_of(tokenizer, labels(tokenize(document(chat), tokenizer, TokenizationSettings()))) == "dog</s>"


def test_a_chat_that_can_not_be_labelled_is_a_reject_and_the_others_go_on(make_tokenizer_directory):
    source = "{{ messages | tojson | length }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=source))
    refused, text = tokenize_documents([document(CHAT), document("the fox")], tokenizer, TokenizationSettings())
    assert (refused.reason, isinstance(text, TokenizedDocument)) == (RejectReason.BAD_CHAT, True)
    assert "beginning is unknown" in refused.detail


def test_tools_of_a_chat_reach_the_template(make_tokenizer_directory):
    source = "{{ tools | tojson }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=source))
    chat = Chat(CHAT.messages, ({"name": "box"},))
    for targets in ("assistant", "all"):
        [sequence] = tokenize(document(chat), tokenizer, TokenizationSettings(chat_targets=targets)).sequences
        assert text_of(tokenizer, sequence.input_ids).startswith('[{"name": "box"}]<|system|>')


def test_chat_targets_all_takes_every_token_but_the_first(tokenizer):
    tokenized = tokenize(document(CHAT), tokenizer, TokenizationSettings(chat_targets="all"))
    [sequence] = tokenized.sequences
    assert labels(tokenized) == sequence.input_ids[1:].tolist()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a", RejectReason.TOO_SHORT),
        (Chat(({"role": "user", "content": "hello"},)), RejectReason.NO_TARGET),
        (Chat(({"role": "user"},)), RejectReason.NO_TARGET),
    ],
)
def test_document_without_a_target_is_a_reject_with_its_place(tokenizer, content, reason):
    rejected = tokenize(document(content), tokenizer, TokenizationSettings(eos=False))
    assert isinstance(rejected, Reject)
    assert (rejected.reason, rejected.corpus, rejected.source, rejected.line) == (reason, "corpus", "file", 1)


def test_chat_that_the_template_refuses_is_a_reject_and_the_others_go_on(make_tokenizer_directory):
    template = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    template += "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=template))
    good = Chat(({"role": "user", "content": "the fox"},))
    results = tokenize_documents([document(CHAT), document(good)], tokenizer, TokenizationSettings())
    assert isinstance(results[0], Reject)
    assert results[0].reason == RejectReason.BAD_CHAT
    assert "user first" in results[0].detail
    assert isinstance(results[1], TokenizedDocument)


def test_outcome_of_a_document_does_not_depend_on_its_neighbours(tokenizer):
    documents = [document(WORDS), document(CHAT), document(Pair("the", " fox")), document("a"), document("the fox")]
    tokenization = TokenizationSettings(window=16, overlap=4, eos=False)
    together = tokenize_documents(documents, tokenizer, tokenization)
    for one, other in zip(documents, together, strict=True):
        alone = tokenize(one, tokenizer, tokenization)
        assert type(alone) is type(other)
        if isinstance(alone, TokenizedDocument):
            pairs = zip(alone.sequences, other.sequences, strict=True)
            assert all((a.input_ids == b.input_ids).all() and (a.has_target == b.has_target).all() for a, b in pairs)


@pytest.mark.parametrize(("asked", "setting"), [({"eos": True}, "eos"), ({"eos": False, "bos": "always"}, "bos")])
def test_asking_for_a_token_that_the_tokenizer_lacks_is_refused(trained_backend, asked, setting):
    from tokenizers import Tokenizer

    tokenizer = TextTokenizer(Tokenizer.from_str(trained_backend), config={}, own_template=None, template=None)
    with pytest.raises(SettingsError, match=rf"tokenization\.{setting}"):
        tokenize(document("the fox"), tokenizer, TokenizationSettings(**asked))

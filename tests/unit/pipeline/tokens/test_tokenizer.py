import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from logitlake.pipeline.tokens.tokenizer import TextTokenizer
from logitlake.storage.errors import MismatchError, SettingsError


def test_saved_truncation_and_padding_never_cut_or_pad_a_document(make_tokenizer_directory, trained_backend):
    backend = Tokenizer.from_str(trained_backend)
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    tokenizer = TextTokenizer.load(make_tokenizer_directory(backend=backend.to_str()))
    text = "the quick brown fox jumps over the lazy dog"
    assert tokenizer.encode_texts([text]) == [Tokenizer.from_str(trained_backend).encode(text).ids]


def test_fingerprint_does_not_change_when_the_same_tokenizer_is_written_another_way(make_tokenizer_directory):
    first = make_tokenizer_directory("first")
    second = make_tokenizer_directory("second", pad_token="</s>", model_max_length=99)
    content = json.loads((first / "tokenizer.json").read_text())
    content["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "</s>",
    }
    (second / "tokenizer.json").write_text(json.dumps(dict(reversed(content.items())), indent=4))
    assert TextTokenizer.load(first).fingerprint == TextTokenizer.load(second).fingerprint


def test_fingerprint_changes_with_a_template_edited_under_the_same_name(make_tokenizer_directory):
    directory = make_tokenizer_directory()
    before = TextTokenizer.load(directory)
    template = directory / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    after = TextTokenizer.load(directory)
    assert before.fingerprint != after.fingerprint
    assert before.template_hash != after.template_hash


def test_fingerprint_changes_with_vocabulary_special_tokens_and_bos_rule(make_tokenizer_directory, trained_backend):
    backend = Tokenizer.from_str(trained_backend)
    backend.add_tokens(["<extra>"])
    directories = [
        make_tokenizer_directory("plain"),
        make_tokenizer_directory("extra", backend=backend.to_str()),
        make_tokenizer_directory("eos", eos_token="<|end|>"),
        make_tokenizer_directory("bos", add_bos_token=True),
    ]
    assert len({TextTokenizer.load(directory).fingerprint for directory in directories}) == len(directories)


def test_chat_template_file_takes_the_place_of_the_tokenizers_own(make_tokenizer_directory, tmp_path):
    directory = make_tokenizer_directory()
    other = tmp_path / "other.jinja"
    other.write_text("{{ messages[0].content }}")
    own, replaced = TextTokenizer.load(directory), TextTokenizer.load(directory, chat_template=other)
    assert replaced.require_chat_template().render_text([{"role": "user", "content": "hi"}]) == "hi"
    assert own.template_hash != replaced.template_hash
    assert own.fingerprint == replaced.fingerprint


def test_default_of_several_named_templates_is_taken(make_tokenizer_directory):
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    directory = make_tokenizer_directory(template=None, chat_template=named)
    assert TextTokenizer.load(directory).require_chat_template().source == "yes"


def test_bos_rule_is_read_from_the_post_processor_or_from_the_settings(make_tokenizer_directory, trained_backend):
    backend = Tokenizer.from_str(trained_backend)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    with_processor = backend.to_str()
    assert not TextTokenizer.load(make_tokenizer_directory("none")).adds_bos
    assert TextTokenizer.load(make_tokenizer_directory("processor", backend=with_processor)).adds_bos
    assert TextTokenizer.load(make_tokenizer_directory("setting", add_bos_token=True)).adds_bos
    off = make_tokenizer_directory("off", backend=with_processor, add_bos_token=False)
    assert not TextTokenizer.load(off).adds_bos


def test_special_tokens_may_be_objects_or_in_the_older_file(make_tokenizer_directory):
    directory = make_tokenizer_directory()
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>", "lstrip": False}}))
    (directory / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    tokenizer = TextTokenizer.load(directory)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 6)


def test_token_texts_join_to_the_text_that_was_encoded(tokenizer):
    texts = tokenizer.token_texts()
    assert len(texts) == tokenizer.vocab_size
    text = "the quick brown\n fox </s>"
    [ids] = tokenizer.encode_texts([text])
    assert "".join(texts[i] for i in ids) == text


def test_token_texts_show_the_space_of_sentencepiece_tokens_and_the_piece_of_half_characters(tokenizer):
    backend = Tokenizer(models.BPE(vocab={"▁": 0, "a": 1, "▁a": 2, "\n": 3}, merges=[("▁", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    spaced = TextTokenizer(backend, config={}, own_template=None, template=None)
    from tokenizers import decoders

    backend.decoder = decoders.Metaspace()
    assert spaced.token_texts()[:3] == [" ", "a", " a"]
    half = tokenizer.backend.token_to_id("Ã")
    assert tokenizer.token_texts()[half] == "Ã"


def test_ids_above_two_to_the_seventeenth_and_holes_in_the_vocabulary_are_kept():
    vocabulary = {"<unk>": 0, "small": 1, "large": 151_935}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = TextTokenizer(backend, config={}, own_template=None, template=None)
    assert tokenizer.vocab_size == 151_936
    assert tokenizer.encode_texts(["small large"]) == [[1, 151_935]]
    texts = tokenizer.token_texts()
    assert (len(texts), texts[2], texts[151_935].strip()) == (151_936, "", "large")


def test_special_ids_are_those_marked_in_the_vocabulary(tokenizer):
    assert tokenizer.special_ids() == frozenset(range(7))


@pytest.mark.parametrize("broken", ["absent", "json", "config"])
def test_unreadable_tokenizer_is_a_settings_error_that_names_the_file(make_tokenizer_directory, broken):
    directory: Path = make_tokenizer_directory()
    if broken == "absent":
        (directory / "tokenizer.json").unlink()
    elif broken == "json":
        (directory / "tokenizer.json").write_text("{")
    else:
        (directory / "tokenizer_config.json").write_text("[")
    name = "tokenizer_config.json" if broken == "config" else "tokenizer.json"
    with pytest.raises(SettingsError, match=name):
        TextTokenizer.load(directory)


def test_special_token_outside_the_vocabulary_is_refused(make_tokenizer_directory):
    with pytest.raises(MismatchError, match="not in its vocabulary"):
        TextTokenizer.load(make_tokenizer_directory(eos_token="<nowhere>"))


def test_chats_without_a_template_are_refused_with_what_to_do(make_tokenizer_directory):
    tokenizer = TextTokenizer.load(make_tokenizer_directory(template=None))
    assert tokenizer.template_hash is None
    with pytest.raises(MismatchError, match=r"tokenization\.chat_template"):
        tokenizer.require_chat_template()

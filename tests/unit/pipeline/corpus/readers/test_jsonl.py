import gzip
import io
import random

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from logitlake.pipeline.corpus.document import Chat, Document, Pair, Reject
from logitlake.pipeline.corpus.json_line import RepeatedKeyError, parse_json
from logitlake.pipeline.corpus.readers.jsonl import read_jsonl
from logitlake.pipeline.corpus.streams import lines
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.errors import CorpusError
from logitlake.storage.identity import document_id


def read(path, **settings):
    return list(CorpusSettings(name="c", kind="jsonl", path=str(path), **settings).read())


def found(items):
    """What came of each place: (line, text or reason)."""
    return [(item.line, item.content if isinstance(item, Document) else item.reason.value) for item in items]


def record(**fields):
    return orjson.dumps(fields) + b"\n"


NESTED = "[" * 500 + "]" * 500

SPEAKERS = ("system", "human", "gpt")

PACKERS = {
    "a.jsonl": bytes,
    "a.jsonl.gz": gzip.compress,
    "a.jsonl.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.mark.parametrize("name", PACKERS)
def test_a_document_is_the_same_however_its_file_is_packed(tmp_path, name):
    (tmp_path / name).write_bytes(PACKERS[name](record(text="one") + record(text="zwei ä")))
    items = read(tmp_path)
    assert found(items) == [(1, "one"), (2, "zwei ä")]
    assert [item.source for item in items] == [name, name]
    assert {item.doc_id for item in items} == {item.doc_id for item in read(tmp_path / name)}


def test_single_file_is_named_by_its_name_alone(tmp_path):
    (tmp_path / "data.txt").write_bytes(record(text="one"))
    [item] = read(tmp_path / "data.txt")
    assert item.source == "data.txt"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "bad_json"),
        (b'{"text": NaN}', "bad_json"),
        (b'{"text": "\xff\xfe"}', "not_utf8"),
        (b'{"txt": "a"}', "missing_field"),
        (b'{"text": 3}', "wrong_type"),
        (b'{"text": null}', "wrong_type"),
        (b'["text"]', "wrong_type"),
        (b'"text"', "wrong_type"),
        (b"3", "wrong_type"),
        (b"null", "wrong_type"),
        (b'{"text": ""}', "empty"),
        (b'{"text": " \\n\\t"}', "empty"),
        (b'{"text": "ab"}', "too_short"),
        (b'{"text": "abcdefghijk"}', "too_long"),
        (b'{"text": "\\ud800"}', "bad_json"),
        (b"[" * 5000, "bad_json"),
        (b'{"text": "one", "text": "two"}', "repeated_key"),
        (b'{"text": "one", "te\\u0078t": "two"}', "repeated_key"),
        (b'{"text": "one", "x": [{"a": 1, "b": {}, "a" :2}]}', "repeated_key"),
    ],
)
def test_line_that_can_not_be_used_is_a_reject_with_its_place_and_the_run_goes_on(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(record(text="before") + line + b"\n" + record(text="after"))
    items = read(tmp_path, min_characters=3, max_characters=10)
    assert found(items) == [(1, "before"), (2, reason), (3, "after")]
    assert (items[1].corpus, items[1].source) == ("c", "a.jsonl")
    assert items[1].detail


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize(
    "line", [b'{"text": "on', '{"text": "zwei ä'.encode()[:-1], b'{"text": ', b'{"text": "one"', b'{"te']
)
def test_a_line_that_was_cut_off_is_called_that(tmp_path, line, ending):
    (tmp_path / "a.jsonl").write_bytes(line + ending)
    [reject] = read(tmp_path, max_reject_share=1)
    assert (reject.reason, reject.detail) == ("bad_json", "the line is cut off: it ends inside a JSON value")


@pytest.mark.parametrize("line", [b'{"text": "on\x01e"}', b'{"text" "one"}', b'{"text": "\xff"}'])
def test_a_whole_line_with_an_error_is_not_called_cut_off(tmp_path, line):
    (tmp_path / "a.jsonl").write_bytes(line + b"\n")
    [reject] = read(tmp_path, max_reject_share=1)
    assert "cut off" not in reject.detail


def test_byte_order_mark_crlf_blank_lines_and_a_last_line_without_ending_are_read(tmp_path):
    content = b'\xef\xbb\xbf{"text": "one"}\r\n\r\n  \n{"text": "two"}\r\n\n{"text": "three"}'
    (tmp_path / "a.jsonl").write_bytes(content)
    assert found(read(tmp_path)) == [(1, "one"), (4, "two"), (6, "three")]


def test_file_of_a_byte_order_mark_alone_and_an_empty_file_hold_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "b.jsonl").write_bytes(b"")
    assert read(tmp_path) == []


def test_line_over_the_bound_is_rejected_without_being_held_and_the_next_is_read(tmp_path):
    content = record(text="x" * 1000) + record(text="one") + record(text="y" * 1000).rstrip(b"\n")
    (tmp_path / "a.jsonl").write_bytes(content)
    settings = CorpusSettings(name="c", kind="jsonl", path=str(tmp_path))
    items = list(read_jsonl(settings, max_line_bytes=100))
    assert found(items) == [(1, "too_long"), (2, "one"), (3, "too_long")]
    assert "1012 bytes" in items[0].detail


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b""))), st.integers(1, 12))
def test_lines_keep_every_line_and_count_those_over_the_bound(content, bound):
    data = b"\n".join(content)
    expected = [line if len(line) <= bound else len(line) for line in io.BytesIO(data)]
    assert list(lines(io.BytesIO(data), bound)) == expected


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "not compressed"])
def test_torn_compressed_file_gives_what_came_before_one_reject_and_the_next_file(tmp_path, name, damage):
    noise = random.Random(0)
    content = b"".join(record(text=noise.randbytes(200).hex()) for _ in range(3000))
    packed = bytearray(PACKERS[name](content))
    if damage == "truncated":
        packed = packed[: len(packed) // 2]
    elif damage == "overwritten":
        middle = len(packed) // 2
        packed[middle : middle + 4000] = noise.randbytes(4000)
    else:
        packed = bytearray(content)
    (tmp_path / name).write_bytes(packed)
    (tmp_path / "b.jsonl").write_bytes(record(text="next file"))
    items = read(tmp_path)
    torn = [item for item in items if isinstance(item, Reject) and item.reason == "corrupt_file"]
    assert len(torn) == 1
    assert torn[0].source == name
    assert items[-1].content == "next file"
    good = [item for item in items[:-1] if isinstance(item, Document)]
    assert len(good) < 3000
    assert (len(good) > 0) == (damage != "not compressed")


def test_frames_one_after_the_other_and_skippable_frames_are_read(tmp_path):
    skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    content = skippable + zstandard.compress(record(text="one")) + skippable + zstandard.compress(record(text="two"))
    (tmp_path / "a.jsonl.zst").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(record(text="three")) + gzip.compress(record(text="four")))
    assert found(read(tmp_path)) == [(1, "one"), (2, "two"), (1, "three"), (2, "four")]


def test_pairs_and_chats_are_known_by_their_content(tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "name": None}]
    (tmp_path / "a.jsonl").write_bytes(record(p="ask", c="answer", m=messages))
    [pair] = read(tmp_path, prompt_field="p", completion_field="c")
    assert pair.content == Pair("ask", "answer")
    [chat] = read(tmp_path, messages_field="m")
    assert chat.content == Chat((messages[0], {"role": "assistant", "content": "ho"}))
    (tmp_path / "a.jsonl").write_bytes(record(m=[dict(reversed(messages[0].items())), messages[1]]))
    [same] = read(tmp_path, messages_field="m")
    assert same.doc_id == chat.doc_id


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hi", "wrong_type"),
        ('[{"role": "user", "content": "a", "content": "b"}]', "repeated_key"),
        ([{"from": "narrator", "value": "hi"}], "wrong_type"),
        ([{"from": "human", "value": 3}], "wrong_type"),
        (f'[{{"role": "user", "content": {NESTED}}}]', "wrong_type"),
        ([], "empty"),
        (["hi"], "wrong_type"),
        ([{"content": "hi"}], "wrong_type"),
        ([{"role": "user", "content": 3}], "wrong_type"),
        ([{"role": "user", "content": ""}], "empty"),
    ],
)
def test_chat_that_can_not_be_used_is_a_reject(tmp_path, messages, reason):
    (tmp_path / "a.jsonl").write_bytes(record(m=messages))
    assert found(read(tmp_path, messages_field="m")) == [(1, reason)]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(alphabet=':,[{"\\\\a'),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet=':"\\\\a'), inner),
    )
)
def test_what_has_each_key_once_is_read_whatever_its_strings_hold(value):
    assert parse_json(orjson.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"a" :1, "a"\t: 2}',
        b'{"a"\r\n:1,"a"\n\n:2}',
        b'{"a:":"b","a:":2}',
        b'[{"b":{"\\"":1,"\\"":2}}]',
    ],
)
def test_a_repeated_key_is_found_however_it_is_written(text):
    with pytest.raises(RepeatedKeyError):
        parse_json(text)


@pytest.mark.parametrize(
    "form",
    [
        lambda chat: chat,
        lambda chat: [{"from": said, "value": m["content"]} for said, m in zip(SPEAKERS, chat, strict=True)],
        lambda chat: orjson.dumps(chat).decode(),
        lambda chat: [orjson.dumps(message).decode() for message in chat],
    ],
    ids=["objects", "sharegpt", "json text", "messages as json text"],
)
def test_a_chat_has_one_id_in_every_form_that_is_read(tmp_path, form):
    chat = [{"role": role, "content": text} for role, text in (("system", "be"), ("user", "hi"), ("assistant", "ho"))]
    (tmp_path / "a.jsonl").write_bytes(record(m=form(chat)))
    [item] = read(tmp_path, messages_field="m")
    assert item.content == Chat(tuple(chat))
    assert item.doc_id == document_id(chat)


def test_a_detail_is_short_however_long_the_name_that_it_quotes(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(record(**{"x" * 10**6: 1}))
    [reject] = read(tmp_path)
    assert len(reject.detail) < 1000


@pytest.mark.parametrize(("pair", "reason"), [({"p": "a"}, "missing_field"), ({"p": "a", "c": ""}, "empty")])
def test_pair_that_can_not_be_used_is_a_reject(tmp_path, pair, reason):
    (tmp_path / "a.jsonl").write_bytes(record(**pair))
    assert found(read(tmp_path, prompt_field="p", completion_field="c")) == [(1, reason)]


def test_missing_path_is_a_corpus_error_that_says_what_to_mend(tmp_path):
    with pytest.raises(CorpusError, match=r"corpus c: .*nowhere.*No such file.*corpora\.c\.path"):
        read(tmp_path / "nowhere")


def test_glob_that_matches_nothing_is_a_corpus_error_that_says_what_to_mend(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusError, match=r"matches \*\*/\*\.jsonl.*corpora\.c\.glob"):
        read(tmp_path)


def test_file_that_can_not_be_opened_is_a_corpus_error_that_names_it(tmp_path):
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(CorpusError, match=r"a\.jsonl can't be read .*glob: \['!a\.jsonl'\]"):
        read(tmp_path)


def test_a_file_whose_window_is_too_large_says_how_to_pack_it(tmp_path):
    window_of_2_gib = bytes([(31 - 10) << 3])
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00" + window_of_2_gib + b"\x01\x00\x00")
    [reject] = read(tmp_path)
    assert "zstd --long=27" in reject.detail


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "default": None}}}]
READ_TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
ASKED = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "form",
    [
        lambda tools: tools,
        lambda tools: orjson.dumps(tools).decode(),
        lambda tools: [orjson.dumps(tool).decode() for tool in tools],
    ],
    ids=["objects", "json text", "tools as json text"],
)
def test_tools_are_a_part_of_the_chat_in_every_form_that_is_read(tmp_path, form):
    (tmp_path / "a.jsonl").write_bytes(record(m=ASKED, tools=form(TOOLS)))
    [item] = read(tmp_path, messages_field="m")
    assert item.content == Chat(tuple(ASKED), READ_TOOLS)
    assert item.doc_id == document_id({"messages": ASKED, "tools": list(READ_TOOLS)})


def test_a_chat_without_tools_keeps_its_id(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"".join(record(m=ASKED, tools=none) for none in (None, [], "", "[]")))
    assert {item.doc_id for item in read(tmp_path, messages_field="m")} == {document_id(ASKED)}
    (tmp_path / "a.jsonl").write_bytes(record(m=ASKED, tools=TOOLS, offered=TOOLS))
    assert {item.doc_id for item in read(tmp_path, messages_field="m", tools_field=None)} == {document_id(ASKED)}
    [other] = read(tmp_path, messages_field="m", tools_field="offered")
    assert other.content.tools == READ_TOOLS


@pytest.mark.parametrize(
    ("tools", "reason"),
    [("weather", "wrong_type"), ({"name": "weather"}, "wrong_type"), (["weather"], "wrong_type"), ([3], "wrong_type")],
)
def test_tools_that_can_not_be_used_are_a_reject(tmp_path, tools, reason):
    (tmp_path / "a.jsonl").write_bytes(record(m=ASKED, tools=tools))
    assert found(read(tmp_path, messages_field="m")) == [(1, reason)]


def test_tool_calls_may_be_json_text(tmp_path):
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
    forms = (calls, orjson.dumps(calls).decode(), [orjson.dumps(calls[0]).decode()])
    answers = [[*ASKED, {"role": "assistant", "content": None, "tool_calls": form}] for form in forms]
    (tmp_path / "a.jsonl").write_bytes(b"".join(record(m=answer) for answer in answers))
    items = read(tmp_path, messages_field="m")
    assert [item.content.messages[1] for item in items] == [{"role": "assistant", "tool_calls": calls}] * 3
    assert len({item.doc_id for item in items}) == 1
    (tmp_path / "a.jsonl").write_bytes(record(m=[{"role": "assistant", "tool_calls": "weather()"}]))
    assert found(read(tmp_path, messages_field="m")) == [(1, "wrong_type")]

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.pipeline.corpus.document import Chat, Document
from logitlake.pipeline.settings.models import CorpusSettings


def read(path, **settings):
    return list(CorpusSettings(name="c", kind="parquet", path=str(path), **settings).read())


def found(items):
    return [(item.line, item.content if isinstance(item, Document) else item.reason.value) for item in items]


def test_rows_are_documents_with_their_number_across_batches_and_row_groups(tmp_path):
    texts = [f"text {i}" for i in range(1000)]
    pq.write_table(pa.table({"text": texts, "other": range(1000)}), tmp_path / "a.parquet", row_group_size=300)
    assert found(read(tmp_path)) == list(enumerate(texts, start=1))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_kind_of_text_column_is_read(tmp_path, kind):
    column = pa.array(["one", None, ""], pa.string()).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert found(read(tmp_path)) == [(1, "one"), (2, "wrong_type"), (3, "empty")]


def test_string_that_is_not_utf8_is_a_reject_of_its_row_alone(tmp_path):
    raw = pa.array([b"one", b"\xff\xfe", b"two"], pa.binary())
    invalid = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": invalid}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": raw}), tmp_path / "b.parquet")
    assert found(read(tmp_path)) == [(1, "one"), (2, "not_utf8"), (3, "two")] * 2


def test_rows_of_a_file_without_the_column_are_rejected_and_the_next_file_is_read(tmp_path):
    pq.write_table(pa.table({"body": ["one", "two"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["three"]}), tmp_path / "b.parquet")
    items = read(tmp_path)
    assert found(items) == [(1, "missing_field"), (2, "missing_field"), (1, "three")]
    assert "body" in items[0].detail


def test_two_columns_of_one_name_are_refused_whichever_is_last(tmp_path):
    columns = [pa.array(["one", "two"]), pa.array(["three", "four"])]
    pq.write_table(pa.table(columns, names=["text", "text"]), tmp_path / "a.parquet")
    pq.write_table(pa.table([*columns, columns[0]], names=["x", "text", "x"]), tmp_path / "b.parquet")
    assert found(read(tmp_path)) == [(1, "repeated_key"), (2, "repeated_key"), (1, "three"), (2, "four")]


@pytest.mark.parametrize("values", [pa.string(), pa.large_string()])
def test_chats_as_lists_of_maps_are_read_and_a_key_twice_is_rejected(tmp_path, values):
    kind = pa.list_(pa.map_(pa.string(), values))
    said = [("role", "user"), ("content", "hi"), ("name", None)]
    column = pa.array([[said], [[*said, ("content", "ho")]]], kind)
    pq.write_table(pa.table({"m": column}), tmp_path / "a.parquet")
    chat, repeated = read(tmp_path, messages_field="m")
    assert chat.content == Chat(({"role": "user", "content": "hi"},))
    assert repeated.reason == "repeated_key"


def test_chats_as_json_text_are_read(tmp_path):
    text = '[{"role": "user", "content": "hi"}]'
    pq.write_table(pa.table({"m": [text], "n": [text.encode()]}), tmp_path / "a.parquet")
    for field in ("m", "n"):
        [chat] = read(tmp_path, messages_field=field)
        assert chat.content == Chat(({"role": "user", "content": "hi"},))


def test_tools_are_read_where_a_file_has_them(tmp_path):
    chat, tools = [{"role": "user", "content": "hi"}], [{"name": "weather", "parameters": {"city": "text"}}]
    others = [{"name": "clock", "parameters": {"zone": "text"}}]
    pq.write_table(pa.table({"m": [chat, chat], "tools": [tools, others]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"m": [chat]}), tmp_path / "b.parquet")
    pair = [("name", "weather"), ("parameters", None)]
    maps = pa.array([[pair]], pa.list_(pa.map_(pa.string(), pa.string())))
    pq.write_table(pa.table({"m": [chat], "tools": maps}), tmp_path / "c.parquet")
    found_tools = [item.content.tools for item in read(tmp_path, messages_field="m")]
    assert found_tools == [tuple(tools), tuple(others), (), ({"name": "weather"},)]


def test_two_columns_of_tools_are_a_reject(tmp_path):
    chat = pa.array([[{"role": "user", "content": "hi"}]])
    pq.write_table(pa.table([chat, chat, chat], names=["m", "tools", "tools"]), tmp_path / "a.parquet")
    assert [item.reason for item in read(tmp_path, messages_field="m")] == ["repeated_key"]


def test_column_of_another_type_is_rejected(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert found(read(tmp_path)) == [(1, "wrong_type"), (2, "wrong_type")]


def test_chat_has_the_id_that_it_has_as_json_lines(tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "name": "x"}]
    pq.write_table(pa.table({"m": [messages]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(
        b'{"m": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "name": "x"}]}'
    )
    [parquet] = read(tmp_path, messages_field="m")
    settings = CorpusSettings(name="c", kind="jsonl", path=str(tmp_path), messages_field="m")
    [jsonl] = settings.read()
    assert parquet.doc_id == jsonl.doc_id


@pytest.mark.parametrize("damage", ["not parquet", "truncated", "empty"])
def test_torn_file_is_one_reject_and_the_next_file_is_read(tmp_path, damage):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one"] * 100}), path)
    content = {"not parquet": b"x" * 100, "truncated": path.read_bytes()[:-20], "empty": b""}[damage]
    path.write_bytes(content)
    pq.write_table(pa.table({"text": ["two"]}), tmp_path / "b.parquet")
    assert found(read(tmp_path)) == [(1, "corrupt_file"), (1, "two")]


def test_page_overwritten_in_the_middle_gives_what_came_before_and_one_reject(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{i:08}" * 50 for i in range(2000)]})
    pq.write_table(table, path, row_group_size=500, compression="zstd", use_dictionary=False)
    third = pq.ParquetFile(path).metadata.row_group(2).column(0)
    content = bytearray(path.read_bytes())
    content[third.data_page_offset : third.data_page_offset + third.total_compressed_size] = bytes(
        third.total_compressed_size
    )
    path.write_bytes(content)
    items = read(tmp_path)
    assert [item.reason for item in items if not isinstance(item, Document)] == ["corrupt_file"]
    assert len(items) > 500


def test_names_of_columns_that_are_not_utf8_make_one_reject(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one"], "xother": ["x"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"xother", b"\xbbother"))
    pq.write_table(pa.table({"text": ["two"]}), tmp_path / "b.parquet")
    assert found(read(tmp_path)) == [(1, "corrupt_file"), (1, "two")]

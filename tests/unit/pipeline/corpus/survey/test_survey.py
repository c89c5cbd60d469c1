"""The corpora that a directory could be. Each draft is read by the reader that it names."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.corpus.survey.survey import CorpusDraft, survey
from logitlake.pipeline.settings.corpus import CorpusSettings
from logitlake.storage.errors import CorpusError

CHAT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


def write(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def texts(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"document number {number} of several"} for number in range(start, start + count)]


def read(draft: CorpusDraft) -> list[Any]:
    return list(CorpusSettings.model_validate(draft.settings).read())


def drafts_of(root: Path) -> list[CorpusDraft]:
    """The drafts, after a check that each reader finds exactly the documents that were counted."""
    drafts = list(survey(root, root.parent / "elsewhere").corpora)
    for draft in drafts:
        items = read(draft)
        assert all(isinstance(item, Document) for item in items), (draft, items)
        assert draft.is_exact and len(items) == draft.n_documents
    return drafts


def test_a_tree_of_one_kind_is_one_corpus(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b/c.ndjson.gz", "b/d/e.jsonl"):
        write(tmp_path / name, texts(3, len(name)))
    (draft,) = drafts_of(tmp_path)
    assert draft.settings == {"name": draft.settings["name"], "kind": "jsonl", "path": str(tmp_path)}
    assert (draft.n_files, draft.n_documents) == (3, 9)
    assert draft.n_tokens == pytest.approx(9 * 31 / 4, rel=0.1)


def test_files_of_other_fields_are_another_corpus(tmp_path: Path) -> None:
    write(tmp_path / "mixed" / "one.jsonl", texts(4))
    write(tmp_path / "mixed" / "t[w]o*!.jsonl", [{"conversations": CHAT, "n": number} for number in range(3)])
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.Table.from_pylist([{"id": 1, "content": "a b c"}]), tmp_path / "rows" / "r.parquet")
    drafts = {draft.settings.get("text_field") or draft.shape: draft for draft in drafts_of(tmp_path)}
    assert {name: draft.n_documents for name, draft in drafts.items()} == {
        "text": 4,
        "chats (ShareGPT: from and value)": 3,
        "content": 1,
    }
    assert len({draft.settings["name"] for draft in drafts.values()}) == 3


def test_the_lake_of_the_work_directory_never_becomes_a_corpus(tmp_path: Path) -> None:
    for name in ("a.parquet", "sub/b.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(texts(2, len(name))), tmp_path / name)
    first = survey(tmp_path, tmp_path).corpora
    (tmp_path / "lake" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(texts(2, 50)), tmp_path / "lake" / "data" / "shard.parquet")
    assert sorted(len(read(draft)) for draft in first) == [2, 2]
    (tmp_path / "lake" / "catalog.sqlite").touch()
    assert survey(tmp_path, tmp_path).corpora == first


def test_what_can_not_be_used_is_named_and_its_neighbours_are_read(tmp_path: Path) -> None:
    write(tmp_path / "good.jsonl", texts(2))
    write(tmp_path / "bad.jsonl", [{"id": 1}])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "array.json").write_text('[{"text": "a b"}]')
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "README.md").write_text("about the data")
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).touch()
    os.mkfifo(tmp_path / "pipe.jsonl")
    found = survey(tmp_path, tmp_path)
    (draft,) = found.corpora
    assert [item.source for item in read(draft)] == ["good.jsonl"] * 2
    named = {Path(sentence.partition(":")[0]).name for sentence in found.left_out}
    assert named == {"bad.jsonl", "broken.parquet", "array.json", "table.csv", "README.md", "model", "pipe.jsonl"}


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    write(tmp_path / "chats.json", [{"conversations": CHAT, "n": number} for number in range(2)])
    write(tmp_path / "package.json", [{"description": "settings of some program"}])
    (draft,) = survey(tmp_path, tmp_path).corpora
    assert draft.settings["messages_field"] == "conversations"
    assert {item.source for item in read(draft)} >= {"chats.json"}


@pytest.mark.parametrize("name", ["~somebody", " ", "new\nline", "schön 🙂", "a\\b*[c]", "-n", "#x", "yes", "'q\""])
def test_every_name_of_a_directory_and_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(name) / f"{name}.jsonl", texts(2))
    (Path(name) / f"{name}.txt").write_text("beside")
    write(Path(name) / f"other{name}.jsonl", [{"conversations": CHAT}])
    for root in (Path(name), Path()):
        counts = [draft.n_documents for draft in drafts_of(root)]
        assert sorted(counts) == [1, 2]


def test_a_directory_whose_name_is_not_utf8_is_left_out_with_advice(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write(folder / "a.jsonl", texts(1))
    found = survey(tmp_path, tmp_path)
    assert found.corpora == ()
    assert "caf\\xe9: a name is not UTF-8" in found.left_out[0]


def test_texts_are_counted_by_file_and_empty_ones_do_not_stop_a_capture(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.md").write_text("a text " * number)
    (draft,) = survey(tmp_path, tmp_path.parent).corpora
    assert (draft.n_files, draft.n_documents, draft.settings["max_reject_share"]) == (3, 2, 1.0)


def test_links_as_in_the_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "blobs" / "x.jsonl", texts(2))
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.jsonl").symlink_to(tmp_path / "blobs" / "x.jsonl")
    (draft,) = drafts_of(tmp_path / "snapshot")
    assert draft.settings["follow_links"] is True


def test_a_large_file_is_estimated(tmp_path: Path) -> None:
    write(tmp_path / "large.jsonl", [{"text": "words and words " * 4000}] * 400)
    (draft,) = survey(tmp_path / "large.jsonl", tmp_path).corpora
    assert not draft.is_exact
    assert draft.n_documents == pytest.approx(400, rel=0.02)


def test_a_place_that_is_not_there_is_an_error_of_the_corpus(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="can't be read"):
        survey(tmp_path / "nowhere", tmp_path)


def test_texts_beside_a_data_file_without_documents_are_documents(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"d{number}.txt").write_text(f"document {number}")
    write(tmp_path / "index.jsonl", [{"id": 1, "n": 2}])
    (tmp_path / "empty.jsonl").touch()
    write(tmp_path / "below" / "log.jsonl", [{"at": 1}])
    (draft,) = drafts_of(tmp_path)
    assert (draft.settings["kind"], draft.n_documents) == ("text", 5)


def test_what_is_named_like_a_file_of_documents_and_is_none_does_not_stop_a_capture(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", texts(2))
    write(tmp_path / "below" / "b.jsonl", texts(2, 2))
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "below" / "pipe.jsonl")
    (tmp_path / "linked").symlink_to(tmp_path / "below")
    assert sum(draft.n_documents for draft in drafts_of(tmp_path)) == 4
    named = {sentence.partition(": ")[0] for sentence in survey(tmp_path, tmp_path).left_out}
    assert named == {str(tmp_path / name) for name in ("gone.jsonl", "below/pipe.jsonl", "linked")}


def test_a_folder_that_can_not_be_listed_is_left_out_of_the_corpora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.jsonl", texts(2))
    write(tmp_path / "locked" / "b.jsonl", texts(2, 2))
    listing = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    # The tests may run as a user whom no permission stops.
    monkeypatch.setattr(os, "scandir", scandir)
    (draft,) = survey(tmp_path, tmp_path.parent / "elsewhere").corpora
    assert draft.settings["glob"] == ("*.jsonl",), "the reader would list the locked folder, and stop"


def test_names_of_fields_are_told_on_one_line(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"id\ncorpora: []": 1, "\x1b": 2}])
    (sentence,) = survey(tmp_path, tmp_path).left_out
    assert sentence.isprintable()

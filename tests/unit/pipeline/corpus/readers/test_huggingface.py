import json

import datasets
import pytest

from logitlake.pipeline.corpus.document import Chat, Document
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.errors import CorpusError

ROWS = {"text": ["one", "", "three"], "other": [1, 2, 3]}


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def read(path, **settings):
    return list(CorpusSettings(name="c", kind="huggingface", path=str(path), **settings).read())


def found(items):
    return [(item.line, item.content if isinstance(item, Document) else item.reason.value) for item in items]


def test_saved_dataset_and_saved_splits_are_read(tmp_path):
    dataset = datasets.Dataset.from_dict(ROWS)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "splits")
    assert found(read(tmp_path / "one")) == found(read(tmp_path / "splits")) == [(1, "one"), (2, "empty"), (3, "three")]
    [item] = read(tmp_path / "splits", split="test")
    assert (item.content, item.source) == ("one", "test")


def test_local_folder_is_read_as_a_stream(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": t, "n": 1}) + "\n" for t in ROWS["text"]))
    assert found(read(folder)) == [(1, "one"), (2, "empty"), (3, "three")]


def test_field_that_the_dataset_lacks_is_a_reject_of_every_row(tmp_path):
    datasets.Dataset.from_dict(ROWS).save_to_disk(tmp_path / "one")
    assert found(read(tmp_path / "one", text_field="body")) == [(i, "missing_field") for i in (1, 2, 3)]


def test_chats_of_a_dataset_are_read(tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    tools = [{"name": "weather"}]
    columns = {"messages": [messages], "tools": [tools], "other": [0]}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "one")
    [item] = read(tmp_path / "one", messages_field="messages")
    assert item.content == Chat(tuple(messages), tuple(tools))


def test_missing_split_and_unreadable_dataset_are_corpus_errors_that_say_what_to_mend(tmp_path):
    dataset = datasets.Dataset.from_dict(ROWS)
    datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "splits")
    with pytest.raises(CorpusError, match=r"no split 'test'; its splits: train"):
        read(tmp_path / "splits", split="test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"corpus c: dataset .*empty can't be opened.*corpora\.c"):
        read(tmp_path / "empty")

import pytest

from logitlake.pipeline.corpus.document import Document
from logitlake.pipeline.settings.models import CorpusSettings
from logitlake.storage.errors import CorpusError
from logitlake.storage.identity import document_id


def read(path, **settings):
    return list(CorpusSettings(name="c", kind="text", path=str(path), **settings).read())


def test_a_file_is_a_document_as_it_is_with_its_relative_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_bytes(b"one\r\n\ttwo \n")
    (tmp_path / "b.md").write_bytes(b"\xef\xbb\xbf# three")
    assert read(tmp_path) == [
        Document(document_id("# three"), "# three", "c", "b.md", None),
        Document(document_id("one\r\n\ttwo \n"), "one\r\n\ttwo \n", "c", "sub/a.py", None),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"caf\xe9", "not_utf8"), (b"", "empty"), (b" \n", "empty"), (b"x" * 30, "too_long"), (b"x" * 100, "too_long")],
)
def test_file_that_can_not_be_used_is_a_reject_and_the_run_goes_on(tmp_path, content, reason):
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_bytes(b"fine")
    rejected, document = read(tmp_path, max_characters=20)
    assert (rejected.reason, rejected.source, rejected.line) == (reason, "a.txt", None)
    assert document.content == "fine"


def test_file_that_can_not_be_opened_is_a_corpus_error(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(CorpusError, match=r"a\.txt can't be read"):
        read(tmp_path)

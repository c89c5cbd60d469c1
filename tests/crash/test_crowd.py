"""Four writers, two readers and a student on one lake at once, and one writer is killed in the middle of a commit."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from logitlake.storage.identity import document_id
from logitlake.storage.lake.lake import Lake
from tests.crash.contents import disorder, doubled, facts_of, torn_documents
from tests.crash.crowd import UNITS, learn, read, start, unit_names, write
from tests.crash.site import Site, make_site

pytestmark = pytest.mark.slow
WRITERS = 4


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A lake with documents of a tiny teacher, made rows and a student."""
    monkeypatch.setenv("LOGITLAKE_CACHE", str(tmp_path / "cache"))
    catalog = request.getfixturevalue("postgres") if request.param == "postgres" else None
    return make_site(tmp_path, catalog=catalog)


def test_readers_see_whole_documents_once_while_writers_commit_and_one_is_killed(site: Site) -> None:
    with Lake.open(site.location) as lake:
        before = facts_of(lake)
    readers = [start(read, site) for _ in range(2)]
    student = start(learn, site)
    killed = start(write, site, 0, kill_at=f"rows-registered:{UNITS // 2}")
    writers = [start(write, site, number) for number in range(1, WRITERS)]

    killed.finish()
    assert killed.process.exitcode == -signal.SIGKILL, killed.error
    # Its work is taken up by another process while the others go on.
    writers.append(start(write, site, 0))
    for worker in (*writers, student):
        worker.finish()
        assert worker.error == ""
    for reader in readers:
        reader.pipe.send("stop")
        reader.finish()
        assert (reader.answer, reader.error) == ([], "")

    with Lake.open(site.location) as lake:
        now, problems = facts_of(lake), disorder(lake)
    assert [*problems, *doubled(now), *torn_documents(now)] == []
    names = {name for number in range(WRITERS) for unit in range(UNITS) for name in unit_names(number, unit)}
    new = Counter(fact[1] for fact in now - before if fact[0] == "document")
    assert new == Counter(map(document_id, names))
    assert student.answer in {fact[1] for fact in now if fact[0] == "student"}

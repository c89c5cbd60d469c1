"""What a lake holds, as facts that can be compared before and after a kill; and whether it is in order.

A fact is a tuple of texts: its kind, its key, and what belongs to it. The contents count how often each fact is there.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from logitlake.storage.verification.history import examine, unknown_files
from logitlake.storage.verification.verify import verify, verify_tables
from tests.crash.rows import CORPUS

Fact = tuple[str, ...]
Contents = Counter[Fact]

# The rows of a real teacher may differ in the last digit when a killed capture is done again in other batches: their
# hashes are checked by `verify`, not compared.
_FACTS = f"""
    SELECT ['sequence', doc_id, recipe_id, window_index::VARCHAR, unit_id,
        CASE WHEN corpus = '{CORPUS}' THEN row_hash::VARCHAR ELSE '' END] AS fact FROM store.sequences
    UNION ALL SELECT ['document', doc_id, recipe_id, unit_id, n_tokens::VARCHAR, n_sequences::VARCHAR]
        FROM store.documents
    UNION ALL SELECT ['source', doc_id, corpus, source, coalesce(line::VARCHAR, '')] FROM store.document_sources
    UNION ALL SELECT ['commit', unit_id, recipe_id, n_documents::VARCHAR] FROM store.commits
        WHERE unit_id IN (SELECT unit_id FROM store.documents)
    UNION ALL SELECT ['decision', alias, student_id, decision, run_id] FROM store.promotions
    UNION ALL SELECT DISTINCT ['forgotten', doc_id] FROM store.tombstones
    UNION ALL SELECT DISTINCT ['recipe', recipe_id] FROM store.recipes
    UNION ALL SELECT DISTINCT ['row set', row_set_id] FROM store.row_sets
    UNION ALL SELECT DISTINCT ['student', student_id, parent_id, row_set_id] FROM store.students
    UNION ALL SELECT DISTINCT ['token', tokenizer_id, token_id::VARCHAR, token] FROM store.vocabulary
    UNION ALL SELECT DISTINCT ['event', run_id, event] FROM store.run_events
"""
# Kinds of facts that belong to a document: key is the document.
OF_DOCUMENTS = ("sequence", "document", "source")


def facts_of(lake: Lake) -> Contents:
    """Everything that the lake holds."""
    return Counter(tuple(fact) for fact in lake.sql(_FACTS)["fact"].to_pylist())


def contents_of(location: LakeLocation) -> Contents:
    """Everything that the lake at this place holds."""
    with Lake.open(location) as lake:
        return facts_of(lake)


def without_events(contents: Contents) -> Contents:
    """The contents less the events of runs: every run adds some, and a killed one is among them."""
    return Counter({fact: count for fact, count in contents.items() if fact[0] != "event"})


def disorder(lake: Lake) -> list[str]:
    """What is wrong with the lake, whatever it should hold: damaged rows, commits that the catalog misses."""
    problems = [check.problem for check in verify(lake) if check.problem]
    problems += [check.problem for check in verify_tables(lake) if check.problem]
    problems += [f"the catalog does not know {missing}" for missing in examine(lake, unknown_files(lake)).missing]
    return problems


def doubled(contents: Contents) -> list[str]:
    """Facts that are there more than once."""
    return [f"{count} times: {' '.join(fact)}" for fact, count in sorted(contents.items()) if count > 1]


def torn_documents(contents: Contents) -> list[str]:
    """Documents without all of their windows, and windows without their document."""
    windows: dict[tuple[str, str, str], list[int]] = {}
    for fact in contents:
        if fact[0] == "sequence":
            windows.setdefault((fact[1], fact[2], fact[4]), []).append(int(fact[3]))
    documents = {fact[1:4]: int(fact[5]) for fact in contents if fact[0] == "document"}
    problems = [f"windows without their document: {' '.join(key)}" for key in windows if key not in documents]
    return problems + [
        f"document {' '.join(key)}: expected {count} windows, found {sorted(windows.get(key, []))}"
        for key, count in documents.items()
        if sorted(windows.get(key, [])) != list(range(count))
    ]


def differences(expected: Contents, present: Contents) -> list[str]:
    """Facts that are lost, and facts that nobody expected; runs may have noted more events."""
    return [*lost(expected, present), *appeared(expected, present, lambda fact: fact[0] == "event")]


def lost(expected: Contents, present: Contents, allowed: Callable[[Fact], bool] = lambda fact: False) -> list[str]:
    """Facts that are not there any more, less the allowed ones."""
    return _described("lost", (fact for fact in expected - present if not allowed(fact)))


def appeared(expected: Contents, present: Contents, allowed: Callable[[Fact], bool] = lambda fact: False) -> list[str]:
    """Facts that were not there before, less the allowed ones."""
    return _described("appeared", (fact for fact in present - expected if not allowed(fact)))


def _described(what: str, facts: Iterable[Fact]) -> list[str]:
    return [f"{what}: {' '.join(fact)}" for fact in sorted(facts)]

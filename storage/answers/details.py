"""Details of one document, one recipe or one student."""

import re
from typing import Any

import pyarrow as pa

from logitlake.storage.answers.listings import ancestry
from logitlake.storage.errors import LakeError
from logitlake.storage.lake.lake import Lake

_CANDIDATES = 8


_ID = re.compile(r"[0-9a-f]{1,64}")


def find_document(lake: Lake, name: str) -> str:
    """Id of the one document that `name` means: the beginning of an id, corpus/source, or the end of a source's path.

    `:LINE` chooses one document of a source with several. Raises LakeError naming the candidates.
    """
    for question, parameters in _questions(name):
        rows = lake.sql(question, parameters).to_pylist()
        doc_ids = {row["doc_id"] for row in rows}
        if len(doc_ids) == 1:
            return str(doc_ids.pop())
        if doc_ids:
            raise LakeError(_several(name, rows, len(doc_ids)))
    raise LakeError(
        f"no document {name!r} in this lake: give the beginning of an id, a source as corpus/path, or the end of its "
        "path (`logitlake show documents` lists some; rejected or forgotten ones are not there)"
    )


def document_facts(lake: Lake, doc_id: str) -> dict[str, Any]:
    """`sources`: where it was seen; `recipes`: a row for each that cached it, newest first, with means in nats."""
    sources = lake.sql(
        "SELECT corpus, source, line FROM sources WHERE doc_id = ? ORDER BY corpus, source, line", [doc_id]
    )
    recipes = lake.sql(
        """
        SELECT
            s.recipe_id, r.teacher, any_value(s.held_out) AS held_out, max(s.commit_number) AS commit_number,
            count(*) AS sequences, max(s.start + s.n_tokens)::BIGINT AS tokens, sum(s.n_targets)::BIGINT AS targets,
            sum(s.mean_entropy * s.n_targets) / sum(s.n_targets) AS mean_entropy,
            -sum(s.mean_logprob * s.n_targets) / sum(s.n_targets) AS mean_surprise
        FROM sequences AS s JOIN recipes AS r USING (recipe_id)
        WHERE s.doc_id = ? GROUP BY s.recipe_id, r.teacher ORDER BY commit_number DESC
        """,
        [doc_id],
    )
    return {"doc_id": doc_id, "sources": sources.to_pylist(), "recipes": recipes.to_pylist()}


def document_tokens(lake: Lake, doc_id: str, recipe_id: str) -> pa.Table:
    """position, token_id, token, logprob, entropy: a row per token of the document, each once, in its order.

    `token` is as in the vocabulary (see pipeline.tokens.token_text); `logprob` and `entropy`
    are the teacher's, in nats, NULL where it had no target: at the beginning, and in prompts.
    """
    return lake.sql(
        """
        SELECT t.position, t.token_id, v.token, t.logprob, t.entropy
        FROM (
            SELECT position, any_value(token_id) AS token_id, max(logprob) AS logprob, max(entropy) AS entropy
            FROM (
                SELECT
                    start + i AS position, input_ids[i + 1] AS token_id,
                    -nats(nll_codes[i], nll_steps_per_nat) AS logprob, nats(entropy_codes[i]) AS entropy
                FROM (
                    SELECT start, input_ids, nll_codes, nll_steps_per_nat, entropy_codes, unnest(range(n_tokens)) AS i
                    FROM sequences WHERE doc_id = $doc_id AND recipe_id = $recipe_id
                )
            )
            GROUP BY position
        ) AS t
        LEFT JOIN (
            SELECT token_id, token FROM vocabulary
            WHERE tokenizer_id = (SELECT tokenizer_id FROM recipes WHERE recipe_id = $recipe_id)
        ) AS v USING (token_id)
        ORDER BY t.position
        """,
        {"doc_id": doc_id, "recipe_id": recipe_id},
    )


def _questions(name: str) -> list[tuple[str, list[Any]]]:
    """Queries for what the name may mean, the most exact first."""
    source, _, line = name.rpartition(":")
    questions: list[tuple[str, list[Any]]] = []
    if _ID.fullmatch(name):
        questions.append((_CALLED, [name]))
    paths = [(name, "true")]
    if source and line.isdigit():
        paths.insert(0, (source, f"line = {int(line)}"))
    for path, condition in paths:
        for match in ("corpus || '/' || source = ?", "source = ?", "ends_with(source, '/' || ?)"):
            questions.append((_SEEN.format(condition=f"{match} AND {condition}"), [path]))
    return questions


_CALLED = "SELECT DISTINCT doc_id, sources[1] AS place FROM documents WHERE starts_with(doc_id, ?) ORDER BY doc_id"


_SEEN = """
    SELECT doc_id, corpus || '/' || source || coalesce(':' || line, '') AS place
    FROM sources WHERE {condition} AND doc_id IN (SELECT doc_id FROM documents) ORDER BY place, doc_id"""


def _several(name: str, rows: list[dict[str, Any]], n_documents: int) -> str:
    shown = [f"  {row['doc_id']}  {row['place'] or ''}".rstrip() for row in rows[:_CANDIDATES]]
    more = [f"  … {len(rows) - _CANDIDATES:,} more"] if len(rows) > _CANDIDATES else []
    return "\n".join([f"{name!r} means {n_documents:,} documents; name one of them:", *shown, *more])


def recipe_facts(lake: Lake, recipe_id: str) -> dict[str, Any]:
    """`holds`: its counts and what they take; `captures`: the runs that made it; `students`: who learned from it."""
    holds = lake.row(
        """
        SELECT
            count(*) AS documents, count(*) FILTER (held_out) AS held_out_documents,
            coalesce(sum(n_sequences), 0)::BIGINT AS sequences, coalesce(sum(n_tokens), 0)::BIGINT AS tokens
        FROM documents WHERE recipe_id = ?
        """,
        [recipe_id],
    )
    commits = lake.row(
        """
        SELECT
            count(*) AS commits, sum(n_targets)::BIGINT AS targets, sum(n_bytes)::BIGINT AS n_bytes,
            sum(n_bytes) / nullif(sum(n_tokens), 0) AS bytes_per_token,
            sum(seconds) / 3600 AS teacher_hours,
            sum(n_tokens) FILTER (seconds > 0) / nullif(sum(seconds), 0) AS tokens_per_second,
            min(committed_at) AS first_commit_at, max(committed_at) AS last_commit_at
        FROM commits WHERE recipe_id = ?
        """,
        [recipe_id],
    )
    captures = lake.sql(
        """
        SELECT run_id, status, started_at, n_documents, n_tokens::BIGINT AS n_tokens, tokens_per_second
        FROM runs WHERE recipe_id = ? AND kind = 'capture' ORDER BY started_at DESC LIMIT 5
        """,
        [recipe_id],
    )
    students = lake.sql(
        """
        SELECT student_id, s.created_at, n_sequences, up_to_commit, filter
        FROM students AS s JOIN row_sets AS r USING (row_set_id)
        WHERE list_contains(recipe_ids, ?) ORDER BY s.created_at DESC LIMIT 5
        """,
        [recipe_id],
    )
    return {"holds": {**holds, **commits}, "captures": captures.to_pylist(), "students": students.to_pylist()}


def student_facts(lake: Lake, student_id: str) -> dict[str, Any]:
    """`row_set`: what it was trained on; `aliases` and `decisions` about it; `lineage`; `children`."""
    row_set = lake.row(
        """
        SELECT row_set_id, recipe_ids, up_to_commit, filter, weight, n_sequences, n_tokens, n_targets, content_hash
        FROM row_sets WHERE row_set_id = (SELECT row_set_id FROM students WHERE student_id = ?)
        """,
        [student_id],
    )
    aliases = lake.sql("SELECT alias FROM aliases WHERE student_id = ? ORDER BY alias", [student_id])
    decisions = lake.sql(
        """
        SELECT decided_at, decision, alias, figures ->> '$.reason' AS reason
        FROM promotions WHERE student_id = ? ORDER BY commit_number
        """,
        [student_id],
    )
    children = lake.sql("SELECT student_id FROM students WHERE parent_id = ? ORDER BY created_at", [student_id])
    return {
        "row_set": row_set,
        "aliases": aliases["alias"].to_pylist(),
        "decisions": decisions.to_pylist(),
        "lineage": ancestry(lake, student_id).to_pylist(),
        "children": children["student_id"].to_pylist(),
    }

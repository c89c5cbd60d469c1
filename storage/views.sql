-- The SQL face: views in the schema `main`, made again whenever a newer logitlake opens the lake for writing.
-- Probabilities are at the recipe's temperature; entropies and log-probabilities of real tokens at temperature 1, in nats.
-- $held_out stands for the lake's own rule (salted hash of the document id), put in when the views are made.

-- Sequences reached through the documents, for the views below: a look-up by document finds its unit first, and with it the
-- one shard to open among thousands. `|| ''` keeps the condition out of the catalog's file statistics, which would be read
-- for the small table `documents` as well, at a cost that grows with the number of shards.
CREATE OR REPLACE VIEW store.found_sequences AS
SELECT s.* EXCLUDE (doc_id), d.doc_id
FROM store.sequences AS s
JOIN (SELECT unit_id, doc_id || '' AS doc_id FROM store.documents) AS d ON s.unit_id = d.unit_id AND s.doc_id = d.doc_id;

-- One row per cached sequence (a document, or a window of a long one): what `training.where` is a condition over.
CREATE OR REPLACE VIEW sequences AS
SELECT
    s.recipe_id, s.doc_id, s.window_index, s.start, s.corpus, s.source, s.n_tokens, s.n_targets,
    s.mean_entropy, -s.mean_nll AS mean_logprob, c.commit_number, $held_out AS held_out, s.unit_id, s.checksum,
    s.levels, s.input_ids, s.target_ids, s.head_codes, s.entropy_codes, s.nll_codes
FROM store.found_sequences AS s
JOIN (SELECT unit_id, max(commit_number) AS commit_number FROM store.commits GROUP BY unit_id) AS c USING (unit_id);

-- One row per document and recipe that cached it.
CREATE OR REPLACE VIEW documents AS
SELECT s.doc_id, s.recipe_id, s.n_tokens, s.n_sequences, o.sources, c.commit_number, $held_out AS held_out
FROM store.documents AS s
JOIN (SELECT unit_id, max(commit_number) AS commit_number FROM store.commits GROUP BY unit_id) AS c USING (unit_id)
LEFT JOIN (
    SELECT doc_id, list(DISTINCT corpus || '/' || source ORDER BY corpus || '/' || source) AS sources
    FROM store.document_sources GROUP BY doc_id
) AS o USING (doc_id);

-- Where each document was seen: the same content may come from many files.
CREATE OR REPLACE VIEW sources AS SELECT DISTINCT doc_id, corpus, source, line FROM store.document_sources;

CREATE OR REPLACE VIEW commits AS SELECT * FROM store.commits;

CREATE OR REPLACE VIEW recipes AS
SELECT
    recipe_id,
    recipe ->> '$.teacher.name' AS teacher,
    recipe ->> '$.tokenizer' AS tokenizer_id,
    recipe ->> '$.sparsifier.name' AS sparsifier,
    (recipe ->> '$.temperature')::DOUBLE AS temperature,
    created_at, c.n_commits, c.n_documents, c.n_sequences, c.n_tokens, c.n_targets, c.n_bytes,
    c.n_bytes / c.n_tokens AS bytes_per_token,
    recipe
FROM (SELECT recipe_id, any_value(recipe) AS recipe, min(created_at) AS created_at FROM store.recipes GROUP BY recipe_id)
LEFT JOIN (
    SELECT
        recipe_id, count(*) AS n_commits, sum(n_documents) AS n_documents, sum(n_sequences) AS n_sequences,
        sum(n_tokens) AS n_tokens, sum(n_targets) AS n_targets, sum(n_bytes) AS n_bytes
    FROM store.commits GROUP BY recipe_id
) AS c USING (recipe_id);

CREATE OR REPLACE VIEW vocabulary AS SELECT DISTINCT * FROM store.vocabulary;

-- One row per position that has a target, without token text: the leanest form for sums over everything. Lists are indexed
-- and not unnested: what a query does not name is then not read.
CREATE OR REPLACE VIEW statistics AS
SELECT
    recipe_id, doc_id, window_index, start + i AS position, input_ids[i + 1] AS token_id,
    entropy_codes[i] / 32 AS entropy, -(nll_codes[i] / 32) AS logprob,
    len(head_codes[i]) AS n_heads, len(target_ids[i]) - len(head_codes[i]) AS n_tails,
    1 - coalesce(list_sum(head_codes[i]), 0) / levels AS residual_mass, held_out
FROM (
    SELECT
        recipe_id, doc_id, window_index, start, levels, input_ids, target_ids, head_codes, entropy_codes, nll_codes,
        $held_out AS held_out, unnest(range(1, n_tokens)) AS i
    FROM store.found_sequences AS s
)
WHERE entropy_codes[i] IS NOT NULL;

-- The same with the text of the real token at `position` of its document: what the teacher thought of it given everything
-- before.
CREATE OR REPLACE VIEW positions AS
SELECT
    p.recipe_id, p.doc_id, p.window_index, p.position, p.token_id, v.token, p.entropy, p.logprob, p.n_heads, p.n_tails,
    p.residual_mass, p.held_out
FROM statistics AS p
JOIN recipes AS r USING (recipe_id)
LEFT JOIN store.vocabulary AS v ON v.tokenizer_id = r.tokenizer_id AND v.token_id = p.token_id;

-- What every position keeps, for the views below. A tail id's probability is worked out before the lists are unnested.
CREATE OR REPLACE VIEW store.kept AS
SELECT
    recipe_id, doc_id, window_index, start + i AS position, levels, ids, codes,
    (1 - coalesce(list_sum(codes), 0) / levels) / nullif(len(ids) - len(codes), 0) AS tail_probability
FROM (
    SELECT
        recipe_id, doc_id, window_index, start, levels,
        unnest(range(1, n_tokens + 1)) AS i, unnest(target_ids) AS ids, unnest(head_codes) AS codes
    FROM store.found_sequences
);

-- One row per cached probability, heads and tails, without token text.
CREATE OR REPLACE VIEW targets AS
SELECT
    recipe_id, doc_id, window_index, position, token_id, code IS NOT NULL AS is_head,
    coalesce(code / levels, tail_probability) AS probability
FROM (
    SELECT
        recipe_id, doc_id, window_index, position, levels, tail_probability, unnest(ids) AS token_id, unnest(codes) AS code
    FROM store.kept
);

-- The ids kept with their own probability, most probable first.
CREATE OR REPLACE VIEW heads AS
SELECT
    t.recipe_id, t.doc_id, t.window_index, t.position, t.rank, t.ids[t.rank] AS token_id, v.token,
    t.code / t.levels AS probability, ln(t.code / t.levels) AS logprob
FROM (
    SELECT
        recipe_id, doc_id, window_index, position, levels, ids, unnest(codes) AS code,
        unnest(range(1, len(codes) + 1)) AS rank
    FROM store.kept
) AS t
JOIN recipes AS r USING (recipe_id)
LEFT JOIN store.vocabulary AS v ON v.tokenizer_id = r.tokenizer_id AND v.token_id = t.ids[t.rank];

-- The ids that share the residual mass equally; one that stands twice counts twice.
CREATE OR REPLACE VIEW tails AS
SELECT t.recipe_id, t.doc_id, t.window_index, t.position, t.token_id, v.token, t.probability
FROM targets AS t
JOIN recipes AS r USING (recipe_id)
LEFT JOIN store.vocabulary AS v ON v.tokenizer_id = r.tokenizer_id AND v.token_id = t.token_id
WHERE NOT t.is_head;

-- One row per execution of a flow, with what it committed.
CREATE OR REPLACE VIEW runs AS
SELECT
    e.run_id, e.kind, e.recipe_id, e.started_at, e.ended_at, coalesce(e.status, 'started') AS status,
    coalesce(c.n_documents, 0) AS n_documents, coalesce(c.n_tokens, 0) AS n_tokens, coalesce(c.n_bytes, 0) AS n_bytes,
    coalesce(c.seconds, 0) AS teacher_seconds, c.n_tokens / nullif(c.seconds, 0) AS tokens_per_second,
    c.first_commit, c.last_commit, e.detail
FROM (
    SELECT
        run_id, min(kind) AS kind, max(recipe_id) AS recipe_id,
        min(happened_at) FILTER (event = 'started') AS started_at,
        max(happened_at) FILTER (event IN ('finished', 'failed', 'interrupted')) AS ended_at,
        arg_max(event, happened_at) FILTER (event <> 'started') AS status,
        arg_max(detail, happened_at) AS detail
    FROM store.run_events GROUP BY run_id
) AS e
LEFT JOIN (
    SELECT
        run_id, sum(n_documents) AS n_documents, sum(n_tokens) AS n_tokens, sum(n_bytes) AS n_bytes,
        sum(seconds) AS seconds, min(commit_number) AS first_commit, max(commit_number) AS last_commit
    FROM store.commits GROUP BY run_id
) AS c USING (run_id);

CREATE OR REPLACE VIEW row_sets AS SELECT DISTINCT ON (row_set_id) * FROM store.row_sets ORDER BY row_set_id, created_at;

CREATE OR REPLACE VIEW students AS
SELECT DISTINCT ON (student_id) * FROM store.students ORDER BY student_id, created_at DESC;

-- What each student lost on each document it was measured on, means over targets in nats; the last measurement of the
-- most targets. Where `gap` is large the student has most to learn.
CREATE OR REPLACE VIEW student_losses AS
SELECT
    s.student_id, s.recipe_id, s.doc_id, s.n_targets, s.student_loss / s.n_targets AS student_loss,
    s.teacher_loss / s.n_targets AS teacher_loss, (s.student_loss - s.teacher_loss) / s.n_targets AS gap,
    s.kl / s.n_targets AS kl, s.exact, $held_out AS held_out, s.run_id, s.measured_at
FROM (
    SELECT DISTINCT ON (student_id, recipe_id, doc_id) * FROM store.student_losses
    ORDER BY student_id, recipe_id, doc_id, n_targets DESC, measured_at DESC
) AS s;

-- Every decision about a candidate, and what each alias (such as `current`) stands for now.
CREATE OR REPLACE VIEW promotions AS SELECT DISTINCT * FROM store.promotions;

CREATE OR REPLACE VIEW aliases AS
SELECT alias, arg_max(student_id, commit_number) AS student_id, max(commit_number) AS since_commit
FROM store.promotions WHERE decision <> 'rejected' GROUP BY alias;

-- Every student with each of its ancestors (depth 0 is the student itself) and what that ancestor saw.
CREATE OR REPLACE VIEW lineage AS
WITH RECURSIVE chain AS (
    SELECT student_id, student_id AS ancestor_id, parent_id, row_set_id, run_id, 0 AS depth FROM students
    UNION ALL
    SELECT c.student_id, s.student_id, s.parent_id, s.row_set_id, s.run_id, c.depth + 1
    FROM chain AS c JOIN students AS s ON s.student_id = c.parent_id
)
SELECT
    c.student_id, c.depth, c.ancestor_id, c.parent_id, c.row_set_id, r.recipe_ids, r.up_to_commit, r.filter, r.weight,
    r.n_sequences, r.n_targets, c.run_id
FROM chain AS c LEFT JOIN row_sets AS r USING (row_set_id);

-- What could not be used, once each, however often it was met.
CREATE OR REPLACE VIEW rejects AS
SELECT corpus, source, line, reason, any_value(detail) AS detail, min(seen_at) AS first_seen, max(seen_at) AS last_seen
FROM store.rejects GROUP BY corpus, source, line, reason;

CREATE OR REPLACE VIEW forgotten AS SELECT DISTINCT * FROM store.tombstones;

-- Scalar helpers for people who read `sequences` raw.
CREATE OR REPLACE MACRO head_probability(code, levels) AS code / levels;
CREATE OR REPLACE MACRO tail_probability(codes, ids, levels) AS
    (1 - coalesce(list_sum(codes), 0) / levels) / nullif(len(ids) - len(codes), 0);
CREATE OR REPLACE MACRO nats(code) AS code / 32;

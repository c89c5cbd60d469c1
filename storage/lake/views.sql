-- The views and macros of the schema `main`: what people query. A newer logitlake makes them again when it opens the lake
-- for writing.
-- Probabilities are at the recipe's temperature; entropies and log-probabilities of real tokens at temperature 1, in nats.
-- $held_out is replaced by the lake's held-out rule (salted hash of the document id) when the views are made.

-- The sequences whose document is in `documents`, for the views below: a look-up by document id finds the work unit first,
-- and with it the one shard to open. `|| ''` keeps a condition on `doc_id` away from the file statistics of both tables:
-- reading those would cost more with every shard. Row groups without the document are skipped all the same.
CREATE OR REPLACE VIEW store.visible_sequences AS
SELECT s.* EXCLUDE (doc_id), d.doc_id
FROM store.sequences AS s
JOIN (SELECT unit_id, doc_id || '' AS doc_id FROM store.documents) AS d ON s.unit_id = d.unit_id AND s.doc_id || '' = d.doc_id;

-- One row per cached sequence (a document, or a window of a long one): what `training.where` is a condition over.
CREATE OR REPLACE VIEW sequences AS
SELECT
    s.recipe_id, s.doc_id, s.window_index, s.start, s.corpus, s.source, s.n_tokens, s.n_targets,
    s.mean_entropy, -s.mean_nll AS mean_logprob, c.commit_number, $held_out AS held_out, s.unit_id, s.checksum,
    s.levels, s.input_ids, s.target_ids, s.head_codes, s.entropy_codes, s.nll_codes,
    s.nll_steps_per_nat, s.targets_hash, s.row_hash,
    s.writer, s.sampling_settings, s.sampling_seed, s.sample_number, s.writer_nll_codes, s.writer_nll_steps_per_nat,
    s.verdict, s.verdict_reason
FROM store.visible_sequences AS s
JOIN (SELECT unit_id, max(commit_number) AS commit_number FROM store.commits GROUP BY unit_id) AS c USING (unit_id);

-- One row per document and recipe that cached it.
CREATE OR REPLACE VIEW documents AS
SELECT
    s.doc_id, s.recipe_id, s.n_tokens, s.n_sequences, o.sources[1] AS source, o.sources, c.commit_number,
    $held_out AS held_out
FROM store.documents AS s
JOIN (SELECT unit_id, max(commit_number) AS commit_number FROM store.commits GROUP BY unit_id) AS c USING (unit_id)
LEFT JOIN (
    SELECT doc_id, list(DISTINCT corpus || '/' || source ORDER BY corpus || '/' || source) AS sources
    FROM store.document_sources GROUP BY doc_id
) AS o USING (doc_id);

-- Where each document was seen: the same content may come from many files.
CREATE OR REPLACE VIEW sources AS SELECT DISTINCT doc_id, corpus, source, line FROM store.document_sources;

-- Completions that a model wrote for prompts, with the last verdict on each. A sample is there once, also if two processes
-- wrote it.
CREATE OR REPLACE VIEW traces AS
SELECT
    s.doc_id, s.prompt_id, s.sampling_id, s.sample_number, s.writer, s.completion, v.score, v.is_kept, v.reason,
    s.finished, len(s.prompt_ids) AS n_prompt_tokens, len(s.completion_ids) AS n_completion_tokens,
    list_avg(s.logprobs) AS mean_logprob, $held_out AS held_out, s.commit_number, s.prompt_ids, s.completion_ids,
    s.logprobs, s.sampling, s.tokenizer_id, v.verifier_id, v.verifier, s.prompt_doc_id, s.corpus, s.source, s.line,
    s.run_id, s.written_at
FROM (
    SELECT DISTINCT ON (prompt_id, sampling_id, sample_number) * FROM store.traces
    ORDER BY prompt_id, sampling_id, sample_number, commit_number
) AS s
LEFT JOIN (
    SELECT DISTINCT ON (doc_id) * FROM store.verdicts ORDER BY doc_id, commit_number DESC, judged_at DESC
) AS v ON v.doc_id = s.doc_id;

CREATE OR REPLACE VIEW commits AS
SELECT
    commit_number, unit_id, recipe_id, run_id, committed_at, n_documents, n_sequences, n_tokens, n_targets, n_bytes, seconds
FROM store.commits;

-- What readers must know of a recipe's targets; of recipes that do not say it themselves, from a list of the old ones.
CREATE OR REPLACE VIEW store.target_facts AS
SELECT
    recipe_id,
    coalesce(
        any_value(recipe::JSON -> 'facts'),
        $facts_of_old_recipes::JSON -> any_value(recipe ->> '$.sparsifier.name')
    ) AS facts
FROM store.recipes GROUP BY recipe_id;

CREATE OR REPLACE VIEW recipes AS
SELECT
    recipe_id,
    recipe ->> '$.teacher.name' AS teacher,
    facts ->> '$.teacher.model' AS teacher_model,
    facts ->> '$.teacher.revision' AS teacher_revision,
    facts ->> '$.teacher.licence' AS teacher_licence,
    (facts -> '$.teacher.base_models')::VARCHAR[] AS teacher_base_models,
    recipe ->> '$.tokenizer' AS tokenizer_id,
    recipe ->> '$.sparsifier.name' AS sparsifier,
    (facts ->> 'unbiased')::BOOLEAN AS unbiased,
    (facts ->> 'cuts_mass')::BOOLEAN AS cuts_mass,
    facts ->> 'heads' AS heads,
    facts ->> 'teacher_gives' AS teacher_gives,
    recipe ->> '$.teacher.served_as' AS served_as,
    (recipe ->> '$.temperature')::DOUBLE AS temperature,
    created_at, c.n_commits, c.n_documents, c.n_sequences, c.n_tokens, c.n_targets, c.n_bytes,
    c.n_bytes / c.n_tokens AS bytes_per_token,
    recipe
FROM (SELECT recipe_id, any_value(recipe) AS recipe, min(created_at) AS created_at FROM store.recipes GROUP BY recipe_id)
JOIN store.target_facts USING (recipe_id)
LEFT JOIN (
    SELECT
        recipe_id, count(*) AS n_commits, sum(n_documents) AS n_documents, sum(n_sequences) AS n_sequences,
        sum(n_tokens) AS n_tokens, sum(n_targets) AS n_targets, sum(n_bytes) AS n_bytes
    FROM store.commits GROUP BY recipe_id
) AS c USING (recipe_id);

CREATE OR REPLACE VIEW vocabulary AS SELECT DISTINCT tokenizer_id, token_id, token, is_special FROM store.vocabulary;

-- One row per document and recipe that cached it, with what its rows say: how well the teacher knew it, and how it begins.
-- Apart from `documents`, which reads no shard. Means are over targets; control tokens are left out of the text.
CREATE OR REPLACE VIEW document_texts AS
SELECT
    s.doc_id, s.recipe_id, s.corpus, s.source, s.n_tokens, s.n_targets, s.mean_entropy, s.mean_logprob, t.beginning,
    $held_out AS held_out
FROM (
    SELECT
        doc_id, recipe_id, arg_min(corpus, start) AS corpus, arg_min(corpus || '/' || source, start) AS source,
        sum(n_tokens)::BIGINT AS n_tokens, sum(n_targets)::BIGINT AS n_targets,
        sum(mean_entropy * n_targets) / nullif(sum(n_targets), 0) AS mean_entropy,
        -sum(mean_nll * n_targets) / nullif(sum(n_targets), 0) AS mean_logprob
    FROM store.visible_sequences GROUP BY doc_id, recipe_id
) AS s
LEFT JOIN (
    SELECT u.doc_id, u.recipe_id, string_agg(v.token, '' ORDER BY u.i) AS beginning
    FROM (
        SELECT doc_id, recipe_id, unnest(range(24)) AS i, unnest(ids) AS token_id
        -- A first window without targets, such as that of a long prompt, is not stored.
        FROM (
            SELECT doc_id, recipe_id, arg_min(input_ids[1:24], window_index) AS ids
            FROM store.visible_sequences GROUP BY doc_id, recipe_id
        )
    ) AS u
    JOIN recipes AS r USING (recipe_id)
    JOIN vocabulary AS v ON v.tokenizer_id = r.tokenizer_id AND v.token_id = u.token_id AND NOT v.is_special
    GROUP BY u.doc_id, u.recipe_id
) AS t USING (doc_id, recipe_id);

-- One row per position that has a target. Lists are indexed and not unnested: what a query does not name is then not read,
-- but for the codes. Imported targets know the log-probability of the real token only where it is an entry.
-- `first_head` is the stored id with the greatest probability of its own: NULL where no id has one.
CREATE OR REPLACE VIEW store.position_statistics AS
SELECT
    recipe_id, doc_id, window_index, start + i AS position, input_ids[i + 1] AS token_id,
    entropy_codes[i] / 32 AS entropy, -(nll_codes[i] / coalesce(nll_steps_per_nat, 32)) AS logprob,
    -(writer_nll_codes[i] / coalesce(writer_nll_steps_per_nat, 32)) AS writer_logprob,
    len(head_codes[i]) AS n_heads, len(target_ids[i]) - len(head_codes[i]) AS n_tails,
    1 - coalesce(list_sum(head_codes[i]), 0) / levels AS residual_mass, held_out,
    CASE WHEN len(head_codes[i]) > 0 THEN target_ids[i][1] END AS first_head
FROM (
    SELECT
        recipe_id, doc_id, window_index, start, levels, input_ids, target_ids, head_codes, entropy_codes, nll_codes,
        nll_steps_per_nat, writer_nll_codes, writer_nll_steps_per_nat,
        $held_out AS held_out, unnest(range(1, n_tokens)) AS i
    FROM store.visible_sequences AS s
)
WHERE nll_codes[i] IS NOT NULL OR len(head_codes[i]) > 0;

-- Positions without token text: the leanest form for sums over everything.
CREATE OR REPLACE VIEW statistics AS SELECT * EXCLUDE (first_head) FROM store.position_statistics;

-- `statistics` with the text of the real token at `position` of the document, and the teacher's most probable token. Where
-- heads are counts of draws, the most frequent one need not be the most probable: then nothing is said. Where no id is
-- stored with a probability of its own, none was probable enough: that counts as not correct.
CREATE OR REPLACE VIEW positions AS
SELECT
    p.recipe_id, p.doc_id, p.window_index, p.position, p.token_id, v.token, p.likeliest_id, l.token AS likeliest,
    CASE WHEN p.heads = 'probabilities' THEN coalesce(p.likeliest_id = p.token_id, false) END AS correct,
    p.entropy, p.logprob, p.writer_logprob, p.n_heads, p.n_tails, p.residual_mass, p.held_out
FROM (
    SELECT s.*, r.tokenizer_id, r.heads, CASE WHEN r.heads = 'probabilities' THEN s.first_head END AS likeliest_id
    FROM store.position_statistics AS s JOIN recipes AS r USING (recipe_id)
) AS p
LEFT JOIN vocabulary AS v ON v.tokenizer_id = p.tokenizer_id AND v.token_id = p.token_id
LEFT JOIN vocabulary AS l ON l.tokenizer_id = p.tokenizer_id AND l.token_id = p.likeliest_id;

-- Heads and tails of every position as lists, for the views below. The probability of a tail id is computed before the lists
-- are unnested.
CREATE OR REPLACE VIEW store.position_targets AS
SELECT
    recipe_id, doc_id, window_index, start + i AS position, levels, ids, codes,
    (1 - coalesce(list_sum(codes), 0) / levels) / nullif(len(ids) - len(codes), 0) AS tail_probability
FROM (
    SELECT
        recipe_id, doc_id, window_index, start, levels,
        unnest(range(1, n_tokens + 1)) AS i, unnest(target_ids) AS ids, unnest(head_codes) AS codes
    FROM store.visible_sequences
);

-- One row per cached probability, heads and tails, without token text.
CREATE OR REPLACE VIEW targets AS
SELECT
    recipe_id, doc_id, window_index, position, token_id, code IS NOT NULL AS is_head,
    coalesce(code / levels, tail_probability) AS probability
FROM (
    SELECT
        recipe_id, doc_id, window_index, position, levels, tail_probability, unnest(ids) AS token_id, unnest(codes) AS code
    FROM store.position_targets
);

-- The ids that are stored with their own probability; rank 1 is the most probable.
CREATE OR REPLACE VIEW heads AS
SELECT
    t.recipe_id, t.doc_id, t.window_index, t.position, t.rank, t.ids[t.rank] AS token_id, v.token,
    t.code / t.levels AS probability, ln(t.code / t.levels) AS logprob
FROM (
    SELECT
        recipe_id, doc_id, window_index, position, levels, ids, unnest(codes) AS code,
        unnest(range(1, len(codes) + 1)) AS rank
    FROM store.position_targets
) AS t
JOIN recipes AS r USING (recipe_id)
LEFT JOIN vocabulary AS v ON v.tokenizer_id = r.tokenizer_id AND v.token_id = t.ids[t.rank];

-- The ids that share the residual mass equally; an id that occurs twice counts twice.
CREATE OR REPLACE VIEW tails AS
SELECT t.recipe_id, t.doc_id, t.window_index, t.position, t.token_id, v.token, t.probability
FROM targets AS t
JOIN recipes AS r USING (recipe_id)
LEFT JOIN vocabulary AS v ON v.tokenizer_id = r.tokenizer_id AND v.token_id = t.token_id
WHERE NOT t.is_head;

-- Documents that two recipes cached with the same tokens and whose distributions can be compared: same tokenizer, same
-- rule for BOS, same temperature, and heads that are probabilities and not counts of draws.
CREATE OR REPLACE VIEW store.comparable_documents AS
SELECT a.recipe_id AS recipe_a, b.recipe_id AS recipe_b, a.doc_id
FROM store.documents AS a
JOIN store.documents AS b ON a.doc_id = b.doc_id AND a.recipe_id < b.recipe_id
JOIN (
    SELECT DISTINCT
        recipe_id, recipe ->> ['$.tokenizer', '$.temperature', '$.bos'] AS alike, facts ->> 'heads' AS heads
    FROM store.recipes JOIN store.target_facts USING (recipe_id)
) AS ra ON ra.recipe_id = a.recipe_id
JOIN (
    SELECT DISTINCT
        recipe_id, recipe ->> ['$.tokenizer', '$.temperature', '$.bos'] AS alike, facts ->> 'heads' AS heads
    FROM store.recipes JOIN store.target_facts USING (recipe_id)
) AS rb ON rb.recipe_id = b.recipe_id
WHERE ra.alike = rb.alike AND ra.heads = 'probabilities' AND rb.heads = 'probabilities';

-- Where two teachers differ: a row per position that both cached. K is the set of ids that are heads of both: both
-- probabilities are known for them. Outside K only the totals are known, so total variation has a lower and an upper bound:
-- (Σ over K of |p-q| + |p(rest)-q(rest)|)/2 ≤ TV ≤ (Σ over K of |p-q| + p(rest) + q(rest))/2. KL over K and one bucket for
-- the rest is a lower bound of KL, by the data-processing inequality; there is no upper bound.
CREATE OR REPLACE VIEW disagreement AS
WITH a AS (
    SELECT recipe_a, recipe_b, doc_id, start + i AS position, levels, target_ids[i] AS ids, head_codes[i] AS codes
    FROM (
        SELECT
            p.recipe_a, p.recipe_b, s.doc_id, s.start, s.levels, s.target_ids, s.head_codes,
            unnest(range(1, s.n_tokens)) AS i
        FROM store.visible_sequences AS s
        JOIN store.comparable_documents AS p ON p.recipe_a = s.recipe_id AND p.doc_id = s.doc_id
    )
    WHERE len(target_ids[i]) > 0
),
b AS (
    SELECT recipe_a, recipe_b, doc_id, start + i AS position, levels, target_ids[i] AS ids, head_codes[i] AS codes
    FROM (
        SELECT
            p.recipe_a, p.recipe_b, s.doc_id, s.start, s.levels, s.target_ids, s.head_codes,
            unnest(range(1, s.n_tokens)) AS i
        FROM store.visible_sequences AS s
        JOIN store.comparable_documents AS p ON p.recipe_b = s.recipe_id AND p.doc_id = s.doc_id
    )
    WHERE len(target_ids[i]) > 0
),
common AS (
    SELECT
        a.recipe_a, a.recipe_b, a.doc_id, a.position, 1 / a.levels AS step_a, 1 / b.levels AS step_b,
        CASE WHEN len(a.codes) > 0 THEN a.ids[1] END AS likeliest_a,
        CASE WHEN len(b.codes) > 0 THEN b.ids[1] END AS likeliest_b,
        list_transform(
            list_filter(range(1, len(a.codes) + 1), lambda k: list_contains(b.ids[1 : len(b.codes)], a.ids[k])),
            lambda k: {'p': a.codes[k] / a.levels, 'q': b.codes[list_position(b.ids, a.ids[k])] / b.levels}
        ) AS heads
    FROM a JOIN b USING (recipe_a, recipe_b, doc_id, position)
),
summed AS (
    SELECT
        *, len(heads) AS n_common,
        coalesce(list_sum(list_transform(heads, lambda h: abs(h.p - h.q))), 0) AS apart,
        coalesce(list_sum(list_transform(heads, lambda h: h.p)), 0) AS common_a,
        coalesce(list_sum(list_transform(heads, lambda h: h.q)), 0) AS common_b,
        coalesce(list_sum(list_transform(heads, lambda h:
            CASE WHEN h.p > 0 THEN h.p * ln(h.p / greatest(h.q, step_b)) ELSE 0 END)), 0) AS kl_heads_ab,
        coalesce(list_sum(list_transform(heads, lambda h:
            CASE WHEN h.q > 0 THEN h.q * ln(h.q / greatest(h.p, step_a)) ELSE 0 END)), 0) AS kl_heads_ba
    FROM common
)
SELECT
    recipe_a, recipe_b, doc_id, position, likeliest_a, likeliest_b, n_common, common_a, common_b,
    (apart + abs(common_a - common_b)) / 2 AS tv_at_least,
    (apart + (1 - common_a) + (1 - common_b)) / 2 AS tv_at_most,
    greatest(0, kl_heads_ab + CASE WHEN common_a < 1
        THEN (1 - common_a) * ln((1 - common_a) / greatest(1 - common_b, step_b)) ELSE 0 END) AS kl_ab_at_least,
    greatest(0, kl_heads_ba + CASE WHEN common_b < 1
        THEN (1 - common_b) * ln((1 - common_b) / greatest(1 - common_a, step_a)) ELSE 0 END) AS kl_ba_at_least
FROM summed;

-- Calibration of the teacher: its heads in ten bins of probability, with their mean probability and the share of them that
-- was the real token.
CREATE OR REPLACE VIEW calibration AS
SELECT
    recipe_id, least(floor(probability * 10), 9)::INTEGER AS bin, count(*) AS n, avg(probability) AS predicted,
    avg(is_real::INTEGER) AS observed, avg(is_real::INTEGER) - avg(probability) AS gap
FROM (
    SELECT recipe_id, code / levels AS probability, id = next_id AS is_real
    FROM (
        SELECT recipe_id, levels, next_id, unnest(codes) AS code, unnest(ids[1 : len(codes)]) AS id
        FROM (
            SELECT recipe_id, levels, input_ids[i + 1] AS next_id, target_ids[i] AS ids, head_codes[i] AS codes
            FROM (
                SELECT recipe_id, levels, input_ids, target_ids, head_codes, unnest(range(1, n_tokens)) AS i
                FROM store.visible_sequences
            )
        )
    )
)
GROUP BY recipe_id, bin;

-- Documents that share runs of eight tokens: Jaccard similarity of their sets of runs, estimated from one run in eight,
-- chosen by hash and so the same runs in every document. Runs that occur in more than 100 documents are left out.
CREATE OR REPLACE VIEW near_duplicates AS
WITH runs_of_eight AS (
    SELECT DISTINCT s.doc_id, r.tokenizer_id, hash(s.input_ids[i : i + 7]) AS run
    FROM (
        SELECT recipe_id, doc_id, input_ids, unnest(range(1, n_tokens - 6)) AS i FROM store.visible_sequences
    ) AS s
    JOIN recipes AS r USING (recipe_id)
    WHERE hash(s.input_ids[i : i + 7]) % 8 = 0
),
informative AS (SELECT tokenizer_id, run FROM runs_of_eight GROUP BY ALL HAVING count(*) BETWEEN 2 AND 100),
sizes AS (SELECT tokenizer_id, doc_id, count(*) AS n FROM runs_of_eight GROUP BY ALL),
shared AS (
    SELECT tokenizer_id, a.doc_id AS doc_a, b.doc_id AS doc_b, count(*) AS n
    FROM informative
    JOIN runs_of_eight AS a USING (tokenizer_id, run)
    JOIN runs_of_eight AS b USING (tokenizer_id, run)
    WHERE a.doc_id < b.doc_id GROUP BY ALL
)
SELECT s.doc_a, s.doc_b, s.n AS n_shared, s.n / (a.n + b.n - s.n) AS jaccard
FROM shared AS s
JOIN sizes AS a ON a.tokenizer_id = s.tokenizer_id AND a.doc_id = s.doc_a
JOIN sizes AS b ON b.tokenizer_id = s.tokenizer_id AND b.doc_id = s.doc_b;

-- How the lake grew, a row per day (UTC) and recipe; multiply `teacher_seconds` by the price of the machine.
CREATE OR REPLACE VIEW growth AS
SELECT
    day, recipe_id, n_commits, n_documents, n_tokens, n_targets, n_bytes, teacher_seconds,
    sum(n_tokens) OVER so_far AS tokens_so_far, sum(n_bytes) OVER so_far AS bytes_so_far,
    sum(teacher_seconds) OVER so_far AS seconds_so_far
FROM (
    SELECT
        (committed_at AT TIME ZONE 'UTC')::DATE AS day, recipe_id, count(*) AS n_commits,
        sum(n_documents)::BIGINT AS n_documents, sum(n_tokens)::BIGINT AS n_tokens, sum(n_targets)::BIGINT AS n_targets,
        sum(n_bytes)::BIGINT AS n_bytes, sum(seconds) AS teacher_seconds
    FROM store.commits GROUP BY ALL
)
WINDOW so_far AS (PARTITION BY recipe_id ORDER BY day);

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
        -- An end event wins over every other event: the clock may have been set back while the run went on.
        coalesce(
            arg_max(event, happened_at) FILTER (event IN ('finished', 'failed', 'interrupted')),
            arg_max(event, happened_at) FILTER (event <> 'started')
        ) AS status,
        coalesce(
            arg_max(detail, happened_at) FILTER (event IN ('finished', 'failed', 'interrupted')),
            arg_max(detail, happened_at)
        ) AS detail
    FROM store.run_events GROUP BY run_id
) AS e
LEFT JOIN (
    SELECT
        run_id, sum(n_documents) AS n_documents, sum(n_tokens) AS n_tokens, sum(n_bytes) AS n_bytes,
        sum(seconds) AS seconds, min(commit_number) AS first_commit, max(commit_number) AS last_commit
    FROM (
        -- A pass of the teacher is one commit, with a row for each of its recipes.
        SELECT
            run_id, commit_number, max(n_documents) AS n_documents, max(n_tokens) AS n_tokens, sum(n_bytes) AS n_bytes,
            sum(seconds) AS seconds
        FROM store.commits GROUP BY run_id, commit_number
    )
    GROUP BY run_id
) AS c USING (run_id);

CREATE OR REPLACE VIEW row_sets AS
SELECT
    r.row_set_id, r.recipe_ids, r.up_to_commit, r.filter, r.weight, r.n_sequences, r.n_tokens, r.n_targets, r.content_hash,
    r.created_at, q.query
FROM (SELECT DISTINCT ON (row_set_id) * FROM store.row_sets ORDER BY row_set_id, created_at) AS r
LEFT JOIN (SELECT row_set_id, any_value(query) AS query FROM store.row_set_queries GROUP BY row_set_id) AS q
    USING (row_set_id);

CREATE OR REPLACE VIEW students AS
SELECT DISTINCT ON (student_id)
    student_id, parent_id, row_set_id, run_id, directory, settings, metrics, created_at
FROM store.students ORDER BY student_id, created_at DESC;

-- Loss of each student on each document that it was evaluated on, as means over targets, in nats: the measurement with the
-- most targets, the newest of these. A large `gap` marks documents where the student is far behind its teacher.
CREATE OR REPLACE VIEW student_losses AS
SELECT
    s.student_id, s.recipe_id, s.doc_id, s.n_targets, s.student_loss / s.n_targets AS student_loss,
    s.teacher_loss / s.n_targets AS teacher_loss, (s.student_loss - s.teacher_loss) / s.n_targets AS gap,
    s.kl / s.n_targets AS kl, s.exact, $held_out AS held_out, s.run_id, s.measured_at
FROM (
    SELECT DISTINCT ON (student_id, recipe_id, doc_id) * FROM store.student_losses
    ORDER BY student_id, recipe_id, doc_id, n_targets DESC, measured_at DESC
) AS s;

-- Every decision about a candidate student, and the student that each alias (such as `current`) points to.
CREATE OR REPLACE VIEW promotions AS
SELECT DISTINCT commit_number, alias, student_id, decision, figures, run_id, decided_at FROM store.promotions;

CREATE OR REPLACE VIEW aliases AS
SELECT alias, arg_max(student_id, commit_number) AS student_id, max(commit_number) AS since_commit
FROM store.promotions WHERE decision <> 'rejected' GROUP BY alias;

-- Every student with each of its ancestors (depth 0 is the student itself) and the row set of that ancestor.
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

-- Documents of each row set. Without a filter or query the commit number decides. With one, the documents were listed when
-- the row set was registered, because a view can't run a filter that is stored as text.
CREATE OR REPLACE VIEW store.row_set_members AS
SELECT r.row_set_id, s.doc_id
FROM (
    SELECT DISTINCT row_set_id, up_to_commit, unnest(recipe_ids) AS recipe_id FROM store.row_sets
    WHERE filter IS NULL AND row_set_id NOT IN (SELECT row_set_id FROM store.row_set_queries)
) AS r
JOIN store.documents AS s USING (recipe_id)
JOIN (SELECT unit_id, max(commit_number) AS commit_number FROM store.commits GROUP BY unit_id) AS c
    ON c.unit_id = s.unit_id AND c.commit_number <= r.up_to_commit
WHERE NOT $held_out
UNION ALL
SELECT row_set_id, doc_id FROM store.row_set_documents;

-- Which student was trained on which document, itself (depth 0) or through an ancestor.
CREATE OR REPLACE VIEW trained_on AS
SELECT m.doc_id, l.student_id, min(l.depth) AS depth
FROM lineage AS l JOIN store.row_set_members AS m USING (row_set_id)
GROUP BY m.doc_id, l.student_id;

-- Documents that could not be used: one row each, however often they were read.
CREATE OR REPLACE VIEW rejects AS
SELECT corpus, source, line, reason, any_value(detail) AS detail, min(seen_at) AS first_seen, max(seen_at) AS last_seen
FROM store.rejects GROUP BY corpus, source, line, reason;

CREATE OR REPLACE VIEW forgotten AS SELECT DISTINCT doc_id, reason, forgotten_at FROM store.tombstones;

-- What is known to be damaged and not mended yet: do not trust answers about these documents. `logitlake verify` finds it.
CREATE OR REPLACE VIEW damage AS
SELECT table_name, unit_id, recipe_id, doc_id, file, problem, found_at FROM store.damage;

-- Scalar macros for queries over the columns of `sequences`.
CREATE OR REPLACE MACRO head_probability(code, levels) AS code / levels;
CREATE OR REPLACE MACRO tail_probability(codes, ids, levels) AS
    (1 - coalesce(list_sum(codes), 0) / levels) / nullif(len(ids) - len(codes), 0);
CREATE OR REPLACE MACRO nats(code) AS code / 32, (code, steps_per_nat) AS code / coalesce(steps_per_nat, 32);

-- The text of a list of token ids. It reads `vocabulary`, so the lake must be the current database (`USE lake`).
CREATE OR REPLACE MACRO text_of(ids, tokenizer) AS (
    SELECT string_agg(v.token, '' ORDER BY u.i)
    FROM (SELECT unnest(ids) AS token_id, unnest(range(len(ids))) AS i) AS u
    JOIN vocabulary AS v ON v.token_id = u.token_id AND v.tokenizer_id = tokenizer
);

-- The n ids before and after `place`, a position in the document; the row begins at position `start_of_row`.
CREATE OR REPLACE MACRO ids_before(ids, start_of_row, place, n) AS
    ids[greatest(place - start_of_row - n + 1, 1) : place - start_of_row];
CREATE OR REPLACE MACRO ids_after(ids, start_of_row, place, n) AS ids[place - start_of_row + 2 : place - start_of_row + 1 + n];

-- Whether a document is held out: no student is ever trained on it.
CREATE OR REPLACE MACRO is_held_out(id) AS $rule_for_id;

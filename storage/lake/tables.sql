-- The tables of the lake, in the schema `store`. People query the views of `views.sql` in the schema `main`.
--
-- Every table but `guard` only ever grows: state (a run's status, a document's sources) is derived by views. That is why
-- the catalog can be made again from the data path: the union of the Parquet files, without doubles, is the table.

CREATE SCHEMA store;

-- One row. Every commit raises its number inside the transaction that registers what was committed, so that two commits
-- that meet conflict here.
CREATE TABLE store.guard (commit_number BIGINT NOT NULL, format_version INTEGER NOT NULL);

-- What is fixed when a lake is made, such as the split of the held-out documents.
CREATE TABLE store.lake_settings (name VARCHAR NOT NULL, value VARCHAR NOT NULL);

CREATE TABLE store.commits (
    commit_number BIGINT NOT NULL,
    unit_id VARCHAR NOT NULL,
    recipe_id VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    committed_at TIMESTAMPTZ NOT NULL,
    n_documents BIGINT NOT NULL,
    n_sequences BIGINT NOT NULL,
    n_tokens BIGINT NOT NULL,
    n_targets BIGINT NOT NULL,
    n_bytes BIGINT NOT NULL,
    seconds DOUBLE NOT NULL
);

CREATE TABLE store.recipes (recipe_id VARCHAR NOT NULL, recipe VARCHAR NOT NULL, created_at TIMESTAMPTZ NOT NULL);

CREATE TABLE store.documents (
    doc_id VARCHAR NOT NULL,
    recipe_id VARCHAR NOT NULL,
    unit_id VARCHAR NOT NULL,
    n_tokens BIGINT NOT NULL,
    n_sequences INTEGER NOT NULL
);

CREATE TABLE store.document_sources (
    doc_id VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    line BIGINT
);

CREATE TABLE store.sequences (
    recipe_id VARCHAR NOT NULL,
    doc_id VARCHAR NOT NULL,
    unit_id VARCHAR NOT NULL,
    corpus VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    window_index INTEGER NOT NULL,
    start INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    n_targets INTEGER NOT NULL,
    levels INTEGER NOT NULL,
    input_ids INTEGER[] NOT NULL,
    target_ids INTEGER[][] NOT NULL,
    head_codes USMALLINT[][] NOT NULL,
    entropy_codes USMALLINT[] NOT NULL,
    nll_codes USMALLINT[] NOT NULL,
    mean_entropy FLOAT,
    mean_nll FLOAT,
    checksum VARCHAR NOT NULL
);

-- Compaction must never put rows of two recipes into one file.
ALTER TABLE store.sequences SET PARTITIONED BY (recipe_id);

CREATE TABLE store.vocabulary (
    tokenizer_id VARCHAR NOT NULL,
    token_id INTEGER NOT NULL,
    token VARCHAR NOT NULL,
    is_special BOOLEAN NOT NULL
);

CREATE TABLE store.run_events (
    run_id VARCHAR NOT NULL,
    event VARCHAR NOT NULL,
    happened_at TIMESTAMPTZ NOT NULL,
    kind VARCHAR NOT NULL,
    recipe_id VARCHAR,
    detail VARCHAR NOT NULL
);

CREATE TABLE store.row_sets (
    row_set_id VARCHAR NOT NULL,
    recipe_ids VARCHAR[] NOT NULL,
    up_to_commit BIGINT NOT NULL,
    filter VARCHAR,
    weight VARCHAR,
    n_sequences BIGINT NOT NULL,
    n_tokens BIGINT NOT NULL,
    n_targets BIGINT NOT NULL,
    content_hash VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE store.students (
    student_id VARCHAR NOT NULL,
    parent_id VARCHAR NOT NULL,
    row_set_id VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    directory VARCHAR NOT NULL,
    settings VARCHAR NOT NULL,
    metrics VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

-- Every decision about a candidate student; an alias such as `current` is the last one that was not a rejection.
CREATE TABLE store.promotions (
    commit_number BIGINT NOT NULL,
    alias VARCHAR NOT NULL,
    student_id VARCHAR NOT NULL,
    decision VARCHAR NOT NULL,
    figures VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    decided_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE store.rejects (
    corpus VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    line BIGINT,
    reason VARCHAR NOT NULL,
    detail VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL
);

-- Documents that somebody asked to be forgotten: excluded from everything, for ever, under every recipe.
CREATE TABLE store.tombstones (doc_id VARCHAR NOT NULL, reason VARCHAR NOT NULL, forgotten_at TIMESTAMPTZ NOT NULL);

-- Sums over the targets of one document, in nats, each time a student is measured; `kl` where it is known.
CREATE TABLE store.student_losses (
    student_id VARCHAR NOT NULL,
    recipe_id VARCHAR NOT NULL,
    doc_id VARCHAR NOT NULL,
    n_targets BIGINT NOT NULL,
    student_loss DOUBLE NOT NULL,
    teacher_loss DOUBLE NOT NULL,
    kl DOUBLE,
    exact BOOLEAN NOT NULL,
    run_id VARCHAR NOT NULL,
    measured_at TIMESTAMPTZ NOT NULL
);

-- The query that chose the documents of a row set, where one did.
CREATE TABLE store.row_set_queries (row_set_id VARCHAR NOT NULL, query VARCHAR NOT NULL);

-- The documents of a row set that has a filter or a query, and the sampling weight that the query gave each.
CREATE TABLE store.row_set_documents (row_set_id VARCHAR NOT NULL, doc_id VARCHAR NOT NULL, weight DOUBLE);

-- Version 1. A column is named after the field of core.types that it holds; tuples and metrics are JSON.
-- To change the schema, add a script to MIGRATIONS in index.py; never edit one that was released.

CREATE TABLE channels (
    id TEXT PRIMARY KEY,
    turn INTEGER NOT NULL DEFAULT 0  -- the higher, the later one of its jobs was begun; the lowest is next
);

CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL REFERENCES channels ON DELETE CASCADE,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    pages INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    learned_at REAL NOT NULL,  -- Unix time
    learned_by TEXT NOT NULL,
    metrics TEXT NOT NULL,
    questions TEXT NOT NULL,
    UNIQUE (channel, sha256)
);

CREATE TABLE weights (
    document_id TEXT PRIMARY KEY REFERENCES documents ON DELETE CASCADE,
    path TEXT NOT NULL UNIQUE,  -- relative to the data folder
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    base TEXT NOT NULL,
    learner TEXT NOT NULL,
    sections TEXT NOT NULL
);

CREATE VIEW known_documents AS
SELECT documents.*, weights.path, weights.bytes, weights.sha256 AS weights_sha256, weights.base, weights.learner, weights.sections
FROM documents JOIN weights ON weights.document_id = documents.id;

CREATE TABLE pages (
    document_id TEXT NOT NULL REFERENCES documents ON DELETE CASCADE,
    number INTEGER NOT NULL,  -- the first is 1
    text TEXT NOT NULL,
    PRIMARY KEY (document_id, number)
);

CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,  -- for chunk_words
    document_id TEXT NOT NULL REFERENCES documents ON DELETE CASCADE,
    position INTEGER NOT NULL,  -- the first is 0
    text TEXT NOT NULL,
    start_page INTEGER NOT NULL,
    end_page INTEGER NOT NULL,
    UNIQUE (document_id, position)
);

CREATE VIRTUAL TABLE chunk_words USING fts5 (
    text, content = 'chunks', content_rowid = 'id', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO chunk_words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO chunk_words (chunk_words, rowid, text) VALUES ('delete', old.id, old.text);
END;

CREATE TABLE jobs (
    number INTEGER PRIMARY KEY,  -- the order in which they came
    id TEXT NOT NULL UNIQUE,
    channel TEXT NOT NULL REFERENCES channels ON DELETE CASCADE,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    reply_to TEXT NOT NULL,
    created_at REAL NOT NULL,  -- Unix time
    stage TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    document_id TEXT REFERENCES documents ON DELETE CASCADE,
    delivered INTEGER NOT NULL,
    final INTEGER NOT NULL GENERATED ALWAYS AS (stage IN ('done', 'failed', 'cancelled'))
);
CREATE UNIQUE INDEX jobs_one_at_a_time ON jobs (channel, sha256) WHERE NOT final;
CREATE INDEX jobs_by_channel ON jobs (channel);
CREATE INDEX jobs_by_document ON jobs (document_id);

CREATE TABLE job_files (  -- the PDF, until its job ends
    job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    data BLOB NOT NULL
);

CREATE TABLE answers (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL REFERENCES channels ON DELETE CASCADE,
    document_id TEXT REFERENCES documents ON DELETE CASCADE,
    question TEXT NOT NULL,
    learned TEXT,
    base TEXT NOT NULL,
    asked_at REAL NOT NULL,  -- Unix time
    asked_by TEXT NOT NULL
);
CREATE INDEX answers_by_channel ON answers (channel);
CREATE INDEX answers_by_document ON answers (document_id);

CREATE TABLE feedback (
    answer_id TEXT NOT NULL REFERENCES answers ON DELETE CASCADE,
    given_by TEXT NOT NULL,
    helpful INTEGER NOT NULL,
    PRIMARY KEY (answer_id, given_by)
);

CREATE TABLE erasing (  -- one row from an erase's commit until its traces are gone from the file, too
    id INTEGER PRIMARY KEY CHECK (id = 1)
);

PRAGMA user_version = 1;

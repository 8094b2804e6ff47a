-- Version 1 of the index on PostgreSQL. To change it, add a script to MIGRATIONS in postgres.py; never edit one that was released.
-- What is said, asked and named is sealed with a key that lies elsewhere (storage.keys), so that no copy of these bytes outlives it: each BYTEA, and text that
-- begins with "sealed:".
-- The tables that the SQLite index has, too, have its columns; what a channel's file holds there carries its channel here.

CREATE TABLE folder (id TEXT NOT NULL, version INTEGER NOT NULL);
INSERT INTO folder VALUES (replace(gen_random_uuid()::text, '-', ''), 0);

CREATE TABLE keys (  -- which there are; not the keys themselves
    id TEXT PRIMARY KEY,
    channel TEXT COLLATE "C" NOT NULL,
    subject TEXT NOT NULL,  -- sha256 of a document; or '' for answers from none, 'events' for what is on its way
    erased BOOLEAN NOT NULL DEFAULT FALSE  -- to be destroyed
);
CREATE UNIQUE INDEX keys_in_use ON keys (channel, subject) WHERE NOT erased;
CREATE INDEX keys_erased ON keys (id) WHERE erased;

CREATE TABLE channels (
    id TEXT COLLATE "C" PRIMARY KEY,
    turn BIGINT NOT NULL DEFAULT 0,  -- the higher, the later one of its jobs was begun; the lowest is next
    settings TEXT NOT NULL DEFAULT '{}'  -- what was changed, as JSON: name -> value
);

CREATE TABLE documents (
    id TEXT COLLATE "C" PRIMARY KEY,
    channel TEXT NOT NULL REFERENCES channels ON DELETE CASCADE,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    pages INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    learned_at DOUBLE PRECISION NOT NULL,  -- Unix time
    learned_by TEXT NOT NULL,
    metrics TEXT NOT NULL,
    questions TEXT NOT NULL,
    formerly TEXT NOT NULL DEFAULT '[]',  -- JSON: ids of earlier versions
    UNIQUE (channel, sha256)
);

CREATE TABLE weights (
    document_id TEXT COLLATE "C" PRIMARY KEY REFERENCES documents ON DELETE CASCADE,
    path TEXT NOT NULL UNIQUE,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    base TEXT NOT NULL,
    learner TEXT NOT NULL,
    sections TEXT NOT NULL
);

CREATE VIEW known_documents AS
SELECT documents.*, weights.path, weights.bytes, weights.sha256 AS weights_sha256, weights.base, weights.learner, weights.sections
FROM documents JOIN weights ON weights.document_id = documents.id;

CREATE TABLE unused_weights (  -- that belong to no document, or to none yet: deleted at the next start
    document_id TEXT PRIMARY KEY,
    job_id TEXT,  -- which writes them just now
    attempt INTEGER  -- at it; once another one has begun, nobody writes them any more
);

CREATE TABLE jobs (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the order in which they came
    id TEXT NOT NULL UNIQUE,
    channel TEXT NOT NULL REFERENCES channels ON DELETE CASCADE,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    reply_to TEXT NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,  -- Unix time
    stage TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT NOT NULL,
    document_id TEXT REFERENCES documents ON DELETE CASCADE,
    delivered BOOLEAN NOT NULL,
    kind TEXT NOT NULL,  -- core.types.JobKind
    sources TEXT NOT NULL,  -- JSON: ids of the documents whose text it learns again
    share INTEGER NOT NULL,
    final BOOLEAN NOT NULL GENERATED ALWAYS AS (stage IN ('done', 'failed', 'cancelled')) STORED
);
CREATE UNIQUE INDEX jobs_one_at_a_time ON jobs (channel, sha256) WHERE NOT final;
CREATE INDEX jobs_by_channel ON jobs (channel);
CREATE INDEX jobs_by_document ON jobs (document_id);
CREATE INDEX jobs_unfinished ON jobs (number) WHERE NOT final;

CREATE TABLE inbox (
    key TEXT PRIMARY KEY,
    body TEXT NOT NULL,  -- until it is worked off; then ''
    owner TEXT NOT NULL,
    received_at DOUBLE PRECISION NOT NULL,  -- Unix time
    channel TEXT NOT NULL DEFAULT ''  -- whose it is, and with which it is erased; '' for none
);
CREATE INDEX inbox_by_channel ON inbox (channel);
CREATE INDEX inbox_unhandled ON inbox (received_at) WHERE body != '';

-- From here on what a channel's file holds. A document's text comes before its row, in one transaction.

CREATE TABLE job_files (  -- what was handed in, until its job ends
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    part INTEGER NOT NULL,  -- the first is 0
    channel TEXT NOT NULL,
    data BYTEA NOT NULL,
    first_page INTEGER NOT NULL,
    last_page INTEGER NOT NULL,  -- 0: to the end
    PRIMARY KEY (job_id, part)
);
CREATE INDEX job_files_by_channel ON job_files (channel);

CREATE TABLE pages (
    document_id TEXT NOT NULL REFERENCES documents ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    channel TEXT NOT NULL,
    number INTEGER NOT NULL,  -- the first is 1
    text BYTEA NOT NULL,
    places BYTEA NOT NULL,  -- JSON: [[offset in the text, name], ...]
    confidence DOUBLE PRECISION,  -- 0..1; NULL: the file itself held the text
    correction TEXT NOT NULL,  -- id of the core.types.Correction; '' for the document's own
    PRIMARY KEY (document_id, number)
);
CREATE INDEX pages_with_correction ON pages (channel) WHERE correction != '';

CREATE TABLE chunks (
    document_id TEXT NOT NULL REFERENCES documents ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    channel TEXT NOT NULL,
    position INTEGER NOT NULL,  -- the first is 0
    text BYTEA NOT NULL,
    start_page INTEGER NOT NULL,
    end_page INTEGER NOT NULL,
    code BYTEA NOT NULL,  -- what it is about, in the search head's code; '' where there is none: found by words alone
    PRIMARY KEY (document_id, position)
);

-- To find a chunk by words (storage.words). The words of a document are counted through, one number left out after each chunk.

CREATE TABLE word_counts (
    document_id TEXT PRIMARY KEY REFERENCES documents ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    channel TEXT NOT NULL,
    counts INTEGER[] NOT NULL,  -- words of each chunk
    key TEXT NOT NULL  -- id of the key of its words
);
CREATE INDEX word_counts_by_channel ON word_counts (channel);

CREATE TABLE words (
    channel TEXT NOT NULL,
    word BIGINT NOT NULL,  -- its hash with the document's key
    document_id TEXT NOT NULL REFERENCES documents ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    sealed_places BYTEA NOT NULL,  -- where it stands, ascending: 4 bytes each
    PRIMARY KEY (channel, word, document_id)
);
CREATE INDEX words_by_document ON words (document_id);

CREATE TABLE answers (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL REFERENCES channels ON DELETE CASCADE,
    document_id TEXT,
    question BYTEA NOT NULL,
    learned BYTEA,
    base BYTEA NOT NULL,
    asked_at DOUBLE PRECISION NOT NULL,  -- Unix time
    asked_by TEXT NOT NULL,
    thread TEXT NOT NULL,  -- the platform's id of the thread that it stands in; '' for none
    details BYTEA NOT NULL,  -- the whole core.types.Answer as JSON; '' for older ones
    shared BOOLEAN NOT NULL DEFAULT FALSE  -- was private and is now shown to all
);
CREATE INDEX answers_by_channel ON answers (channel, document_id);
CREATE INDEX answers_by_thread ON answers (channel, thread);
CREATE INDEX answers_by_person ON answers (asked_by);

CREATE TABLE feedback (
    answer_id TEXT NOT NULL REFERENCES answers ON DELETE CASCADE,
    given_by TEXT NOT NULL,
    helpful BOOLEAN NOT NULL,
    correction BYTEA NOT NULL,  -- what somebody says is right
    PRIMARY KEY (answer_id, given_by)
);

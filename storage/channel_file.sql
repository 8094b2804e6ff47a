-- Version 1 of a channel's file. To change it, add a script to VERSIONS in channel_files.py; never edit one that was released.

CREATE TABLE owner (channel TEXT NOT NULL);

CREATE TABLE pages (
    document_id TEXT NOT NULL,
    number INTEGER NOT NULL,  -- the first is 1
    text TEXT NOT NULL,
    PRIMARY KEY (document_id, number)
);

CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,  -- for chunk_words
    document_id TEXT NOT NULL,
    position INTEGER NOT NULL,  -- the first is 0
    text TEXT NOT NULL,
    start_page INTEGER NOT NULL,
    end_page INTEGER NOT NULL,
    code BLOB NOT NULL,  -- what it is about, in the search head's code; '' where there is none: found by words alone
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

CREATE TABLE job_files (  -- the PDF, until its job ends
    job_id TEXT PRIMARY KEY,
    data BLOB NOT NULL
);

CREATE TABLE answers (
    id TEXT PRIMARY KEY,
    document_id TEXT,
    question TEXT NOT NULL,
    learned TEXT,
    base TEXT NOT NULL,
    asked_at REAL NOT NULL,  -- Unix time
    asked_by TEXT NOT NULL,
    thread TEXT NOT NULL,  -- the platform's id of the thread that it stands in; '' for none
    details TEXT NOT NULL,  -- the whole core.types.Answer as JSON; '' for older ones
    shared INTEGER NOT NULL DEFAULT 0  -- 1: was private and is now shown to all
);
CREATE INDEX answers_by_document ON answers (document_id);
CREATE INDEX answers_by_thread ON answers (thread);

CREATE TABLE feedback (
    answer_id TEXT NOT NULL REFERENCES answers ON DELETE CASCADE,
    given_by TEXT NOT NULL,
    helpful INTEGER NOT NULL,
    correction TEXT NOT NULL,  -- what somebody says is right
    PRIMARY KEY (answer_id, given_by)
);

PRAGMA user_version = 1;

-- A file of version 9, as the code of that version wrote it.
PRAGMA user_version = 4;
BEGIN TRANSACTION;
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
PRAGMA writable_schema=ON;
INSERT INTO sqlite_master(type,name,tbl_name,rootpage,sql)VALUES('table','chunk_words','chunk_words',0,'CREATE VIRTUAL TABLE chunk_words USING fts5 (
    text, content = ''chunks'', content_rowid = ''id'', tokenize = ''porter unicode61 remove_diacritics 2''
)');
CREATE TABLE 'chunk_words_config'(k PRIMARY KEY, v) WITHOUT ROWID;
INSERT INTO "chunk_words_config" VALUES('version',4);
CREATE TABLE 'chunk_words_data'(id INTEGER PRIMARY KEY, block BLOB);
INSERT INTO "chunk_words_data" VALUES(1,X'');
INSERT INTO "chunk_words_data" VALUES(10,X'00000000000000');
CREATE TABLE 'chunk_words_docsize'(id INTEGER PRIMARY KEY, sz BLOB);
CREATE TABLE 'chunk_words_idx'(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID;
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
CREATE TABLE feedback (
    answer_id TEXT NOT NULL REFERENCES answers ON DELETE CASCADE,
    given_by TEXT NOT NULL,
    helpful INTEGER NOT NULL,
    correction TEXT NOT NULL,  -- what somebody says is right
    PRIMARY KEY (answer_id, given_by)
);
CREATE TABLE job_files (  -- the PDF, until its job ends
    job_id TEXT PRIMARY KEY,
    data BLOB NOT NULL
, first_page INTEGER NOT NULL DEFAULT 1, last_page INTEGER NOT NULL DEFAULT 0);
INSERT INTO "job_files" VALUES('running',X'255044462D2072756E6E696E67',1,0);
CREATE TABLE owner (channel TEXT NOT NULL);
INSERT INTO "owner" VALUES('slack:T1:C1');
CREATE TABLE pages (
    document_id TEXT NOT NULL,
    number INTEGER NOT NULL,  -- the first is 1
    text TEXT NOT NULL, places TEXT NOT NULL DEFAULT '[]', confidence REAL, correction TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (document_id, number)
);
CREATE TRIGGER chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO chunk_words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO chunk_words (chunk_words, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE INDEX answers_by_document ON answers (document_id);
CREATE INDEX answers_by_thread ON answers (thread);
PRAGMA writable_schema=OFF;
COMMIT;

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
INSERT INTO "answers" VALUES('05ef3f1f35efb2c6','learned','Who keeps it?','Ada Quill.','Nobody.',1.79573224628243422506e+09,'discord:8','11','{"question": "Who keeps it?", "base": {"text": "Nobody.", "tokens": 2, "seconds": 0.5, "confidence": 0.1}, "learned": {"text": "Ada Quill.", "tokens": 3, "seconds": 0.5, "confidence": 0.9}, "document": {"id": "learned", "name": "Lighthouse.pdf"}, "prompt_tokens": 9, "pages": [1], "id": "", "unrelated": false, "certainty": "likely"}',0);
PRAGMA writable_schema=ON;
INSERT INTO sqlite_master(type,name,tbl_name,rootpage,sql)VALUES('table','chunk_words','chunk_words',0,'CREATE VIRTUAL TABLE chunk_words USING fts5 (
    text, content = ''chunks'', content_rowid = ''id'', tokenize = ''porter unicode61 remove_diacritics 2''
)');
CREATE TABLE 'chunk_words_config'(k PRIMARY KEY, v) WITHOUT ROWID;
INSERT INTO "chunk_words_config" VALUES('version',4);
CREATE TABLE 'chunk_words_data'(id INTEGER PRIMARY KEY, block BLOB);
INSERT INTO "chunk_words_data" VALUES(1,X'020D');
INSERT INTO "chunk_words_data" VALUES(10,X'000000000101010001010101');
INSERT INTO "chunk_words_data" VALUES(137438953473,X'0000006B043061646101020801046275726E0202040102697301020701066B656570657201020301046C616D70020203020869676874686F757301020601026F660102040202696C02020601057175696C6C01020901037468650104020501020201057768616C65020205040809070B090D07070A0C');
CREATE TABLE 'chunk_words_docsize'(id INTEGER PRIMARY KEY, sz BLOB);
INSERT INTO "chunk_words_docsize" VALUES(1,X'08');
INSERT INTO "chunk_words_docsize" VALUES(2,X'05');
CREATE TABLE 'chunk_words_idx'(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID;
INSERT INTO "chunk_words_idx" VALUES(1,X'',2);
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
INSERT INTO "chunks" VALUES(1,'learned',0,'The keeper of the lighthouse is Ada Quill. ',1,1,X'0001020304050607AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA');
INSERT INTO "chunks" VALUES(2,'learned',1,'The lamp burns whale oil.',2,2,X'0001020304050607AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA');
CREATE TABLE feedback (
    answer_id TEXT NOT NULL REFERENCES answers ON DELETE CASCADE,
    given_by TEXT NOT NULL,
    helpful INTEGER NOT NULL,
    correction TEXT NOT NULL,  -- what somebody says is right
    PRIMARY KEY (answer_id, given_by)
);
INSERT INTO "feedback" VALUES('05ef3f1f35efb2c6','discord:8',1,'');
CREATE TABLE job_files (  -- the PDF, until its job ends
    job_id TEXT PRIMARY KEY,
    data BLOB NOT NULL
, first_page INTEGER NOT NULL DEFAULT 1, last_page INTEGER NOT NULL DEFAULT 0);
INSERT INTO "job_files" VALUES('waiting',X'255044462D2077616974696E67',1,0);
CREATE TABLE owner (channel TEXT NOT NULL);
INSERT INTO "owner" VALUES('discord:1:2');
CREATE TABLE pages (
    document_id TEXT NOT NULL,
    number INTEGER NOT NULL,  -- the first is 1
    text TEXT NOT NULL, places TEXT NOT NULL DEFAULT '[]', confidence REAL, correction TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (document_id, number)
);
INSERT INTO "pages" VALUES('learned',1,'The keeper of the lighthouse is Ada Quill.','[]',NULL,'');
INSERT INTO "pages" VALUES('learned',2,'The lamp burns whale oil.','[]',NULL,'');
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

-- A file of version 5, as the code of that version wrote it.
PRAGMA user_version = 5;
BEGIN TRANSACTION;
CREATE TABLE answers (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL REFERENCES channels ON DELETE CASCADE,
    document_id TEXT REFERENCES documents ON DELETE CASCADE,
    question TEXT NOT NULL,
    learned TEXT,
    base TEXT NOT NULL,
    asked_at REAL NOT NULL,  -- Unix time
    asked_by TEXT NOT NULL
, thread TEXT NOT NULL DEFAULT '', details TEXT NOT NULL DEFAULT '', shared INTEGER NOT NULL DEFAULT 0);
INSERT INTO "answers" VALUES('05ef3f1f35efb2c6','discord:1:2','learned','Who keeps it?','Ada Quill.','Nobody.',1.79573224628243422506e+09,'discord:8','11','{"question": "Who keeps it?", "base": {"text": "Nobody.", "tokens": 2, "seconds": 0.5, "confidence": 0.1}, "learned": {"text": "Ada Quill.", "tokens": 3, "seconds": 0.5, "confidence": 0.9}, "document": {"id": "learned", "name": "Lighthouse.pdf"}, "prompt_tokens": 9, "pages": [1], "id": "", "unrelated": false, "certainty": "likely"}',0);
CREATE TABLE channels (
    id TEXT PRIMARY KEY,
    turn INTEGER NOT NULL DEFAULT 0  -- the higher, the later one of its jobs was begun; the lowest is next
, settings TEXT NOT NULL DEFAULT '{}');
INSERT INTO "channels" VALUES('discord:1:2',0,'{}');
INSERT INTO "channels" VALUES('slack:T1:C1',1,'{}');
PRAGMA writable_schema=ON;
INSERT INTO sqlite_master(type,name,tbl_name,rootpage,sql)VALUES('table','chunk_words','chunk_words',0,'CREATE VIRTUAL TABLE chunk_words USING fts5 (
    text, content = ''chunks'', content_rowid = ''id'', tokenize = ''porter unicode61 remove_diacritics 2''
)');
CREATE TABLE 'chunk_words_config'(k PRIMARY KEY, v) WITHOUT ROWID;
INSERT INTO "chunk_words_config" VALUES('version',4);
CREATE TABLE 'chunk_words_data'(id INTEGER PRIMARY KEY, block BLOB);
INSERT INTO "chunk_words_data" VALUES(1,X'020D');
INSERT INTO "chunk_words_data" VALUES(10,X'000000000102020002010101020101');
INSERT INTO "chunk_words_data" VALUES(137438953473,X'0000004604306164610102080102697301020701066B656570657201020301096C69676874686F757301020601026F6601020401057175696C6C0102090103746865010402050408070B0E070A');
INSERT INTO "chunk_words_data" VALUES(274877906945,X'0000003005306275726E02020401046C616D7002020301036F696C020206010374686502020201057768616C650202050409090808');
CREATE TABLE 'chunk_words_docsize'(id INTEGER PRIMARY KEY, sz BLOB);
INSERT INTO "chunk_words_docsize" VALUES(1,X'08');
INSERT INTO "chunk_words_docsize" VALUES(2,X'05');
CREATE TABLE 'chunk_words_idx'(segid, term, pgno, PRIMARY KEY(segid, term)) WITHOUT ROWID;
INSERT INTO "chunk_words_idx" VALUES(1,X'',2);
INSERT INTO "chunk_words_idx" VALUES(2,X'',2);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY,  -- for chunk_words
    document_id TEXT NOT NULL REFERENCES documents ON DELETE CASCADE,
    position INTEGER NOT NULL,  -- the first is 0
    text TEXT NOT NULL,
    start_page INTEGER NOT NULL,
    end_page INTEGER NOT NULL, code BLOB NOT NULL DEFAULT x'',
    UNIQUE (document_id, position)
);
INSERT INTO "chunks" VALUES(1,'learned',0,'The keeper of the lighthouse is Ada Quill. ',1,1,X'0001020304050607AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA');
INSERT INTO "chunks" VALUES(2,'learned',1,'The lamp burns whale oil.',2,2,X'0001020304050607AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA');
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
INSERT INTO "documents" VALUES('learned','discord:1:2','Lighthouse.pdf','d78e3c38d98d17d7355ec4a989e477bace56a6fa2508121a520146cd0a23ec80',2,9,2.5,'discord:7','{"initial_loss": 4.0, "final_loss": 1.5, "loss_history": [4.0, 2.5, 1.5], "chunks": 2, "tokens": 9, "seconds": 0.5, "delta_norm": 0.1, "check_total": 0, "check_before": 0, "check_after": 0, "notes": ["rolled back"]}','["Who keeps the lighthouse?"]');
CREATE TABLE erasing (  -- one row from an erase's commit until its traces are gone from the file, too
    id INTEGER PRIMARY KEY CHECK (id = 1)
);
CREATE TABLE feedback (
    answer_id TEXT NOT NULL REFERENCES answers ON DELETE CASCADE,
    given_by TEXT NOT NULL,
    helpful INTEGER NOT NULL, correction TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (answer_id, given_by)
);
INSERT INTO "feedback" VALUES('05ef3f1f35efb2c6','discord:8',1,'');
CREATE TABLE inbox (
    key TEXT PRIMARY KEY,  -- event, message or file, by the platform's own name
    body TEXT NOT NULL,  -- until it is worked off; then ''
    owner TEXT NOT NULL,  -- who may work on it; '' for what was received
    received_at REAL NOT NULL  -- Unix time
);
INSERT INTO "inbox" VALUES('slack:Ev1','{"event": 1}','',1.79573224629392719266e+09);
INSERT INTO "inbox" VALUES('slack:Ev2','','',1.79573224629487490653e+09);
CREATE TABLE job_files (  -- the PDF, until its job ends
    job_id TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    data BLOB NOT NULL
);
INSERT INTO "job_files" VALUES('running',X'255044462D2072756E6E696E67');
INSERT INTO "job_files" VALUES('waiting',X'255044462D2077616974696E67');
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
INSERT INTO "jobs" VALUES(1,'learned','discord:1:2','learned.pdf','d78e3c38d98d17d7355ec4a989e477bace56a6fa2508121a520146cd0a23ec80','discord:7','discord:2:9',1.5,'done',0,'','learned',1);
INSERT INTO "jobs" VALUES(2,'failed','discord:1:2','failed.pdf','5d28a90f4498a81461efbaf6f628a19d9778390bb5c81a393dd936181cc3d826','discord:7','discord:2:9',1.5,'failed',0,'It failed.',NULL,0);
INSERT INTO "jobs" VALUES(3,'running','slack:T1:C1','running.pdf','c071cf5f5ed6f884cc70155b6f05f755fd46a302d05e4261b7e92ce878bbfed8','discord:7','slack:C1::1.5',1.5,'learning',1,'',NULL,0);
INSERT INTO "jobs" VALUES(4,'waiting','discord:1:2','waiting.pdf','80cfa3e7f28dde4df64436b652230aff28d7779116d1369c21ef2bbf37261d71','discord:7','discord:2:9',1.5,'queued',0,'',NULL,0);
CREATE TABLE pages (
    document_id TEXT NOT NULL REFERENCES documents ON DELETE CASCADE,
    number INTEGER NOT NULL,  -- the first is 1
    text TEXT NOT NULL,
    PRIMARY KEY (document_id, number)
);
INSERT INTO "pages" VALUES('learned',1,'The keeper of the lighthouse is Ada Quill.');
INSERT INTO "pages" VALUES('learned',2,'The lamp burns whale oil.');
CREATE TABLE weights (
    document_id TEXT PRIMARY KEY REFERENCES documents ON DELETE CASCADE,
    path TEXT NOT NULL UNIQUE,  -- relative to the data folder
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    base TEXT NOT NULL,
    learner TEXT NOT NULL,
    sections TEXT NOT NULL
);
INSERT INTO "weights" VALUES('learned','weights/learned.safetensors',10,'0000000000000000000000000000000000000000000000000000000000000000','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','fast-weights','[0, 1]');
CREATE VIEW known_documents AS
SELECT documents.*, weights.path, weights.bytes, weights.sha256 AS weights_sha256, weights.base, weights.learner, weights.sections
FROM documents JOIN weights ON weights.document_id = documents.id;
CREATE TRIGGER chunk_added AFTER INSERT ON chunks BEGIN
    INSERT INTO chunk_words (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunks BEGIN
    INSERT INTO chunk_words (chunk_words, rowid, text) VALUES ('delete', old.id, old.text);
END;
CREATE UNIQUE INDEX jobs_one_at_a_time ON jobs (channel, sha256) WHERE NOT final;
CREATE INDEX jobs_by_channel ON jobs (channel);
CREATE INDEX jobs_by_document ON jobs (document_id);
CREATE INDEX answers_by_channel ON answers (channel);
CREATE INDEX answers_by_document ON answers (document_id);
CREATE INDEX answers_by_thread ON answers (thread, channel);
PRAGMA writable_schema=OFF;
COMMIT;

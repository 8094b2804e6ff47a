-- A file of version 9, as the code of that version wrote it.
PRAGMA user_version = 9;
BEGIN TRANSACTION;
CREATE TABLE channels (
    id TEXT PRIMARY KEY,
    turn INTEGER NOT NULL DEFAULT 0  -- the higher, the later one of its jobs was begun; the lowest is next
, settings TEXT NOT NULL DEFAULT '{}');
INSERT INTO "channels" VALUES('discord:1:2',0,'{}');
INSERT INTO "channels" VALUES('slack:T1:C1',1,'{}');
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
    questions TEXT NOT NULL, formerly TEXT NOT NULL DEFAULT '[]',
    UNIQUE (channel, sha256)
);
INSERT INTO "documents" VALUES('learned','discord:1:2','Lighthouse.pdf','d78e3c38d98d17d7355ec4a989e477bace56a6fa2508121a520146cd0a23ec80',2,9,2.5,'discord:7','{"initial_loss": 4.0, "final_loss": 1.5, "loss_history": [4.0, 2.5, 1.5], "chunks": 2, "tokens": 9, "seconds": 0.5, "delta_norm": 0.1, "check_total": 0, "check_before": 0, "check_after": 0, "notes": ["rolled back"]}','["Who keeps the lighthouse?"]','[]');
CREATE TABLE erasing (  -- from an erase's commit until its traces are gone from the files, too
    number INTEGER PRIMARY KEY,
    channel TEXT NOT NULL,
    rewritten INTEGER NOT NULL DEFAULT 0  -- whether only the write-ahead log is left to be emptied
);
CREATE TABLE folder (id TEXT NOT NULL);
INSERT INTO "folder" VALUES('06ca114f44c2aef9618375095b9ab851');
CREATE TABLE inbox (
    key TEXT PRIMARY KEY,  -- event, message or file, by the platform's own name
    body TEXT NOT NULL,  -- until it is worked off; then ''
    owner TEXT NOT NULL,  -- who may work on it; '' for what was received
    received_at REAL NOT NULL  -- Unix time
, channel TEXT NOT NULL DEFAULT '');
INSERT INTO "inbox" VALUES('slack:Ev1','{"event": 1}','',1.79573224629392719266e+09,'');
INSERT INTO "inbox" VALUES('slack:Ev2','','',1.79573224629487490653e+09,'');
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
, kind TEXT NOT NULL DEFAULT 'learn', sources TEXT NOT NULL DEFAULT '[]', share INTEGER NOT NULL DEFAULT 1, retries INTEGER NOT NULL DEFAULT 0);
INSERT INTO "jobs" VALUES(1,'learned','discord:1:2','learned.pdf','d78e3c38d98d17d7355ec4a989e477bace56a6fa2508121a520146cd0a23ec80','discord:7','discord:2:9',1.5,'done',0,'','learned',1,'learn','[]',1,0);
INSERT INTO "jobs" VALUES(2,'failed','discord:1:2','failed.pdf','5d28a90f4498a81461efbaf6f628a19d9778390bb5c81a393dd936181cc3d826','discord:7','discord:2:9',1.5,'failed',0,'It failed.',NULL,0,'learn','[]',1,0);
INSERT INTO "jobs" VALUES(3,'running','slack:T1:C1','running.pdf','c071cf5f5ed6f884cc70155b6f05f755fd46a302d05e4261b7e92ce878bbfed8','discord:7','slack:C1::1.5',1.5,'learning',1,'',NULL,0,'learn','[]',1,0);
INSERT INTO "jobs" VALUES(4,'waiting','discord:1:2','waiting.pdf','80cfa3e7f28dde4df64436b652230aff28d7779116d1369c21ef2bbf37261d71','discord:7','discord:2:9',1.5,'queued',0,'',NULL,0,'learn','[]',1,0);
CREATE TABLE unused_weights (  -- files that belong to no document, or to none yet: deleted at the next start
    document_id TEXT PRIMARY KEY
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
INSERT INTO "weights" VALUES('learned','weights/learned.safetensors',10,'0000000000000000000000000000000000000000000000000000000000000000','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','fast-weights','[0, 1]');
CREATE UNIQUE INDEX jobs_one_at_a_time ON jobs (channel, sha256) WHERE NOT final;
CREATE INDEX jobs_by_channel ON jobs (channel);
CREATE INDEX jobs_by_document ON jobs (document_id);
CREATE INDEX inbox_by_channel ON inbox (channel);
CREATE VIEW known_documents AS
SELECT documents.*, weights.path, weights.bytes, weights.sha256 AS weights_sha256, weights.base, weights.learner, weights.sections
FROM documents JOIN weights ON weights.document_id = documents.id;
COMMIT;

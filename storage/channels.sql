-- Version 6. Each channel's text, PDFs and answers move to a file of their own (channel_file.sql), so that an erase rewrites
-- or deletes that file alone. `ChannelFile.take_over` has copied them before this runs.

DROP VIEW known_documents;
DROP TABLE feedback;
DROP TABLE answers;
DROP TABLE job_files;
DROP TABLE chunk_words;
DROP TABLE chunks;
DROP TABLE pages;
DROP TABLE erasing;

CREATE VIEW known_documents AS
SELECT documents.*, weights.path, weights.bytes, weights.sha256 AS weights_sha256, weights.base, weights.learner, weights.sections
FROM documents JOIN weights ON weights.document_id = documents.id;

CREATE TABLE erasing (  -- from an erase's commit until its traces are gone from the files, too
    number INTEGER PRIMARY KEY,
    channel TEXT NOT NULL,
    rewritten INTEGER NOT NULL DEFAULT 0  -- whether only the write-ahead log is left to be emptied
);
INSERT INTO erasing (channel) VALUES ('');  -- of what has moved

CREATE TABLE unused_weights (  -- files that belong to no document, or to none yet: deleted at the next start
    document_id TEXT PRIMARY KEY
);

CREATE TABLE folder (id TEXT NOT NULL);  -- stands in each file of weights, too: only an index's own are ever moved away
INSERT INTO folder VALUES (lower(hex(randomblob(16))));

ALTER TABLE inbox ADD COLUMN channel TEXT NOT NULL DEFAULT '';  -- whose it is, and with which it is erased; '' for none
CREATE INDEX inbox_by_channel ON inbox (channel);

PRAGMA user_version = 6;

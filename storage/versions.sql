-- Version 8. A document that is learned anew keeps the ids that it had, which old messages still name.

ALTER TABLE documents ADD COLUMN formerly TEXT NOT NULL DEFAULT '[]';  -- JSON: ids of earlier versions

PRAGMA user_version = 8;

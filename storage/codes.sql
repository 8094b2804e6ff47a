-- Version 4. What each chunk is about, in the search head's code, so that among chunks with its words a question finds the closest.

ALTER TABLE chunks ADD COLUMN code BLOB NOT NULL DEFAULT x'';  -- '' where there is none: found by words alone

PRAGMA user_version = 4;

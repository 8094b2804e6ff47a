-- Version 4. What each chunk is about, in the search head's code, so that a question finds it in other words, too.

ALTER TABLE chunks ADD COLUMN code BLOB NOT NULL DEFAULT x'';  -- '' where there is none: found by words alone

PRAGMA user_version = 4;

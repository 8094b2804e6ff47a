-- Version 3. Which thread an answer stands in, so that a question asked there goes to the same document first.

ALTER TABLE answers ADD COLUMN thread TEXT NOT NULL DEFAULT '';  -- the platform's id of it; '' for none
CREATE INDEX answers_by_thread ON answers (thread, channel);

PRAGMA user_version = 3;

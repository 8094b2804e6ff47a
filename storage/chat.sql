-- Version 5. How a channel wants to be answered, all of an answer, and what is right instead of it.

ALTER TABLE channels ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';  -- what was changed, as JSON: name -> value
ALTER TABLE answers ADD COLUMN details TEXT NOT NULL DEFAULT '';  -- the whole core.types.Answer as JSON; '' for older ones
ALTER TABLE answers ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;  -- 1: was private and is now shown to all

ALTER TABLE feedback ADD COLUMN correction TEXT NOT NULL DEFAULT '';  -- what somebody says is right

PRAGMA user_version = 5;

-- Version 5. How a channel wants to be answered, and all of an answer that can be looked up later.

ALTER TABLE channels ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';  -- what was changed, as JSON: name -> value
ALTER TABLE answers ADD COLUMN details TEXT NOT NULL DEFAULT '';  -- the whole core.types.Answer as JSON; '' for older ones
ALTER TABLE answers ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;  -- 1: was private and is now shown to all

PRAGMA user_version = 5;

-- Version 3 of a channel's file: what can be cited, and how sure text recognition was.

ALTER TABLE pages ADD COLUMN places TEXT NOT NULL DEFAULT '[]';  -- JSON: [[offset in the text, name], ...]
ALTER TABLE pages ADD COLUMN confidence REAL;  -- 0..1; NULL: the file itself held the text

PRAGMA user_version = 3;

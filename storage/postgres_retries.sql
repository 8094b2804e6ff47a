-- Version 3: attempts at a job that ended because storage could not be reached don't count as interrupted.

ALTER TABLE jobs ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;

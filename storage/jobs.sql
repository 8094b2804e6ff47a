-- Version 7. What a job learns from: a file that was handed in, or the text that is kept of documents. `Index._name_kinds`
-- finds the jobs of the second kind that wait; until now their text stood in the place of the file.

ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'learn';  -- core.types.JobKind
ALTER TABLE jobs ADD COLUMN sources TEXT NOT NULL DEFAULT '[]';  -- ids of the documents whose text it learns again
ALTER TABLE jobs ADD COLUMN share INTEGER NOT NULL DEFAULT 1;  -- how many chunks become one section

PRAGMA user_version = 7;

-- Version 2 of a channel's file. Which pages of a file are to be learned; until now that stood before its first byte.

ALTER TABLE job_files ADD COLUMN first_page INTEGER NOT NULL DEFAULT 1;
ALTER TABLE job_files ADD COLUMN last_page INTEGER NOT NULL DEFAULT 0;  -- 0: to the end

CREATE TEMP TABLE marked AS  -- "engram: pages 3-12\n", and the file
SELECT job_id, instr(data, x'0a') AS line, CAST(substr(data, 15, instr(data, x'0a') - 15) AS TEXT) AS pages
FROM job_files WHERE substr(data, 1, 14) = CAST('engram: pages ' AS BLOB);
UPDATE job_files SET
    first_page = CAST(substr(pages, 1, instr(pages, '-') - 1) AS INTEGER),
    last_page = CAST(substr(pages, instr(pages, '-') + 1) AS INTEGER),
    data = substr(data, line + 1)
FROM marked WHERE marked.job_id = job_files.job_id;
DROP TABLE marked;

PRAGMA user_version = 2;

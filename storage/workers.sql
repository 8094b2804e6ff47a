-- Version 2: the work is done by as many processes as there are (storage.workers), beside procrastinate's own tables.

ALTER TABLE jobs ADD COLUMN ticket BIGINT;  -- job of procrastinate's that works on this one

CREATE UNLOGGED TABLE calls (  -- what a front end asks of the workers, until it has the reply; never in the write-ahead log
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL,
    body BYTEA NOT NULL,  -- JSON: method and arguments
    reply BYTEA NOT NULL DEFAULT '',  -- JSON; '' while there is none
    made_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE UNLOGGED TABLE usage (  -- what people have used up of their quotas, at all front ends together; begun anew after a crash of the server
    key TEXT PRIMARY KEY,  -- quota, and user or channel
    used TEXT NOT NULL DEFAULT '[]',  -- JSON: [[Unix time until which it counts, how much], ...]
    until DOUBLE PRECISION NOT NULL DEFAULT 0  -- the last of these times
);

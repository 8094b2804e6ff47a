-- Version 2. What platforms hand over: kept until it is worked off, and done only once, also across a restart.

CREATE TABLE inbox (
    key TEXT PRIMARY KEY,  -- event, message or file, by the platform's own name
    body TEXT NOT NULL,  -- until it is worked off; then ''
    owner TEXT NOT NULL,  -- who may work on it; '' for what was received
    received_at REAL NOT NULL  -- Unix time
);

PRAGMA user_version = 2;

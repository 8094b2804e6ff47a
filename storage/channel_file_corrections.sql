-- Version 4 of a channel's file: what people say is right can be a page of its document.

ALTER TABLE pages ADD COLUMN correction TEXT NOT NULL DEFAULT '';  -- id of the core.types.Correction; '' for the document's own

PRAGMA user_version = 4;

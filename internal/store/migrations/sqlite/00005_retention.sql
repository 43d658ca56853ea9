-- How long evidence and decisions are kept, by what became of the request. Times, ids and optional values
-- as in the first schema.

-- +goose Up

-- What is left of a piece of evidence. The outcome is '' while its order may still be decided, and for one
-- that got a certificate until retention looks at it.
ALTER TABLE evidence ADD COLUMN kept TEXT NOT NULL DEFAULT 'full' CHECK (kept = 'full' OR kept = 'facts' OR kept = 'none');
ALTER TABLE evidence ADD COLUMN outcome TEXT NOT NULL DEFAULT '' CHECK (outcome = '' OR outcome = 'issue' OR outcome = 'hold' OR outcome = 'refuse');
ALTER TABLE evidence ADD COLUMN removed_at INTEGER NOT NULL DEFAULT 0; -- when something of it was last removed
CREATE INDEX evidence_kept ON evidence (kept, outcome, received_at) WHERE kept <> 'none';
UPDATE evidence SET outcome = 'refuse' WHERE failed <> '';

CREATE INDEX decisions_evidence ON decisions (evidence) WHERE outcome <> 'issue';

CREATE INDEX holds_decision ON holds (decision);
CREATE INDEX holds_over ON holds (held_at) WHERE status = 'used' OR status = 'declined';

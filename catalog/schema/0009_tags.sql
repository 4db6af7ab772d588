-- Names for snapshots, and what is remembered of snapshots that were expired.

CREATE TABLE tags (
    name VARCHAR NOT NULL,
    snapshot BIGINT NOT NULL
);
COMMENT ON TABLE tags IS 'names of snapshots; a named one is never expired';
COMMENT ON COLUMN tags.name IS 'name, usable wherever a snapshot''s number is';
COMMENT ON COLUMN tags.snapshot IS 'snapshot';

CREATE TABLE last_changes (
    relation VARCHAR NOT NULL,
    snapshot BIGINT NOT NULL
);
COMMENT ON TABLE last_changes IS 'last change of each table when snapshots were last expired: without it every step would look stale after that';
COMMENT ON COLUMN last_changes.relation IS 'table';
COMMENT ON COLUMN last_changes.snapshot IS 'snapshot that had last changed its rows';

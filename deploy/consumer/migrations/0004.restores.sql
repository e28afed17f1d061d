-- Restores of the order database, as operators have declared them: the relay's history of that time was replaced.

CREATE TABLE IF NOT EXISTS platform.restores (
    restore_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    since       timestamptz NOT NULL, -- events from this time on may be lost
    partitions  jsonb NOT NULL,       -- the end of each partition when it was declared: what is before may be lost
    declared_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Whether the record was the relay's before a restore, as far as can be known.
ALTER TABLE platform.forged ADD COLUMN IF NOT EXISTS lost boolean NOT NULL DEFAULT false;

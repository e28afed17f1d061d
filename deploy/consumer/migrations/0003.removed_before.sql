-- Which events the relay could still show when a record was read: without it, a true old event can't be told from a
-- forged one.

-- `oldest`: the oldest minute that the relay had when `partitions` were asked for. `removed_before`: the same, once
-- every record up to `partitions` was read.
ALTER TABLE platform.watermarks
    ADD COLUMN IF NOT EXISTS oldest timestamptz,
    ADD COLUMN IF NOT EXISTS removed_before timestamptz;

-- The relay had removed every event before this time already when the record was published. Null: unknown.
ALTER TABLE platform.inbox ADD COLUMN IF NOT EXISTS removed_before timestamptz;
ALTER TABLE platform.dead_letters ADD COLUMN IF NOT EXISTS removed_before timestamptz;

-- No released consumer reads this column: the migration that adds it and this one are older than the first release.
-- squawk-ignore ban-drop-column
ALTER TABLE platform.offsets DROP COLUMN IF EXISTS history_end;

-- Events that the relay's history does not contain, and what undoing them needs.

ALTER TABLE platform.inbox
    -- Where the record is on the topic; null if it came from the relay.
    ADD COLUMN IF NOT EXISTS partition integer,
    ADD COLUMN IF NOT EXISTS record_offset bigint,
    -- The stream before this event was applied: [sequence, order].
    ADD COLUMN IF NOT EXISTS before jsonb;

-- Since when an event of the order has to be compared with the relay's history.
ALTER TABLE platform.streams ADD COLUMN IF NOT EXISTS doubted_at timestamptz;
-- Not concurrently, which needs statements of its own: the consumer applies all migrations in one transaction. No
-- customer waits for a consumer. While the index is made, events wait on the topic.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX IF EXISTS platform.streams_waiting;
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS streams_to_ask ON platform.streams (order_id)
    WHERE waiting_since IS NOT NULL OR doubted_at IS NOT NULL;

-- Where the partition ended when this consumer began to read it. The relay may have removed events before this offset.
ALTER TABLE platform.offsets ADD COLUMN IF NOT EXISTS history_end bigint;

-- Records that are not the relay's. They have no effect.
CREATE TABLE IF NOT EXISTS platform.forged (
    forged_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id      uuid NOT NULL,
    order_id      uuid NOT NULL,
    sequence      bigint NOT NULL,
    type          text NOT NULL,
    occurred_at   timestamptz NOT NULL,
    payload       bytea NOT NULL,
    partition     integer,
    record_offset bigint,
    reason        text NOT NULL,
    found_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS forged_event ON platform.forged (event_id);
CREATE INDEX IF NOT EXISTS forged_found ON platform.forged (found_at);

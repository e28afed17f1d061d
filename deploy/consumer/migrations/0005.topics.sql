-- The topic of each event and of each minute, because a consumer may read the topics of several cells.

-- Rather fail than let readers wait behind a lock that is not granted. Then run `migrate` again.
SET LOCAL lock_timeout = '2s';

-- What is stored already belongs to the one topic that was read: the one of the newest watermark, or that has
-- positions. Processes of the version before this one go on reading meanwhile, and their events get the same topic.
-- They can't store compared minutes any more, and prove nothing until they are replaced.
DO $$
DECLARE
    known text := coalesce(
        (SELECT topic FROM platform.watermarks ORDER BY received_at DESC LIMIT 1),
        (SELECT min(topic) FROM platform.offsets WHERE topic NOT LIKE '%.watermarks'),
        'orders.v1'
    );
    changed text;
BEGIN
    FOREACH changed IN ARRAY '{inbox,forged,buckets,restores}'::text[] LOOP
        -- A constant default: no row is written.
        EXECUTE format('ALTER TABLE platform.%I ADD COLUMN IF NOT EXISTS topic text NOT NULL DEFAULT %L', changed, known);
    END LOOP;
END
$$;

-- Eighty thousand rows at most, so the index is made within a second. The primary key below takes the place of this one.
-- squawk-ignore ban-drop-constraint
ALTER TABLE platform.buckets DROP CONSTRAINT IF EXISTS buckets_pkey;
-- squawk-ignore adding-serial-primary-key-field, constraint-missing-not-valid
ALTER TABLE platform.buckets ADD CONSTRAINT buckets_pkey PRIMARY KEY (topic, bucket, shard);

-- Whether events of an order were withdrawn.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX IF NOT EXISTS forged_order ON platform.forged (order_id);

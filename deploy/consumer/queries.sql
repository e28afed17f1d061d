-- name: bound_pauses
SELECT set_config('idle_in_transaction_session_timeout', (1000 * $1::float8)::int::text, true);

-- name: begin_partitions
INSERT INTO platform.offsets (topic, partition, position) SELECT $1::text, * FROM unnest($2::int[], $3::bigint[])
ON CONFLICT (topic, partition) DO NOTHING;

-- name: positions
SELECT partition, position FROM platform.offsets WHERE topic = $1::text;

-- name: move_positions
-- Only from where the caller believes them to be: whoever lost a partition and doesn't know it yet moves nothing.
UPDATE platform.offsets AS o SET position = t.position
FROM unnest($2::int[], $3::bigint[], $4::bigint[]) AS t (partition, expected, position)
WHERE o.topic = $1::text AND o.partition = t.partition AND o.position = t.expected
RETURNING o.partition;

-- name: begin_streams
INSERT INTO platform.streams (order_id) SELECT order_id FROM unnest($1::uuid[]) AS order_id ORDER BY order_id
ON CONFLICT (order_id) DO NOTHING;

-- name: lock_streams
SELECT order_id, sequence FROM platform.streams WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id FOR UPDATE;

-- name: orders
SELECT order_id, status, user_id, total_amount, currency FROM platform.orders WHERE order_id = ANY ($1::uuid[]);

-- name: received
SELECT event_id, order_id, sequence, type, occurred_at, state, CASE WHEN state = 'WAITING' THEN payload END AS payload
FROM platform.inbox WHERE order_id = ANY ($1::uuid[]);

-- name: insert_events
INSERT INTO platform.inbox (event_id, order_id, sequence, type, occurred_at, shard, payload, sha256, state, source)
SELECT *, $10::text FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::timestamptz[], $6::smallint[],
                                $7::bytea[], $8::bytea[], $9::text[]);

-- name: set_states
UPDATE platform.inbox AS i SET state = t.state FROM unnest($1::uuid[], $2::text[]) AS t (event_id, state)
WHERE i.event_id = t.event_id;

-- name: move_streams
UPDATE platform.streams AS s
SET sequence = t.sequence, waiting_since = CASE WHEN t.waiting THEN coalesce(s.waiting_since, clock_timestamp()) END
FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) AS t (order_id, sequence, waiting)
WHERE s.order_id = t.order_id;

-- name: put_orders
INSERT INTO platform.orders (order_id, status, user_id, total_amount, currency)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[])
ON CONFLICT (order_id) DO UPDATE SET
    status = excluded.status, user_id = excluded.user_id, total_amount = excluded.total_amount,
    currency = excluded.currency, changed_at = clock_timestamp();

-- name: add_sales
INSERT INTO platform.sales AS s (currency, paid_orders, paid_amount, refunded_orders, refunded_amount)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::numeric[], $4::bigint[], $5::numeric[]) AS t (currency)
ORDER BY t.currency
ON CONFLICT (currency) DO UPDATE SET
    paid_orders = s.paid_orders + excluded.paid_orders, paid_amount = s.paid_amount + excluded.paid_amount,
    refunded_orders = s.refunded_orders + excluded.refunded_orders,
    refunded_amount = s.refunded_amount + excluded.refunded_amount;

-- name: unsettle_buckets
UPDATE platform.buckets AS b SET state = 'STALE'
FROM (SELECT DISTINCT * FROM unnest($1::timestamptz[], $2::smallint[])) AS t (bucket, shard)
WHERE b.bucket = t.bucket AND b.shard = t.shard AND b.state <> 'STALE';

-- name: insert_dead_letters
INSERT INTO platform.dead_letters (topic, partition, record_offset, headers, value, order_id, sequence, reason)
SELECT $1::text, t.partition, t.record_offset, t.headers::jsonb, t.value, t.order_id, t.sequence, t.reason
FROM unnest($2::int[], $3::bigint[], $4::text[], $5::bytea[], $6::uuid[], $7::bigint[], $8::text[])
    AS t (partition, record_offset, headers, value, order_id, sequence, reason)
ON CONFLICT (topic, partition, record_offset) DO NOTHING;

-- name: resolve_dead_letters
-- The event was received another way.
UPDATE platform.dead_letters AS d SET resolved_at = clock_timestamp()
FROM unnest($1::uuid[], $2::bigint[]) AS t (order_id, sequence)
WHERE d.order_id = t.order_id AND d.sequence = t.sequence AND d.resolved_at IS NULL;

-- name: resolve_dead_letter
UPDATE platform.dead_letters SET resolved_at = clock_timestamp()
WHERE topic = $1::text AND partition = $2::int AND record_offset = $3::bigint;

-- name: dead_letters
SELECT topic, partition, record_offset, headers, value, order_id, sequence, reason, received_at
FROM platform.dead_letters WHERE resolved_at IS NULL ORDER BY received_at, topic, partition, record_offset LIMIT $1::int;

-- name: orders_to_ask_for
-- Each again only after a while, which `asked_at` notes: the relay may not have it yet, or be away.
UPDATE platform.streams AS s SET asked_at = clock_timestamp()
FROM (
    SELECT order_id FROM platform.streams
    WHERE waiting_since IS NOT NULL
        AND (asked_at IS NULL OR asked_at < clock_timestamp() - make_interval(secs => $1::float8))
    ORDER BY waiting_since LIMIT $2::int FOR UPDATE SKIP LOCKED
) AS waiting
WHERE s.order_id = waiting.order_id
RETURNING s.order_id, s.sequence + 1 AS first, (
    SELECT min(i.sequence) - 1 FROM platform.inbox AS i WHERE i.order_id = s.order_id AND i.state = 'WAITING'
) AS last;

-- name: keep_watermark
INSERT INTO platform.watermarks AS w (topic, up_to, partitions, missing, missing_count)
VALUES ($1::text, $2::timestamptz, $3::jsonb, $4::jsonb, $5::bigint)
ON CONFLICT (topic) DO UPDATE SET
    up_to = excluded.up_to, partitions = excluded.partitions, missing = excluded.missing,
    missing_count = excluded.missing_count, received_at = clock_timestamp()
WHERE w.up_to < excluded.up_to;

-- name: watermark
SELECT up_to, partitions, missing, missing_count, received_at, checked_up_to FROM platform.watermarks WHERE topic = $1::text;

-- name: first_moment
SELECT min(occurred_at) FROM platform.inbox;

-- name: set_checked
UPDATE platform.watermarks SET checked_up_to = $2::timestamptz WHERE topic = $1::text;

-- name: events_of_bucket
SELECT event_id, order_id, sequence, shard, sha256 FROM platform.inbox
WHERE occurred_at >= $1::timestamptz AND occurred_at < $2::timestamptz;

-- name: put_bucket
INSERT INTO platform.buckets (bucket, shard, state, findings)
VALUES ($1::timestamptz, $2::smallint, $3::text, $4::jsonb)
ON CONFLICT (bucket, shard) DO UPDATE SET
    state = excluded.state, findings = excluded.findings, compared_at = clock_timestamp();

-- name: unproven_buckets
SELECT bucket, shard, state, findings, compared_at FROM platform.buckets WHERE state <> 'EQUAL'
ORDER BY bucket, shard LIMIT $1::int;

-- name: buckets_to_compare
-- Whichever were looked at longest ago, so that those which can't be compared keep no other from its turn.
SELECT bucket, shard, state, findings, compared_at FROM platform.buckets
WHERE state = 'STALE'
    OR state <> 'EQUAL' AND compared_at < clock_timestamp() - make_interval(secs => $1::float8)
ORDER BY compared_at, bucket, shard LIMIT $2::int;

-- name: repaired_buckets
SELECT bucket, shard, state, findings, compared_at FROM platform.buckets WHERE state = 'EQUAL' AND findings <> '[]'
ORDER BY bucket DESC, shard LIMIT $1::int;

-- name: hold_duty
INSERT INTO platform.duties AS d (duty, holder, lease_until)
VALUES ($1::text, $2::text, clock_timestamp() + make_interval(secs => $3::float8))
ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE d.holder = excluded.holder OR d.lease_until < clock_timestamp()
RETURNING holder;

-- name: leave_duty
DELETE FROM platform.duties WHERE duty = $1::text AND holder = $2::text;

-- name: counts
SELECT (SELECT count(*) FROM platform.dead_letters WHERE resolved_at IS NULL) AS dead_letters,
       (SELECT count(*) FROM platform.streams WHERE waiting_since IS NOT NULL) AS waiting_orders,
       (SELECT count(*) FROM platform.buckets WHERE state = 'DIFFERS') AS differing_buckets,
       clock_timestamp() AS now;

-- name: prune_inbox
-- What waits is kept; duplicates of what is gone are known by their sequence.
WITH old AS (
    SELECT event_id FROM platform.inbox
    WHERE occurred_at < clock_timestamp() - make_interval(secs => $1::float8) AND state <> 'WAITING' LIMIT $2::int
)
DELETE FROM platform.inbox AS i USING old WHERE i.event_id = old.event_id;

-- name: prune_buckets
DELETE FROM platform.buckets WHERE bucket < clock_timestamp() - make_interval(secs => $1::float8);

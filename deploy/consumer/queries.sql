-- name: begin_partitions
INSERT INTO platform.offsets (topic, partition, position) VALUES ($1::text, $2::int, $3::bigint)
ON CONFLICT (topic, partition) DO NOTHING;

-- name: positions
SELECT partition, position FROM platform.offsets WHERE topic = $1::text;

-- name: move_positions
-- Only from the expected position: a process that lost a partition and doesn't know it yet moves nothing.
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
-- By order ids or event ids. The payload only of events that wait.
SELECT event_id, order_id, sequence, type, occurred_at, CASE WHEN state = 'WAITING' THEN payload END AS payload, state,
       sha256, topic
FROM platform.inbox WHERE order_id = ANY ($1::uuid[]) OR event_id = ANY ($2::uuid[]);

-- name: insert_event
-- An old dead letter may be the record of an event that the relay still had when the record was published.
INSERT INTO platform.inbox (
    event_id, order_id, sequence, type, occurred_at, shard, payload, sha256, partition, record_offset, state, before,
    source, removed_before, topic
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $12, $13::text::jsonb, $14::text, CASE WHEN $14::text = 'topic' THEN (
    SELECT removed_before FROM platform.watermarks WHERE topic = $11::text
) END, $11::text);

-- name: set_state
UPDATE platform.inbox SET state = $2::text, before = $3::text::jsonb WHERE event_id = $1::uuid;

-- name: doubt_streams
UPDATE platform.streams SET doubted_at = clock_timestamp(), asked_at = NULL WHERE order_id = ANY ($1::uuid[]);

-- name: doubt_odd_times
-- Orders of those events whose minute has been compared already, or begins more than $2 seconds from now.
UPDATE platform.streams SET doubted_at = clock_timestamp(), asked_at = NULL
WHERE order_id IN (
    SELECT i.order_id FROM platform.inbox AS i
    WHERE i.event_id = ANY ($1::uuid[])
        AND (i.occurred_at > clock_timestamp() + make_interval(secs => $2::float8)
            OR i.occurred_at < (SELECT checked_up_to FROM platform.watermarks WHERE topic = i.topic))
);

-- name: doubt_before
-- Orders with events of topic $2 before $1.
UPDATE platform.streams SET doubted_at = clock_timestamp(), asked_at = NULL
WHERE order_id IN (SELECT order_id FROM platform.inbox WHERE occurred_at < $1::timestamptz AND topic = $2::text);

-- name: doubt_forged
-- Orders with withdrawn events, whose events are compared once more.
UPDATE platform.streams SET doubted_at = clock_timestamp(), asked_at = NULL
WHERE order_id IN (SELECT order_id FROM platform.forged);

-- name: settle_stream
-- Unless it was doubted again meanwhile.
UPDATE platform.streams SET doubted_at = NULL WHERE order_id = $1::uuid AND doubted_at = $2::timestamptz;

-- name: events_of_order
-- `proven`: the relay has sent the event itself, and its history of that time was not replaced since.
SELECT i.event_id, i.order_id, i.sequence, i.type, i.occurred_at, i.sha256, i.state, i.before, i.removed_before, i.topic,
       i.source = 'relay' AND NOT EXISTS (
           SELECT FROM platform.restores
           WHERE topic = i.topic AND i.occurred_at >= since AND i.received_at < declared_at
       ) AS proven
FROM platform.inbox AS i WHERE i.order_id = $1::uuid ORDER BY i.sequence;

-- name: confirm_events
-- The relay has shown these events. If it removes them later, they stay true.
UPDATE platform.inbox SET removed_before = NULL WHERE event_id = ANY ($1::uuid[]) AND removed_before IS NOT NULL;

-- name: set_topic
-- The relay of topic $2 has shown these events, which were read from another topic.
UPDATE platform.inbox SET topic = $2::text WHERE event_id = ANY ($1::uuid[]);

-- name: letters_of_order
SELECT topic, partition, record_offset, headers, value, removed_before FROM platform.dead_letters
WHERE order_id = $1::uuid AND resolved_at IS NULL ORDER BY topic, partition, record_offset;

-- name: events_elsewhere
-- Events with ids that belong to order $1, stored for other orders.
SELECT event_id, order_id FROM platform.inbox
WHERE event_id = ANY ($2::uuid[]) AND order_id <> $1::uuid AND source <> 'relay';

-- name: insert_restore
INSERT INTO platform.restores (topic, since, partitions) VALUES ($1::text, $2::timestamptz, $3::jsonb);

-- name: forget_compared
-- Every minute from $2 on is compared again.
WITH compared AS (
    DELETE FROM platform.buckets WHERE topic = $1::text AND bucket >= $2::timestamptz
)
UPDATE platform.watermarks SET checked_up_to = least(checked_up_to, $2::timestamptz) WHERE topic = $1::text;

-- name: withdraw_events
-- What the relay has sent itself is never withdrawn, unless its history of that time was replaced since. `lost`: the
-- record was on the topic, or sent by the relay, before a restore to an earlier time was declared.
WITH withdrawn AS (
    DELETE FROM platform.inbox AS i
    WHERE i.event_id = ANY ($1::uuid[]) AND (i.source <> 'relay' OR EXISTS (
        SELECT FROM platform.restores
        WHERE topic = i.topic AND i.occurred_at >= since AND i.received_at < declared_at
    ))
    RETURNING i.*, EXISTS (
        SELECT FROM platform.restores AS r
        WHERE r.topic = i.topic AND i.occurred_at >= r.since
            AND coalesce(i.record_offset < (r.partitions ->> i.partition::text)::bigint, i.received_at < r.declared_at)
    ) AS lost
), kept AS (
    INSERT INTO platform.forged
        (event_id, order_id, sequence, type, occurred_at, payload, partition, record_offset, reason, lost, topic)
    SELECT w.event_id, w.order_id, w.sequence, w.type, w.occurred_at, w.payload, w.partition, w.record_offset,
           t.reason, w.lost, w.topic
    FROM withdrawn AS w JOIN unnest($1::uuid[], $2::text[]) AS t (event_id, reason) ON t.event_id = w.event_id
)
SELECT event_id, order_id, sequence, type, topic, partition, record_offset, state, before, lost FROM withdrawn
ORDER BY order_id, sequence;

-- name: events_after
-- The events of each order after a sequence.
SELECT i.event_id, i.order_id, i.sequence, i.type, i.occurred_at, i.payload, i.state, i.sha256, i.topic
FROM platform.inbox AS i JOIN unnest($1::uuid[], $2::bigint[]) AS t (order_id, sequence) ON t.order_id = i.order_id
WHERE i.sequence > t.sequence;

-- name: insert_forged
-- A dead letter that was on the topic before a restore was declared is lost, and not forged.
INSERT INTO platform.forged
    (event_id, order_id, sequence, type, occurred_at, payload, partition, record_offset, reason, topic, lost)
VALUES ($1, $2, $3, $4, $5::timestamptz, $6, $7::int, $8::bigint, $9, $10::text, EXISTS (
    SELECT FROM platform.restores
    WHERE topic = $10::text AND $5::timestamptz >= since AND $8::bigint < (partitions ->> $7::int::text)::bigint
))
RETURNING lost;

-- name: acquit
-- The relay has sent these events, so a record that was withdrawn and equals one of them was not forged.
DELETE FROM platform.forged AS f USING platform.inbox AS i
WHERE i.event_id = ANY ($1::uuid[]) AND f.event_id = i.event_id
    AND (f.order_id, f.sequence, f.type, f.occurred_at, f.payload)
        = (i.order_id, i.sequence, i.type, i.occurred_at, i.payload);

-- name: forged_events
-- $2: those that a restore has lost, or the others.
SELECT event_id, order_id, sequence, type, occurred_at, topic, partition, record_offset AS offset, reason, found_at
FROM platform.forged WHERE lost = $2::boolean ORDER BY forged_id DESC LIMIT $1::int;

-- name: delete_orders
DELETE FROM platform.orders WHERE order_id = ANY ($1::uuid[]);

-- name: move_stream
UPDATE platform.streams
SET sequence = $2::bigint, waiting_since = CASE WHEN $3::boolean THEN coalesce(waiting_since, clock_timestamp()) END
WHERE order_id = $1::uuid;

-- name: put_order
INSERT INTO platform.orders (order_id, status, user_id, total_amount, currency) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (order_id) DO UPDATE SET
    status = excluded.status, user_id = excluded.user_id, total_amount = excluded.total_amount,
    currency = excluded.currency, changed_at = clock_timestamp();

-- name: add_sales
INSERT INTO platform.sales AS s (currency, paid_orders, paid_amount, refunded_orders, refunded_amount)
VALUES ($1::text, $2::bigint, $3::numeric, $4::bigint, $5::numeric)
ON CONFLICT (currency) DO UPDATE SET
    paid_orders = s.paid_orders + excluded.paid_orders, paid_amount = s.paid_amount + excluded.paid_amount,
    refunded_orders = s.refunded_orders + excluded.refunded_orders,
    refunded_amount = s.refunded_amount + excluded.refunded_amount;

-- name: mark_bucket_stale
-- $3 is a shard modulo four. With more shards, some are compared again without a need.
UPDATE platform.buckets SET state = 'STALE'
WHERE topic = $1::text AND bucket = $2::timestamptz AND shard % 4 = $3::smallint AND state <> 'STALE';

-- name: insert_dead_letter
INSERT INTO platform.dead_letters (
    topic, partition, record_offset, headers, value, order_id, sequence, reason, removed_before
)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6, $7, $8, (SELECT removed_before FROM platform.watermarks WHERE topic = $1))
ON CONFLICT (topic, partition, record_offset) DO NOTHING;

-- name: resolve_dead_letter_of
-- The event was received in another way.
UPDATE platform.dead_letters SET resolved_at = clock_timestamp()
WHERE order_id = $1::uuid AND sequence = $2::bigint AND resolved_at IS NULL;

-- name: resolve_dead_letter
-- The record could be read after all.
UPDATE platform.dead_letters SET resolved_at = clock_timestamp()
WHERE topic = $1::text AND partition = $2::int AND record_offset = $3::bigint;

-- name: dead_letters
-- The oldest that are not resolved, at most $1.
SELECT topic, partition, record_offset, headers, value, order_id, sequence, reason, received_at
FROM platform.dead_letters WHERE resolved_at IS NULL
ORDER BY received_at, topic, partition, record_offset LIMIT $1::int;

-- name: orders_to_ask_for
-- Orders with a gap or a doubt that nobody has asked for within $1 seconds, at most $2, with the topics that named them.
-- `topics` is empty if an event was withdrawn: its relay is unknown, because its URL may have been another relay's.
-- `asked_at` makes sure that time passes before the next request: the relay may not have the event yet, or be away.
UPDATE platform.streams AS s SET asked_at = clock_timestamp()
FROM (
    SELECT order_id FROM platform.streams
    WHERE (waiting_since IS NOT NULL OR doubted_at IS NOT NULL)
        AND (asked_at IS NULL OR asked_at < clock_timestamp() - make_interval(secs => $1::float8))
    ORDER BY asked_at NULLS FIRST, least(waiting_since, doubted_at) LIMIT $2::int FOR UPDATE SKIP LOCKED
) AS open
WHERE s.order_id = open.order_id
RETURNING s.order_id, s.doubted_at, ARRAY(
    SELECT topic FROM (
        SELECT topic FROM platform.inbox WHERE order_id = s.order_id
        UNION SELECT topic FROM platform.dead_letters WHERE order_id = s.order_id AND resolved_at IS NULL
    ) AS named
    WHERE NOT EXISTS (SELECT FROM platform.forged WHERE order_id = s.order_id) ORDER BY topic
) AS topics;

-- name: last_sequence
SELECT sequence FROM platform.streams WHERE order_id = $1::uuid;

-- name: keep_watermark
-- Without a true watermark from the topic, $5 and $6 are null.
INSERT INTO platform.watermarks AS w (topic, up_to, oldest, partitions, missing, missing_count)
VALUES ($1::text, $2::timestamptz, $3::timestamptz, $4::jsonb, coalesce($5::jsonb, '[]'), coalesce($6::bigint, 0))
ON CONFLICT (topic) DO UPDATE SET
    up_to = excluded.up_to, oldest = excluded.oldest, partitions = excluded.partitions,
    missing = coalesce($5::jsonb, w.missing), missing_count = coalesce($6::bigint, w.missing_count),
    received_at = clock_timestamp();

-- name: set_removed_before
-- Every record that was published while the relay had older events than $2 has been read.
UPDATE platform.watermarks SET removed_before = $2::timestamptz
WHERE topic = $1::text AND removed_before IS DISTINCT FROM $2::timestamptz;

-- name: watermark
SELECT up_to, oldest, partitions, missing, missing_count, checked_up_to FROM platform.watermarks WHERE topic = $1::text;

-- name: first_event_at
SELECT min(occurred_at) FROM platform.inbox WHERE topic = $1::text;

-- name: set_checked
-- Every minute before $2 has been compared.
UPDATE platform.watermarks SET checked_up_to = $2::timestamptz WHERE topic = $1::text;

-- name: events_of_bucket
-- Of shard $2 of $4. The column has the shard modulo four.
SELECT event_id, order_id, sequence, sha256 FROM platform.inbox
WHERE occurred_at >= $1::timestamptz AND occurred_at < $1::timestamptz + interval '1 minute' AND shard = $2::smallint % 4
    AND get_byte(uuid_send(order_id), 15) % $4::int = $2::smallint AND topic = $3::text;

-- name: put_bucket
INSERT INTO platform.buckets (topic, bucket, shard, state, findings)
VALUES ($1::text, $2::timestamptz, $3::smallint, $4::text, $5::jsonb)
ON CONFLICT (topic, bucket, shard) DO UPDATE SET
    state = excluded.state, findings = excluded.findings, compared_at = clock_timestamp();

-- name: unproven_buckets
SELECT topic, bucket, shard, state, findings, compared_at FROM platform.buckets WHERE topic = $1::text AND state <> 'EQUAL'
ORDER BY bucket, shard LIMIT $2::int;

-- name: buckets_to_compare
-- At most $3 minutes of topic $1 that got an event after they were compared, or were not equal $2 seconds ago.
-- Those compared longest ago come first: so minutes that can't be compared don't keep others from being compared.
SELECT bucket, shard, state, findings, compared_at FROM platform.buckets
WHERE topic = $1::text AND (
    state = 'STALE' OR state <> 'EQUAL' AND compared_at < clock_timestamp() - make_interval(secs => $2::float8)
)
ORDER BY compared_at, bucket, shard LIMIT $3::int;

-- name: repaired_buckets
SELECT topic, bucket, shard, state, findings, compared_at FROM platform.buckets WHERE topic = $1::text AND state = 'EQUAL' AND findings <> '[]'
ORDER BY bucket DESC, shard LIMIT $2::int;

-- name: take_leadership
-- Process $2 leads loop $1 for $3 seconds. No row if another process leads it.
INSERT INTO platform.duties AS d (duty, holder, lease_until)
VALUES ($1::text, $2::text, clock_timestamp() + make_interval(secs => $3::float8))
ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE d.holder = excluded.holder OR d.lease_until < clock_timestamp()
RETURNING holder;

-- name: leadership
-- Until when a process leads loop $1, and how many seconds that are. No row if none does.
SELECT lease_until, extract(epoch FROM lease_until - clock_timestamp())::float8 AS seconds_left
FROM platform.duties WHERE duty = $1::text AND lease_until >= clock_timestamp();

-- name: leave_leadership
DELETE FROM platform.duties WHERE holder = $1::text;

-- name: counts
SELECT (SELECT count(*) FROM platform.dead_letters WHERE resolved_at IS NULL) AS dead_letters,
       (SELECT count(*) FROM platform.streams WHERE waiting_since IS NOT NULL) AS waiting_orders,
       (SELECT count(*) FROM platform.buckets WHERE state = 'DIFFERS') AS differing_buckets,
       (SELECT count(*) FROM platform.forged WHERE NOT lost) AS forged_events,
       (SELECT count(*) FROM platform.forged WHERE lost) AS lost_events,
       clock_timestamp() AS now;

-- name: prune_inbox
-- Events that wait or are doubted are kept. A duplicate of a deleted event is recognised by its sequence.
WITH old AS (
    SELECT event_id FROM platform.inbox AS i
    WHERE occurred_at < clock_timestamp() - make_interval(secs => $1::float8) AND state <> 'WAITING'
        AND NOT EXISTS (SELECT FROM platform.streams WHERE order_id = i.order_id AND doubted_at IS NOT NULL)
    LIMIT $2::int
)
DELETE FROM platform.inbox AS i USING old WHERE i.event_id = old.event_id;

-- name: prune_buckets
DELETE FROM platform.buckets WHERE bucket < clock_timestamp() - make_interval(secs => $1::float8);

-- name: prune_forged
DELETE FROM platform.forged WHERE found_at < clock_timestamp() - make_interval(secs => $1::float8);

-- name: missing_rights
-- The consumer needs these rights, as in rights.sql. They are granted to the role that the logins of the consumer
-- share.
SELECT format('GRANT %s ON %s TO %I;', wanted, oid::regclass, coalesce((
    SELECT min(pg_get_userbyid(roleid)) FROM pg_auth_members WHERE member = current_user::regrole
), current_user))
FROM pg_class, unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS wanted
WHERE relnamespace = to_regnamespace('platform') AND relkind = 'r' AND NOT has_table_privilege(oid, wanted)
    AND relname <> 'migrations'
    AND (wanted <> 'DELETE' OR relname IN ('inbox', 'orders', 'forged', 'buckets', 'duties'))
    AND (wanted <> 'UPDATE' OR relname NOT IN ('forged', 'restores'));

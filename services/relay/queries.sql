-- name: used_by_functions
-- What the functions of this schema do beside the queries here. It is only planned, to find out whether they can do it.
WITH settled AS (
    UPDATE orders.outbox SET status = 'SENT', sent_at = now(), parked_at = NULL, parked_reason = NULL WHERE false
), recorded AS (
    INSERT INTO relay.operator_acts DEFAULT VALUES
)
SELECT orders.redacted(NULL), orders.redact_event(NULL), watermark.epoch, mark_at, mark_xid, missing, missing_count,
       sweep_at, sweep_took, scan_moved_at
FROM relay.watermark CROSS JOIN relay.shards;

-- name: cycle
SELECT * FROM relay.cycle($1::smallint, $2::bigint, $3::bigint, $4::float8, $5::int, $6::bigint, $7::boolean);

-- name: cycle_together
-- The cycles of several shards in one commit. If one of the shards is not held any more, none of them is changed.
-- If another transaction keeps a row locked, the others must not wait for long; the limit ends with the statement.
SELECT claimed.*, held.shard
FROM (
        SELECT *, set_config('lock_timeout', $7::text, true)
        FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS each (shard, epoch, number)
    ) AS held,
    relay.cycle(held.shard, held.epoch, held.number, $4::float8, $5::int, $6::bigint, true) AS claimed;

-- name: note_transactional_id
UPDATE relay.shards SET transactional_id = $3::text WHERE shard = $1::smallint AND epoch = $2::bigint
RETURNING batch_number;

-- name: take_lease
-- A batch that was sent without a transaction is sent again, because it is unknown whether it arrived.
UPDATE relay.shards SET
    epoch = epoch + 1,
    holder = $2::text,
    lease_expires_at = now() + make_interval(secs => $3::float8),
    outbox_ids = CASE WHEN in_transaction THEN outbox_ids ELSE '{}' END,
    -- The claimed events may be pending again, and have lower ids.
    scan_from = scan_floor,
    scan_next = scan_floor
WHERE shard = $1::smallint AND (holder IS NULL OR holder = $2::text OR lease_expires_at < now() OR $4::boolean)
RETURNING epoch, batch_number, cardinality(outbox_ids) AS claimed, declared, transactional_id;

-- name: release_lease
UPDATE relay.shards SET holder = NULL, lease_expires_at = '-infinity' WHERE shard = $1::smallint AND epoch = $2::bigint;

-- name: check_lease
SELECT batch_number FROM relay.shards WHERE shard = $1::smallint AND epoch = $2::bigint;

-- name: unclaim
UPDATE relay.shards SET batch_number = batch_number - 1, outbox_ids = '{}'
WHERE shard = $1::smallint AND epoch = $2::bigint AND batch_number = $3::bigint AND in_transaction AND outbox_ids <> '{}'
RETURNING batch_number;

-- name: declare
UPDATE relay.shards SET batch_number = 0, outbox_ids = '{}', declared = true
WHERE shard = $1::smallint AND epoch = $2::bigint
RETURNING batch_number;

-- name: park
-- The refused event has the reason; every other unpublished event of its order waits behind it.
WITH fence AS MATERIALIZED (
    SELECT shard FROM relay.shards WHERE shard = $1::smallint AND epoch = $2::bigint AND outbox_ids = '{}' FOR UPDATE
), refused AS (
    SELECT outbox.outbox_id, outbox.order_id FROM fence
    JOIN orders.outbox ON outbox.outbox_id = $3::bigint AND outbox.status = 'PENDING'
)
UPDATE orders.outbox SET
    status = 'PARKED',
    parked_at = now(),
    parked_reason = CASE WHEN outbox.outbox_id = refused.outbox_id THEN $4::text ELSE 'follows a parked event' END
FROM refused
WHERE outbox.order_id = refused.order_id AND outbox.status = 'PENDING' AND outbox.outbox_id >= refused.outbox_id
RETURNING outbox.outbox_id, outbox.order_id::text AS order_id;

-- name: topic_partitions
SELECT clock_timestamp() AS now, (SELECT partitions FROM relay.topics WHERE topic = $1::text) AS partitions,
       (SELECT shards FROM orders.relay_shards) AS shards;

-- name: record_partitions
INSERT INTO relay.topics (topic, partitions) VALUES ($1::text, $2::int)
ON CONFLICT (topic) DO UPDATE SET
    partitions = CASE WHEN $3::boolean THEN excluded.partitions ELSE greatest(topics.partitions, excluded.partitions) END,
    recorded_at = excluded.recorded_at
RETURNING partitions;

-- name: shards_with_pending
SELECT shard FROM relay.shards_with_pending($1::smallint[]) AS shard;

-- name: keep_replica
INSERT INTO relay.replicas (replica, expires_at) VALUES ($1::text, now() + make_interval(secs => $2::float8))
ON CONFLICT (replica) DO UPDATE SET expires_at = excluded.expires_at;

-- name: live_replicas
SELECT replica FROM relay.replicas WHERE expires_at > now() ORDER BY replica;

-- name: forget_replicas
DELETE FROM relay.replicas WHERE replica = $1::text OR expires_at < now() - interval '1 hour';

-- name: shards
SELECT shard, holder, lease_expires_at < now() AS expired FROM relay.shards ORDER BY shard;

-- name: backlog
SELECT shard, pending, parked, oldest_seconds FROM relay.backlog($1::int);

-- name: outbox_partitions
-- `kept`: closed for longer than $1 seconds, with events that are still pending or parked.
SELECT
    count(*) FILTER (WHERE dropped_at IS NULL) AS attached,
    count(*) FILTER (WHERE published_at IS NULL AND closed_at < clock_timestamp() - make_interval(secs => $1::float8))
        AS kept,
    coalesce(extract(epoch FROM clock_timestamp() - min(greatest(opened_at, attached_at))
        FILTER (WHERE dropped_at IS NULL AND opened_at IS NOT NULL)), 0)::float8 AS oldest_seconds
FROM orders.outbox_partitions;

-- name: hold_leadership
INSERT INTO relay.duties (duty, holder, lease_until)
VALUES ($1::text, $2::text, clock_timestamp() + make_interval(secs => $3::float8))
ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE relay.duties.lease_until < clock_timestamp() OR relay.duties.holder = excluded.holder
RETURNING holder;

-- name: rotate_outbox
SELECT orders.rotate_outbox($1::float8);

-- name: note_published
-- Claims begin no lower than the first partition with unpublished events.
WITH noted AS MATERIALIZED (
    SELECT orders.note_published() AS floor
)
UPDATE relay.shards SET scan_floor = noted.floor FROM noted WHERE scan_floor < noted.floor;

-- name: drop_published
SELECT orders.drop_published($1::float8);

-- name: list_parked
-- An operator has to decide on the first event of each order; its other events wait behind it.
SELECT event_id::text, order_id::text, sequence, type, shard, octet_length(payload) AS bytes,
       sequence = min(sequence) OVER (PARTITION BY order_id) AS first, parked_at, parked_reason
FROM orders.outbox WHERE status = 'PARKED' ORDER BY order_id, sequence LIMIT $1::int;

-- name: list_parked_orders
SELECT DISTINCT order_id FROM orders.outbox WHERE status = 'PARKED' AND order_id > $1::uuid
ORDER BY order_id LIMIT $2::int;

-- name: act_on_parked
SELECT event_id::text, order_id::text, sequence, type
FROM relay.act_on_parked($1::text, $2::uuid, $3::text, $4::text, $5::boolean);

-- name: list_acts
SELECT act_id, at, actor, act, order_id::text, event_id::text, reason, detail
FROM relay.operator_acts ORDER BY act_id DESC LIMIT $1::int;

-- name: advance_watermark
SELECT * FROM relay.advance_watermark($1::text, $2::float8, $3::int);

-- name: release_watermark
UPDATE relay.watermark SET holder = NULL, lease_expires_at = '-infinity' WHERE holder = $1::text;

-- name: confirm_reads
-- Only the commit counts: shared/postgres/connections.py:confirmed. This lock waits for no update of the row, and no
-- update waits for it.
SELECT FROM relay.watermark FOR KEY SHARE;

-- name: watermark
SELECT up_to, extract(epoch FROM clock_timestamp() - up_to)::float8 AS lag_seconds, clock_timestamp() AS now,
       (SELECT shards FROM orders.relay_shards) AS shards
FROM relay.watermark;

-- name: digest
-- The digest of the events sent in one bucket, by shard. Parked events may still be published. So may pending events
-- that the watermark has passed: an operator has retried them, or the clock was set back.
SELECT
    shards.shard,
    count(outbox.event_id) FILTER (WHERE outbox.status = 'SENT') AS count,
    encode(sha256(coalesce(string_agg(uuid_send(outbox.event_id) || sha256(outbox.payload), ''::bytea ORDER BY outbox.event_id)
        FILTER (WHERE outbox.status = 'SENT'), ''::bytea)), 'hex') AS hash,
    coalesce(bool_or(outbox.status IN ('PARKED', 'PENDING')), false) AS any_waiting
FROM relay.shards LEFT JOIN orders.outbox
    ON outbox.shard = shards.shard AND outbox.occurred_at >= $1::timestamptz AND outbox.occurred_at < $2::timestamptz
WHERE $3::smallint IS NULL OR shards.shard = $3::smallint
GROUP BY shards.shard ORDER BY shards.shard;

-- name: events_of_order
-- The events that fit into $5 bytes, but at least one; `further`: whether there are any after it.
WITH events AS MATERIALIZED (
    SELECT * FROM orders.outbox WHERE order_id = $1::uuid AND sequence BETWEEN $2::bigint AND $3::bigint
    ORDER BY sequence LIMIT $4::bigint + 1
), sized AS (
    SELECT *, sum(octet_length(payload)) OVER (ORDER BY sequence ROWS UNBOUNDED PRECEDING) AS bytes,
           lead(sequence) OVER (ORDER BY sequence) IS NOT NULL AS further
    FROM events
)
SELECT event_id, order_id, sequence, type, occurred_at, status, shard, payload, sha256(payload) AS hash, further
FROM sized WHERE bytes <= $5::bigint OR bytes = octet_length(payload) ORDER BY sequence LIMIT $4::bigint;

-- name: events_of_bucket
SELECT event_id, order_id, sequence, type, occurred_at, status, shard, sha256(payload) AS hash FROM orders.outbox
WHERE shard = $1::smallint AND occurred_at >= $2::timestamptz AND occurred_at < $3::timestamptz AND event_id > $4::uuid
ORDER BY event_id LIMIT $5::int;

-- name: removed_up_to
-- The newest time of which events may have been removed: a partition's writers have ended before it is marked as
-- published.
SELECT max(published_at) FROM orders.outbox_partitions WHERE dropped_at IS NOT NULL;

-- name: lost_to_replay
-- The newest time of events that were removed before the replay reached them. Events that were removed before the
-- replay was created don't count: it begins after them, or takes what still exists. A partition has 2^40 ids.
SELECT max(removed.published_at) FROM relay.replays
JOIN orders.outbox_partitions AS removed ON position < (removed.partition + 1) << 40
    AND CASE WHEN from_at IS NULL THEN removed.dropped_at > created_at ELSE removed.published_at >= from_at END
WHERE replay_id = $1::uuid AND state <> 'DONE' AND removed.dropped_at IS NOT NULL;

-- name: create_replay
INSERT INTO relay.replays (replay_id, topic, order_id, type, from_at, to_at, actor, reason, up_to)
VALUES ($1::uuid, $2::text, $3::uuid, $4::text, $5::timestamptz, $6::timestamptz, $7::text, $8::text, coalesce(
    (SELECT outbox_id FROM orders.outbox WHERE status = 'SENT' ORDER BY outbox_id DESC LIMIT 1), 0
))
RETURNING *;

-- name: get_replay
SELECT * FROM relay.replays WHERE replay_id = $1::uuid;

-- name: list_replays
SELECT * FROM relay.replays ORDER BY created_at DESC LIMIT $1::int;

-- name: next_replay
SELECT * FROM relay.replays WHERE state = 'RUNNING' ORDER BY created_at LIMIT 1;

-- name: replay_window
-- The next events, including those that the replay does not select, so that each step costs the same. It stops before
-- an event that is still pending: later events could belong to the same order.
-- Only one branch is executed: each uses another index.
WITH next AS MATERIALIZED (
    (SELECT * FROM orders.outbox WHERE $8::uuid IS NULL AND outbox_id > $1::bigint AND outbox_id <= $2::bigint
     ORDER BY outbox_id LIMIT $6::int)
    UNION ALL
    (SELECT * FROM orders.outbox WHERE order_id = $8::uuid AND outbox_id > $1::bigint AND outbox_id <= $2::bigint
     ORDER BY outbox_id LIMIT $6::int)
), sized AS (
    SELECT *,
        status = 'SENT' AND ($3::text IS NULL OR type = $3::text) AND ($4::timestamptz IS NULL OR occurred_at >= $4)
            AND ($5::timestamptz IS NULL OR occurred_at < $5) AS wanted,
        sum(octet_length(payload)) OVER (ORDER BY outbox_id ROWS UNBOUNDED PRECEDING) AS bytes
    FROM next WHERE outbox_id < coalesce((SELECT min(outbox_id) FROM next WHERE status = 'PENDING'), 9223372036854775807)
)
SELECT outbox_id, event_id::text, order_id::text, sequence, type, payload, traceparent, occurred_at, wanted FROM sized
WHERE bytes <= $7::bigint OR bytes = octet_length(payload) ORDER BY outbox_id;

-- name: replay_waits
SELECT EXISTS (
    SELECT FROM orders.outbox WHERE outbox_id > $1::bigint AND outbox_id <= $2::bigint
    AND ($3::uuid IS NULL OR order_id = $3::uuid)
);

-- name: advance_replay
-- Only from the position that the caller read: another replica may have become the leader.
UPDATE relay.replays SET
    position = $3::bigint,
    events = events + $4::bigint,
    state = CASE WHEN $5::boolean THEN 'DONE' ELSE state END,
    changed_at = clock_timestamp()
WHERE replay_id = $1::uuid AND position = $2::bigint AND state = 'RUNNING'
RETURNING true;

-- name: fail_replay
UPDATE relay.replays SET state = 'FAILED', failure = $3::text, changed_at = clock_timestamp()
WHERE replay_id = $1::uuid AND position = $2::bigint AND state = 'RUNNING';

-- name: cancel_replay
UPDATE relay.replays SET
    state = 'CANCELLED', failure = NULL, changed_at = clock_timestamp(), changed_by = $2::text, changed_why = $3::text
WHERE replay_id = $1::uuid AND state IN ('RUNNING', 'FAILED')
RETURNING *;

-- name: resume_replay
UPDATE relay.replays SET
    state = 'RUNNING', failure = NULL, changed_at = clock_timestamp(), changed_by = $2::text, changed_why = $3::text
WHERE replay_id = $1::uuid AND state IN ('CANCELLED', 'FAILED')
RETURNING *;

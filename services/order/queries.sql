-- All SQL of the order service.

-- name: used_by_functions
-- What the functions of this schema read beside the queries here. It is only planned, to find out whether they can.
SELECT shards FROM orders.relay_shards;

-- name: get_order
SELECT * FROM orders.orders WHERE order_id = $1;

-- name: list_orders
SELECT * FROM orders.orders WHERE order_id < $1 ORDER BY order_id DESC LIMIT $2;

-- name: list_orders_of_user
SELECT * FROM orders.orders WHERE order_id < $1 AND user_id = $3 ORDER BY order_id DESC LIMIT $2;

-- name: list_orders_by_status
SELECT * FROM orders.orders WHERE order_id < $1 AND status = $3 ORDER BY order_id DESC LIMIT $2;

-- name: list_orders_of_user_by_status
SELECT * FROM orders.orders WHERE order_id < $1 AND user_id = $3 AND status = $4 ORDER BY order_id DESC LIMIT $2;

-- name: list_sagas_of_order
SELECT saga_id, kind, status, target, attempt, stuck, problem, log, started_at, ended_at
FROM orders.sagas WHERE order_id = $1 ORDER BY started_at, saga_id;

-- name: get_saga
SELECT s.saga_id, s.kind, s.version, s.status AS saga_status, s.target, s.attempt, s.owner, s.stuck, s.problem,
       s.traceparent, o.*
FROM orders.sagas AS s JOIN orders.orders AS o USING (order_id)
WHERE s.saga_id = $1;

-- Starting ---------------------------------------------------------------------------------------------------

-- name: claim_keys
INSERT INTO orders.idempotency_keys (user_id, operation, key, fingerprint, saga_id)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::uuid[])
ON CONFLICT DO NOTHING
RETURNING user_id, operation, key;

-- name: read_keys
-- `refused`: the end of a saga that was refused, which is the key's answer. A subquery, because it is always planned as a
-- lookup by key.
SELECT k.user_id, k.operation, k.key, k.fingerprint, k.saga_id, k.status, k.body, k.location,
       (SELECT jsonb_build_object('kind', s.kind, 'order_id', s.order_id, 'problem', s.problem, 'lines', o.lines)
        FROM orders.sagas AS s JOIN orders.orders AS o USING (order_id)
        WHERE s.saga_id = k.saga_id AND k.status IS NULL AND s.ended_at IS NOT NULL AND s.problem IS NOT NULL)
           AS refused
FROM unnest($1::text[], $2::text[], $3::text[]) AS t (user_id, operation, key)
JOIN orders.idempotency_keys AS k USING (user_id, operation, key);

-- name: answer_keys_now
UPDATE orders.idempotency_keys AS k
SET saga_id = NULL, status = t.status, body = t.body, location = t.location
FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::bytea[], $6::text[])
    AS t (user_id, operation, key, status, body, location)
WHERE k.user_id = t.user_id AND k.operation = t.operation AND k.key = t.key;

-- name: attach_keys
UPDATE orders.idempotency_keys AS k SET saga_id = t.saga_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[]) AS t (user_id, operation, key, saga_id)
WHERE k.user_id = t.user_id AND k.operation = t.operation AND k.key = t.key;

-- name: place_orders
-- New orders, each with its saga, in one statement. Outside a transaction block, it is a transaction by itself.
WITH t AS (
    SELECT *, clock_timestamp() AS now FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::integer[], $8::text[])
        AS t (saga_id, order_id, user_id, lines, coupon_id, kind, attempt, traceparent)
), placed AS (
    INSERT INTO orders.orders
        (order_id, user_id, status, lines, coupon_id, currency, payment_attempt, created_at, expires_at)
    SELECT order_id, user_id, 'PLACING', lines::jsonb, coupon_id, $9, attempt, now,
           CASE WHEN attempt = 0 THEN now + make_interval(secs => $10) END
    FROM t
    RETURNING order_id, created_at, expires_at
), begun AS (
    INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, attempt, owner, traceparent, started_at)
    SELECT saga_id, order_id, kind, $11, 'RUNNING', attempt, $12, traceparent, now FROM t
)
SELECT order_id, created_at, expires_at FROM placed;

-- name: insert_sagas
INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, target, attempt, owner, traceparent, started_at)
SELECT saga_id, order_id, kind, $8, status, target, attempt, $9, traceparent, clock_timestamp()
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::text[])
    AS t (saga_id, order_id, kind, status, target, attempt, traceparent);

-- name: lock_orders
SELECT * FROM orders.orders WHERE order_id = ANY ($1::uuid[]) ORDER BY order_id FOR UPDATE;

-- name: read_live_sagas
SELECT order_id, saga_id, kind FROM orders.sagas
WHERE order_id = ANY ($1::uuid[]) AND status IN ('RUNNING', 'COMPENSATING');

-- name: read_clock
SELECT clock_timestamp();

-- name: begin_payments
UPDATE orders.orders SET status = 'PAYING', payment_attempt = payment_attempt + 1
WHERE order_id = ANY ($1::uuid[]) AND status = 'PENDING_PAYMENT' AND closing IS NULL
RETURNING *;

-- name: begin_closings
UPDATE orders.orders AS o SET closing = t.closing
FROM unnest($1::uuid[], $2::text[]) AS t (order_id, closing)
WHERE o.order_id = t.order_id AND o.status IN ('PENDING_PAYMENT', 'PAID') AND o.closing IS NULL
RETURNING o.*;

-- Transitions --------------------------------------------------------------------------------------------------

-- name: apply_transitions
-- Many transitions in one statement, each with its order, its event and its keys' answer. A refusal is not written to the
-- keys: it is the saga's problem, and its text is stored once. Outside a transaction block,
-- it is a transaction by itself. The saga's runner has computed the order: while a saga is live, only its own
-- transitions change its order.
WITH t AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::jsonb[],
                         $9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::text[], $14::timestamptz[],
                         $15::uuid[], $16::text[], $17::bytea[], $18::text[], $19::smallint[], $20::bytea[], $21::text[])
        AS t (saga_id, order_id, saga_from, saga_to, order_from, order_to, target, problem,
              log, lines, subtotal_amount, discount_amount, reason, paid_at,
              event_id, event, payload, traceparent, answer_status, answer_body, answer_location)
), locked AS (
    SELECT t.*
    FROM t
    JOIN orders.orders AS o ON o.order_id = t.order_id
    JOIN orders.sagas AS s ON s.saga_id = t.saga_id
    -- Not `s.owner = $22`: a plan made for an empty table would scan all sagas that this process ever owned.
    WHERE o.status = t.order_from AND s.status = t.saga_from AND s.owner IS NOT DISTINCT FROM $22
    ORDER BY o.order_id
    FOR UPDATE OF o, s
), updated_sagas AS (
    UPDATE orders.sagas AS s
    SET status = l.saga_to, target = l.target, problem = l.problem, log = s.log || l.log::jsonb, stuck = false,
        ended_at = CASE WHEN l.saga_to IN ('DONE', 'COMPENSATED') THEN clock_timestamp() END
    FROM locked AS l WHERE s.saga_id = l.saga_id
), updated_orders AS (
    UPDATE orders.orders AS o
    SET status = l.order_to,
        lines = coalesce(l.lines::jsonb, o.lines),
        subtotal_amount = coalesce(l.subtotal_amount, o.subtotal_amount),
        discount_amount = coalesce(l.discount_amount, o.discount_amount),
        total_amount = coalesce(l.subtotal_amount - l.discount_amount, o.total_amount),
        closing = CASE WHEN l.saga_to = 'COMPENSATED' THEN NULL ELSE o.closing END,
        reason = l.reason,
        paid_at = l.paid_at,
        event_sequence = o.event_sequence + (l.event IS NOT NULL)::integer
    FROM locked AS l
    WHERE o.order_id = l.order_id
    RETURNING o.order_id, o.event_sequence
), inserted_events AS (
    -- The sequence was incremented under the lock of the order's row.
    INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload, traceparent)
    SELECT l.event_id, l.order_id, c.event_sequence, l.event, l.payload, l.traceparent
    FROM locked AS l JOIN updated_orders AS c ON c.order_id = l.order_id
    WHERE l.event IS NOT NULL
    RETURNING 1
), notified AS (
    SELECT pg_notify('orders_outbox', '') FROM (SELECT FROM inserted_events LIMIT 1) AS any_event -- once for all events
), answered AS (
    UPDATE orders.idempotency_keys AS k
    SET status = l.answer_status, body = coalesce(l.answer_body, l.payload), location = l.answer_location
    FROM locked AS l
    WHERE k.saga_id = l.saga_id AND k.status IS NULL AND l.answer_status IS NOT NULL
)
SELECT l.saga_id, clock_timestamp() AS now, (SELECT count(*) FROM notified) AS notified FROM locked AS l;

-- name: answer_keys
-- Answer the keys that were attached to the saga while its transition waited for the order's lock, which a session that
-- attaches keys holds. It is a second statement, because a statement sees only what was committed before it began.
UPDATE orders.idempotency_keys AS k SET status = t.status, body = t.body, location = t.location
FROM unnest($1::uuid[], $2::smallint[], $3::bytea[], $4::text[]) AS t (saga_id, status, body, location)
WHERE k.saga_id = t.saga_id AND k.status IS NULL;

-- name: mark_stuck
UPDATE orders.sagas SET stuck = true
WHERE saga_id = $1 AND owner = $2 AND status = 'COMPENSATING' AND NOT stuck;

-- name: count_stuck
SELECT count(*) FROM orders.sagas WHERE status IN ('RUNNING', 'COMPENSATING') AND stuck;

-- Recovery -----------------------------------------------------------------------------------------------------

-- name: renew_lease
INSERT INTO orders.processes (process_id, lease_until)
VALUES ($1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (process_id) DO UPDATE SET lease_until = excluded.lease_until
RETURNING clock_timestamp();

-- name: list_closed_slots
SELECT slot, first_id FROM orders.closed_slots;

-- name: give_lease_up
DELETE FROM orders.processes WHERE process_id = $1;

-- name: forget_dead_processes
DELETE FROM orders.processes AS p
WHERE p.lease_until < clock_timestamp() - interval '1 hour'
  AND NOT EXISTS (SELECT 1 FROM orders.sagas AS s
                  WHERE s.owner = p.process_id AND s.status IN ('RUNNING', 'COMPENSATING'));

-- name: take_over
UPDATE orders.sagas SET owner = $1
WHERE saga_id IN (
    -- An array is computed once. If another process has just taken a row, Postgres checks the locked row against the
    -- array again. With a join it would check only the saga's side again, and the saga would be taken twice.
    SELECT s.saga_id FROM orders.sagas AS s
    WHERE s.status IN ('RUNNING', 'COMPENSATING') AND s.version = ANY ($2::integer[])
      AND s.owner = ANY (ARRAY(
          SELECT DISTINCT l.owner FROM orders.sagas AS l
          WHERE l.status IN ('RUNNING', 'COMPENSATING')
            AND NOT EXISTS (SELECT 1 FROM orders.processes AS p
                            WHERE p.process_id = l.owner AND p.lease_until > clock_timestamp())))
    ORDER BY s.saga_id LIMIT $3
    FOR UPDATE OF s SKIP LOCKED)
RETURNING saga_id;

-- name: list_own
SELECT saga_id FROM orders.sagas
WHERE owner = $1 AND status IN ('RUNNING', 'COMPENSATING') AND version = ANY ($2::integer[]);

-- name: count_unknown_versions
SELECT count(*) FROM orders.sagas
WHERE status IN ('RUNNING', 'COMPENSATING') AND NOT version = ANY ($1::integer[]);

-- Scheduled ----------------------------------------------------------------------------------------------------

-- name: list_expired
SELECT order_id FROM orders.orders
WHERE status = 'PENDING_PAYMENT' AND closing IS NULL AND expires_at <= now() AND (coupon_id IS NOT NULL) = $2
  -- Orders of a slot that moves to another cell expire there. Here they would stay at the head of every page.
  AND NOT EXISTS (SELECT FROM orders.closed_slots AS c WHERE c.slot = orders.slot_in(order_id) AND c.first_id <= order_id)
ORDER BY expires_at LIMIT $1;

-- Retention ----------------------------------------------------------------------------------------------------

-- name: prune_keys
-- now(), not clock_timestamp(): an index search needs a value that is stable during the statement.
DELETE FROM orders.idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT k.ctid FROM orders.idempotency_keys AS k
    WHERE k.created_at >= $1 AND k.created_at < now() - make_interval(hours => $3)
      -- A stuck saga's answer is as old as the saga's end. NOT EXISTS would be planned as a join that may read all
      -- sagas; this is a lookup by key. A saga that was pruned ended long enough ago.
      AND coalesce((SELECT coalesce(s.ended_at, 'infinity') FROM orders.sagas AS s WHERE s.saga_id = k.saga_id)
                   < now() - make_interval(hours => $3), true)
    ORDER BY k.created_at LIMIT $2
    FOR UPDATE OF k SKIP LOCKED))
RETURNING created_at;

-- name: prune_rejected
-- Orders with their sagas, and with the keys whose answers these are. No row of the outbox is deleted: a rejected order
-- has none.
WITH due AS MATERIALIZED (
    SELECT o.order_id FROM orders.orders AS o
    WHERE o.status = 'REJECTED' AND o.order_id > $1
      AND o.order_id < orders.first_id_after(now() - make_interval(hours => $3))
      -- As in prune_keys: a lookup by key. An order whose saga was stuck was rejected at the saga's end.
      AND coalesce((SELECT max(s.ended_at) FROM orders.sagas AS s WHERE s.order_id = o.order_id)
                   < now() - make_interval(hours => $3), true)
    ORDER BY o.order_id LIMIT $2
    FOR UPDATE OF o SKIP LOCKED
), ended AS (
    DELETE FROM orders.sagas WHERE order_id = ANY (ARRAY(SELECT order_id FROM due)) RETURNING saga_id
), answered AS (
    DELETE FROM orders.idempotency_keys WHERE saga_id = ANY (ARRAY(SELECT saga_id FROM ended)) AND status IS NULL
)
DELETE FROM orders.orders WHERE order_id = ANY (ARRAY(SELECT order_id FROM due))
RETURNING order_id;

-- name: prune_sagas
DELETE FROM orders.sagas WHERE saga_id = ANY (ARRAY(
    SELECT saga_id FROM orders.sagas
    WHERE saga_id > $1 AND saga_id < orders.first_id_after(now() - make_interval(days => $3))
      AND ended_at < now() - make_interval(days => $3)
    ORDER BY saga_id LIMIT $2
    FOR UPDATE SKIP LOCKED))
RETURNING saga_id;

-- Operators ----------------------------------------------------------------------------------------------------

-- name: list_live_sagas
SELECT saga_id, order_id, kind, version, status, target, attempt, owner, stuck, started_at,
       extract(epoch FROM clock_timestamp() - started_at)::float8 AS age_seconds
FROM orders.sagas
WHERE status IN ('RUNNING', 'COMPENSATING') AND started_at <= clock_timestamp() - make_interval(secs => $1)
ORDER BY started_at LIMIT $2;

-- name: list_leases
-- A full join, because an owner may have no lease: it has died or given its lease up, or an operator has released its
-- sagas. They are without a process until the next sweep takes them.
SELECT coalesce(p.process_id, s.owner) AS process_id, p.lease_until,
       coalesce(p.lease_until > clock_timestamp(), false) AS held, coalesce(s.live, 0) AS live, s.oldest
FROM orders.processes AS p
FULL JOIN (SELECT owner, count(*) AS live, min(started_at) AS oldest FROM orders.sagas
           WHERE status IN ('RUNNING', 'COMPENSATING') GROUP BY owner) AS s ON s.owner = p.process_id
WHERE s.live > 0 OR p.lease_until > clock_timestamp()
ORDER BY held DESC, process_id LIMIT $1;

-- name: find_sagas
SELECT saga_id FROM orders.sagas WHERE saga_id = $1 OR order_id = $1 ORDER BY started_at, saga_id;

-- name: release_sagas
UPDATE orders.sagas SET owner = '00000000-0000-0000-0000-000000000000'
WHERE saga_id = ANY ($1::uuid[]) AND status IN ('RUNNING', 'COMPENSATING')
RETURNING saga_id, order_id;

-- name: force_compensation
UPDATE orders.sagas
SET status = 'COMPENSATING', target = CASE kind WHEN 'pay' THEN 'CANCELLED' ELSE 'REJECTED' END, problem = $2,
    owner = '00000000-0000-0000-0000-000000000000'
WHERE saga_id = $1 AND status = 'RUNNING'
RETURNING saga_id, order_id;

-- name: take_for_resolution
UPDATE orders.sagas SET owner = $2 WHERE saga_id = $1 AND status = 'COMPENSATING'
RETURNING saga_id, order_id;

-- name: record_act
INSERT INTO orders.operator_acts (actor, act, order_id, saga_id, reason, detail) VALUES ($1, $2, $3, $4, $5, $6);

-- name: list_acts
SELECT act_id, at, actor, act, order_id, saga_id, reason, detail FROM orders.operator_acts
ORDER BY act_id DESC LIMIT $1;

-- name: count_live_by_version
SELECT version, count(*) AS live, min(started_at) AS oldest FROM orders.sagas
WHERE status IN ('RUNNING', 'COMPENSATING') GROUP BY version ORDER BY version;

-- Audit --------------------------------------------------------------------------------------------------------

-- name: list_orders_to_audit
-- `forgotten`: events of this age may have been dropped with their partition. `arrived_with`: the sequence up to which the
-- events are in the outbox of another cell.
SELECT o.*,
       EXISTS (SELECT 1 FROM orders.sagas AS s
               WHERE s.order_id = o.order_id AND s.status IN ('RUNNING', 'COMPENSATING')) AS live,
       coalesce(o.created_at < (SELECT max(p.closed_at) FROM orders.outbox_partitions AS p
                                WHERE p.dropped_at IS NOT NULL), false) AS forgotten,
       ARRAY(SELECT e.sequence || ' ' || e.type FROM orders.outbox AS e WHERE e.order_id = o.order_id
             ORDER BY e.sequence) AS events,
       coalesce((SELECT a.event_sequence FROM orders.arrivals AS a WHERE a.order_id = o.order_id), 0) AS arrived_with
FROM orders.orders AS o
WHERE o.order_id > $1 ORDER BY o.order_id LIMIT $2;

-- name: list_slots_elsewhere
SELECT slot, first_id FROM orders.closed_slots WHERE state IN ('gone', 'arriving', 'arrived');

-- name: confirm_reads
-- Only the commit counts: shared/postgres/connections.py:confirmed.
INSERT INTO orders.duties (duty, holder, lease_until)
VALUES ('confirm reads', '00000000-0000-0000-0000-000000000000', clock_timestamp())
ON CONFLICT (duty) DO UPDATE SET lease_until = excluded.lease_until;

-- name: read_value_at_risk
SELECT count(*) AS sagas,
       coalesce(sum(o.total_amount), 0) AS amount,
       coalesce(sum((SELECT sum((line ->> 'quantity')::bigint) FROM jsonb_array_elements(o.lines) AS line)), 0)
           AS units,
       count(o.coupon_id) AS coupons,
       coalesce(extract(epoch FROM clock_timestamp() - min(s.started_at)), 0)::float8 AS oldest_seconds,
       orders.oldest_unpublished_seconds() AS oldest_unpublished_seconds
FROM orders.sagas AS s JOIN orders.orders AS o USING (order_id)
WHERE s.status IN ('RUNNING', 'COMPENSATING');

-- name: hold_leadership
INSERT INTO orders.duties (duty, holder, lease_until)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
WHERE orders.duties.lease_until < clock_timestamp() OR orders.duties.holder = excluded.holder
RETURNING holder;

-- Backlog ------------------------------------------------------------------------------------------------------

-- name: read_backlog
SELECT orders.oldest_unpublished_seconds() AS unpublished_seconds,
       coalesce(greatest(extract(epoch FROM clock_timestamp() - (
           SELECT expires_at FROM orders.orders
           WHERE status = 'PENDING_PAYMENT' AND closing IS NULL
             -- As in list_expired: orders of a slot that moves to another cell expire there.
             AND NOT EXISTS (
                 SELECT FROM orders.closed_slots AS c WHERE c.slot = orders.slot_in(order_id) AND c.first_id <= order_id
             )
           ORDER BY expires_at LIMIT 1
       )), 0), 0)::float8 AS overdue_seconds;

-- name: read_server
-- What every role may read. Only a member of pg_monitor may read the size of the folder with the WAL.
SELECT (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database)::float8 AS connections,
       current_setting('max_connections')::float8 AS connections_max,
       pg_database_size(current_database())::float8 AS database_bytes,
       (SELECT sum(pg_table_size(relid) + pg_indexes_size(relid))
        FROM pg_partition_tree('orders.outbox'))::float8 AS outbox_bytes,
       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal_written_bytes,
       coalesce((
           SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) FROM pg_catalog.pg_replication_slots
       ), 0)::float8 AS wal_kept_bytes;

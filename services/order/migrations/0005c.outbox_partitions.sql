-- The outbox in partitions, so that published events are removed by dropping a table, never by deleting rows.
-- depends: 0005b.outbox_bound_validated
--
-- A partition has the ids from one multiple of 2^40 up to the next: its number is outbox_id >> 40. Only the sequence
-- decides which partition is filled. A rotation first attaches the next partition, and then advances the sequence. So
-- an event always finds its partition, even if no rotation ever happens. A transaction with an older id writes to the
-- older partition, which still exists.

-- The new table has the old one's name, columns and rows, so no client notices that the old one is renamed.
-- squawk-ignore-file renaming-table, renaming-object, ban-alter-identity, ban-drop-constraint

-- Everything below only changes catalogs; no event is moved.
LOCK TABLE orders.outbox IN ACCESS EXCLUSIVE MODE;

ALTER TABLE orders.outbox RENAME TO outbox_0;
ALTER TABLE orders.outbox_0 RENAME CONSTRAINT outbox_pkey TO outbox_0_pkey;
ALTER TABLE orders.outbox_0 RENAME CONSTRAINT outbox_order_id_sequence_key TO outbox_0_order_id_sequence_key;
ALTER INDEX orders.outbox_pending RENAME TO outbox_0_pending;
ALTER INDEX orders.outbox_parked RENAME TO outbox_0_parked;

CREATE TABLE orders.outbox (
    LIKE orders.outbox_0 INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING STORAGE
) PARTITION BY RANGE (outbox_id);
ALTER TABLE orders.outbox DROP CONSTRAINT outbox_partition;
-- Marking an event SENT makes a second version of it, at the same place in these trees. So half of each page is left
-- free; otherwise each page would be split. (Later partitions inherit it; in the first one it applies to new pages.)
ALTER TABLE orders.outbox ADD PRIMARY KEY (outbox_id) WITH (fillfactor = 50);
ALTER INDEX orders.outbox_0_pkey SET (fillfactor = 50);
ALTER INDEX orders.outbox_0_order_id_sequence_key SET (fillfactor = 50);
ALTER TABLE orders.outbox ALTER COLUMN outbox_id ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME orders.outbox_ids);
CREATE INDEX outbox_pending ON orders.outbox (shard, outbox_id) WHERE status = 'PENDING';
CREATE INDEX outbox_parked ON orders.outbox (shard, order_id) WHERE status = 'PARKED';
-- UNIQUE (order_id, sequence) works only within a partition, so each partition has its own (orders.attach_partition).
-- Across partitions the order's row ensures it: the update that writes the event also increments event_sequence.

DO $$
BEGIN
    PERFORM setval('orders.outbox_ids', last_value, is_called) FROM orders.outbox_outbox_id_seq;
END
$$;
ALTER TABLE orders.outbox_0 ALTER COLUMN outbox_id DROP IDENTITY;
ALTER TABLE orders.outbox ATTACH PARTITION orders.outbox_0 FOR VALUES FROM (0) TO (1099511627776);
ALTER TABLE orders.outbox_0 DROP CONSTRAINT outbox_partition;

CREATE TABLE orders.outbox_partitions (
    partition    bigint PRIMARY KEY CHECK (partition >= 0),
    attached_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    opened_at    timestamptz, -- since when the sequence returns its ids
    closed_at    timestamptz, -- since when the sequence returns later ids
    -- Virtual ids of the transactions that were writing to the outbox. Those read after the partition was attached may
    -- not see it; those read when it was closed may still write to it. Null until they are read.
    writers      text[],
    published_at timestamptz, -- when all its events were found published; final
    dropped_at   timestamptz,
    CHECK (closed_at IS NULL OR opened_at IS NOT NULL),
    CHECK (published_at IS NULL OR closed_at IS NOT NULL),
    CHECK (dropped_at IS NULL OR published_at IS NOT NULL)
);

CREATE FUNCTION orders.attach_partition(p_partition bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name text := 'outbox_' || p_partition;
BEGIN
    -- An event is inserted once and updated once: collect what that leaves long before it is a fifth of a large table.
    EXECUTE format(
        'CREATE TABLE orders.%I (LIKE orders.outbox INCLUDING ALL EXCLUDING IDENTITY,'
        ' CONSTRAINT %I UNIQUE (order_id, sequence) WITH (fillfactor = 50))'
        ' WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)',
        v_name, v_name || '_order_id_sequence_key'
    );
    EXECUTE format(
        'ALTER TABLE orders.outbox ATTACH PARTITION orders.%I FOR VALUES FROM (%s) TO (%s)',
        v_name, p_partition << 40, (p_partition + 1) << 40
    );
    INSERT INTO orders.outbox_partitions (partition) VALUES (p_partition);
END
$$;

-- Return the transactions that write to the outbox. A transaction takes this lock before it takes an id from the
-- sequence, and keeps the lock to its end. (Not a snapshot of transaction ids: a writer may not have one yet.)
CREATE FUNCTION orders.outbox_writers() RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT virtualtransaction), '{}') FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'orders.outbox'::regclass AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock')
        AND pid IS DISTINCT FROM pg_backend_pid();
$$;

-- Record which partition is being filled and which ones are closed, according to the sequence.
CREATE FUNCTION orders.note_rotation() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE orders.outbox_partitions SET opened_at = clock_timestamp()
    WHERE partition <= (SELECT last_value >> 40 FROM orders.outbox_ids) AND opened_at IS NULL;
    UPDATE orders.outbox_partitions SET closed_at = clock_timestamp(), writers = orders.outbox_writers()
    WHERE partition < (SELECT last_value >> 40 FROM orders.outbox_ids) AND closed_at IS NULL;
$$;

-- Do the next step, if one is due, towards filling another partition after p_interval_seconds. Return the step's name,
-- or null if none is due. Each call, in its own transaction, does one step: a step needs the one before to be
-- committed.
--
-- attached  the next partition exists
-- readied   the transactions that may not see it yet are recorded
-- rotated   those have ended, and the sequence returns ids of the next partition
CREATE FUNCTION orders.rotate_outbox(p_interval_seconds double precision) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms' -- while it waits for a lock on the outbox, other sessions wait behind it
AS $$
DECLARE
    v_ids record;
    v_current orders.outbox_partitions;
    v_next orders.outbox_partitions;
BEGIN
    LOCK TABLE orders.outbox_partitions IN SHARE ROW EXCLUSIVE MODE;
    PERFORM orders.note_rotation(); -- in case the previous call was interrupted
    SELECT last_value >> 40 AS partition, is_called INTO v_ids FROM orders.outbox_ids;
    SELECT * INTO v_current FROM orders.outbox_partitions WHERE partition = v_ids.partition;
    SELECT * INTO v_next FROM orders.outbox_partitions WHERE partition = v_ids.partition + 1;
    IF NOT FOUND THEN
        PERFORM orders.attach_partition(v_ids.partition + 1);
        RETURN 'attached';
    END IF;
    IF v_next.writers IS NULL THEN
        IF v_next.attached_at >= now() THEN
            RETURN NULL; -- attached in this same transaction
        END IF;
        UPDATE orders.outbox_partitions SET writers = orders.outbox_writers() WHERE partition = v_next.partition;
        RETURN 'readied';
    END IF;
    IF v_current.opened_at + make_interval(secs => p_interval_seconds) > clock_timestamp()
        OR NOT v_ids.is_called -- empty, so it can still be filled
        OR v_next.writers && orders.outbox_writers() THEN
        RETURN NULL;
    END IF;
    PERFORM setval('orders.outbox_ids', v_next.partition << 40, false);
    PERFORM orders.note_rotation();
    RETURN 'rotated';
END
$$;

-- Mark closed partitions as published when no transaction can still write to them and none of their events is pending
-- or parked: SENT and SKIPPED are final. Return the lowest id that may still have to be published.
CREATE FUNCTION orders.note_published() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    v_partition bigint;
    v_unpublished boolean;
BEGIN
    LOCK TABLE orders.outbox_partitions IN SHARE ROW EXCLUSIVE MODE;
    PERFORM orders.note_rotation();
    FOR v_partition IN
        SELECT partition FROM orders.outbox_partitions
        WHERE closed_at IS NOT NULL AND published_at IS NULL AND NOT writers && orders.outbox_writers()
        ORDER BY partition
    LOOP
        -- Queries the partition itself, so that only the index of unpublished events can be used.
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM orders.%1$I WHERE status = ''PENDING'')'
            ' OR EXISTS (SELECT FROM orders.%1$I WHERE status = ''PARKED'')', 'outbox_' || v_partition
        ) INTO v_unpublished;
        IF NOT v_unpublished THEN
            UPDATE orders.outbox_partitions SET published_at = clock_timestamp() WHERE partition = v_partition;
        END IF;
    END LOOP;
    RETURN (SELECT min(partition) << 40 FROM orders.outbox_partitions WHERE published_at IS NULL);
END
$$;

-- Drop the oldest partition that was published more than p_retention_seconds ago, and return its number; null if there
-- is none. Raises lock_not_available if the outbox is in use: other sessions would wait behind a waiting DROP, so it
-- gives up at once and the caller tries again later.
CREATE FUNCTION orders.drop_published(p_retention_seconds double precision) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    v_partition bigint;
BEGIN
    SELECT partition INTO v_partition FROM orders.outbox_partitions
    WHERE dropped_at IS NULL AND published_at + make_interval(secs => p_retention_seconds) <= clock_timestamp()
    ORDER BY partition LIMIT 1 FOR UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- First the partition, which checkouts don't use: otherwise a vacuum of it would be waited for under the outbox's
    -- lock.
    EXECUTE format('LOCK TABLE orders.%I IN ACCESS EXCLUSIVE MODE', 'outbox_' || v_partition);
    LOCK TABLE ONLY orders.outbox IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('DROP TABLE orders.%I', 'outbox_' || v_partition);
    UPDATE orders.outbox_partitions SET dropped_at = clock_timestamp() WHERE partition = v_partition;
    -- Keep the record of the last dropped partition: the audit reads up to when events may have been removed.
    DELETE FROM orders.outbox_partitions AS earlier
    WHERE dropped_at IS NOT NULL
        AND partition < (SELECT max(partition) FROM orders.outbox_partitions WHERE dropped_at IS NOT NULL);
    RETURN v_partition;
END
$$;

-- Return the age in seconds of the oldest event that the relay has not published; 0 if there is none. The oldest event
-- has the lowest id. The settings force a scan of the index of pending events, independently of the statistics.
CREATE FUNCTION orders.oldest_unpublished_seconds() RETURNS double precision
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET random_page_cost = 0
SET seq_page_cost = 0
SET jit = off
AS $$
DECLARE
    v_floor bigint := (SELECT min(partition) << 40 FROM orders.outbox_partitions WHERE published_at IS NULL);
    v_oldest timestamptz;
    v_found timestamptz;
BEGIN
    FOR v_shard IN 0..3 LOOP
        SELECT occurred_at INTO v_found FROM orders.outbox
        WHERE shard = v_shard AND status = 'PENDING' AND outbox_id >= v_floor
        ORDER BY outbox_id LIMIT 1;
        v_oldest := least(v_oldest, v_found);
    END LOOP;
    RETURN coalesce(greatest(extract(epoch FROM clock_timestamp() - v_oldest), 0), 0);
END
$$;

INSERT INTO orders.outbox_partitions (partition, opened_at) VALUES (0, '-infinity');
DO $$
BEGIN
    PERFORM orders.attach_partition(1);
END
$$;

REVOKE ALL ON FUNCTION
    orders.attach_partition, orders.outbox_writers, orders.note_rotation, orders.rotate_outbox, orders.note_published,
    orders.drop_published, orders.oldest_unpublished_seconds
FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'relay_service') THEN
        REVOKE ALL ON orders.outbox_0 FROM relay_service;
        REVOKE ALL (status, sent_at, parked_at, parked_reason) ON orders.outbox_0 FROM relay_service;
        GRANT SELECT ON orders.outbox, orders.outbox_partitions TO relay_service;
        GRANT UPDATE (status, sent_at, parked_at, parked_reason) ON orders.outbox TO relay_service;
        GRANT EXECUTE ON FUNCTION orders.rotate_outbox, orders.note_published, orders.drop_published TO relay_service;
    END IF;
END
$$;
